package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
)

// oneLiner is "postern run --listen --to --allow" in an empty home.
func oneLiner(t *testing.T, allow string) (p *process, port int, app *recorder) {
	t.Helper()
	app = startRecorder(t, nil)
	dir := shortDir(t)
	port = ports(t, 1)[0]
	env := []string{"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	p = launch(t, dir, filepath.Join(dir, "postern", "admin.sock"), env, "run", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--to", app.addr, "--allow", allow)
	p.ready()
	return p, port, app
}

func (p *process) workloadSocket() string {
	return filepath.Join(filepath.Dir(p.socket), "workload.sock")
}

func TestOneLineIsAProxyThatServesWhomItAllows(t *testing.T) {
	p, port, app := oneLiner(t, "spiffe://local.internal/**")
	me := fetch(t, p.workloadSocket())
	resp, _, err := call(t, port, asPeer(me), plainGet)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	_, requests := app.taken()
	if len(requests) != 1 || !strings.Contains(requests[0].header.Get("X-Forwarded-Client-Cert"), "URI="+me.Leaf.URIs[0].String()) {
		t.Errorf("the app got %+v", requests)
	}
	if _, _, err := call(t, port, asPeer(), plainGet); err == nil {
		t.Error("a caller without certificate was served")
	}
}

func TestOneLineRefusesWhomItDoesNotAllow(t *testing.T) {
	p, port, app := oneLiner(t, "spiffe://local.internal/somebody/else")
	resp, _, err := call(t, port, asPeer(fetch(t, p.workloadSocket())), plainGet)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v", resp, err)
	}
	if text, _ := app.taken(); text != "" {
		t.Errorf("the app was sent %q", text)
	}
	if out, code := p.postern("explain", resp.Header.Get("X-Postern-Decision")); code != 0 || !strings.Contains(out, "spiffe://local.internal/somebody/else") {
		t.Errorf("explained with exit code %d: %s", code, out)
	}
}

func TestValidateTellsEveryErrorWithPlaceCodeAndHint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "bad.yaml")
	write(t, file, `version: 1
trust_domain: example.org
authority: {data_dir: data}
lisseners: []
listeners:
- name: in
  address: nowhere
  protocol: htp
  service: app
  routes: [{match: {}, cluster: ap}]
- name: in
  address: 127.0.0.1:1
  service: app
  routes: []
clusters:
- name: app
  endpoints: ["127.0.0.1:1"]
  connect_timeout: soon
policies:
- name: p
  service: app
  rules: [{allow: {from: ["spiffe://example.org/a b"]}}]
`)
	out, code := command(t, "validate", file)
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []struct{ place, code, text string }{
		{"4:1", "PST010", "listeners"}, {"7:12", "PST015", "nowhere"}, {"8:13", "PST014", "did you mean http"}, {"10:33", "PST031", "did you mean app"},
		{"11:9", "PST030", "in"}, {"18:20", "PST015", "soon"}, {"22:27", "PST015", "a b"},
	} {
		line := regexp.MustCompile(`(?m)^.*bad\.yaml:` + want.place + `: .*$`).FindString(out)
		if !strings.Contains(line, want.code) || !strings.Contains(line, want.text) {
			t.Errorf("at %s: %q, want %s and %q", want.place, line, want.code, want.text)
		}
	}
	if out, code := command(t, "run", "-c", file); code != 2 || strings.Count(out, "bad.yaml:") < 7 {
		t.Errorf("run: exit code %d, %s", code, out)
	}
	var listed []struct {
		Line, Column        int
		Path, Code, Message string
	}
	cmd := exec.CommandContext(t.Context(), binary, "validate", "--format", "json", file)
	stdout, _ := cmd.Output() // it fails, and says so on stderr
	if err := json.Unmarshal(stdout, &listed); err != nil || len(listed) < 7 || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("as JSON: exit code %d, %v, %d errors", cmd.ProcessState.ExitCode(), err, len(listed))
	}
	for _, e := range listed {
		if e.Line == 0 || e.Column == 0 || e.Path == "" || e.Code == "" || e.Message == "" {
			t.Errorf("incomplete: %+v", e)
		}
	}
	if out, code := command(t, "validate", filepath.Join(dir, "none.yaml")); code != 2 || !strings.Contains(out, "none.yaml") {
		t.Errorf("a file that is not there: exit code %d, %s", code, out)
	}
	write(t, file, gateway(1, "127.0.0.1:2", "/", ""))
	if out, code := command(t, "validate", file); code != 0 {
		t.Errorf("a good file: exit code %d, %s", code, out)
	}
}

func TestFmtKeepsCommentsAndSettlesAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	write(t, file, `# above all
version:   1   # the version

trust_domain: "example.org"
# about the listeners
listeners:
   - address: "127.0.0.1:1"     # where
     name: in
     service:   app
     tls: { mode: none }   # plain
     caller: anonymous
     routes:
     # the only one
     -   match: {}
         cluster: app
clusters: [ {name: app, endpoints: [ "127.0.0.1:2" ]} ] # one
# the end
`)
	once, code := command(t, "fmt", file)
	if code != 0 {
		t.Fatalf("exit code %d, %s", code, once)
	}
	for _, comment := range []string{"# above all", "# the version", "# about the listeners", "# where", "# plain", "# the only one", "# one", "# the end"} {
		if strings.Count(once, comment+"\n") != 1 {
			t.Errorf("the comment %q is there %d times in\n%s", comment, strings.Count(once, comment+"\n"), once)
		}
	}
	if before, _ := os.ReadFile(file); string(before) == once {
		t.Error("nothing was formatted")
	}
	_, before := command(t, "validate", file)
	if out, code := command(t, "fmt", "-w", file); code != 0 {
		t.Fatalf("fmt -w: exit code %d, %s", code, out)
	}
	written, err := os.ReadFile(file)
	if err != nil || string(written) != once {
		t.Errorf("fmt -w wrote something else than fmt prints: %v\n%s", err, written)
	}
	if twice, _ := command(t, "fmt", file); twice != once {
		t.Errorf("formatted once:\n%s\nand twice:\n%s", once, twice)
	}
	if out, after := command(t, "validate", file); after != before {
		t.Errorf("validate said %d before and %d after: %s", before, after, out)
	}
}

func TestSchemaIsJSONSchema(t *testing.T) {
	out, code := command(t, "schema")
	var schema struct {
		Schema     string `json:"$schema"`
		Properties map[string]any
	}
	if err := json.Unmarshal([]byte(out), &schema); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	if schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.Properties["listeners"] == nil || schema.Properties["trust_domain"] == nil {
		t.Errorf("schema %q with %d properties", schema.Schema, len(schema.Properties))
	}
}

func TestExitCodesTellUsageFromFailureAndFromNoAnswer(t *testing.T) {
	p, _ := quickStart(t)
	p.ready()
	if out, code := p.postern("healthcheck"); code != 0 {
		t.Errorf("healthcheck of a ready process: exit code %d, %s", code, out)
	}
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, test := range []struct {
		code int
		args []string
	}{
		{3, []string{"--admin-address", none, "healthcheck"}},
		{3, []string{"--admin-address", none, "status"}},
		{3, []string{"--admin-address", none, "entry", "list"}},
		{3, []string{"svid", "fetch", "--socket", none, "--timeout", "1s"}},
		{2, []string{"no-such-command"}},
		{2, []string{"entry", "no-such-command"}},
		{2, []string{"status", "--no-such-flag"}},
		{2, []string{"status", "too", "many"}},
		{2, []string{"--admin-address", p.socket, "status", "-o", "xml"}},
		{2, []string{"--admin-address", p.socket, "entry", "create"}},
		{2, []string{"--admin-address", p.socket, "entry", "create", "--spiffe-id", "not an id", "--selector", "unix:uid:1"}},
		{2, []string{"--admin-address", p.socket, "entry", "create", "--spiffe-id", "spiffe://local.internal/a", "--selector", "uid"}},
		{2, []string{"run", "--to", "127.0.0.1:1"}},
		{2, []string{"run", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2", "--allow", "no pattern"}},
		{1, []string{"--admin-address", p.socket, "entry", "show", "none"}},
		{0, []string{"version"}},
		{0, []string{"completion", "bash"}},
	} {
		if out, code := command(t, test.args...); code != test.code || strings.TrimSpace(out) == "" {
			t.Errorf("postern %s: exit code %d, want %d; %q", strings.Join(test.args, " "), code, test.code, out)
		}
	}
}

func TestSVIDFetchWritesFilesThatServeAsCredentials(t *testing.T) {
	p, endpoint := quickStart(t)
	p.ready()
	dir := filepath.Join(t.TempDir(), "out")
	if out, code := command(t, "svid", "fetch", "--socket", endpoint, "--write", dir); code != 0 {
		t.Fatalf("exit code %d, %s", code, out)
	}
	for name, mode := range map[string]os.FileMode{"svid.key": 0o600, "svid.pem": 0, "bundle.pem": 0} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || mode != 0 && info.Mode().Perm() != mode || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "svid.key"))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatalf("bundle.pem is %q", bundle)
	}
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	out, code := command(t, "svid", "show", filepath.Join(dir, "svid.pem"))
	if code != 0 || !strings.Contains(out, pair.Leaf.URIs[0].String()) || !strings.Contains(out, pair.Leaf.SerialNumber.Text(16)) {
		t.Errorf("exit code %d, %s", code, out)
	}
	if out, code := command(t, "svid", "show", filepath.Join(dir, "svid.key")); code == 0 || strings.Contains(out, "PRIVATE") {
		t.Errorf("a key shown as certificate: exit code %d, %s", code, out)
	}
}

func TestTheLifeOfAnEntryOnTheCommandLine(t *testing.T) {
	p, _ := quickStart(t)
	p.ready()
	one := func(text string) admin.Entry {
		t.Helper()
		var e admin.Entry
		if err := json.Unmarshal([]byte(text), &e); err == nil {
			return e
		}
		t.Errorf("one entry is not printed as one object: %s", text)
		var list []admin.Entry
		if decode(t, text, &list); len(list) != 1 {
			t.Fatalf("%d entries in %s", len(list), text)
		}
		return list[0]
	}
	e := one(p.must("entry", "create", "--spiffe-id", "spiffe://local.internal/web", "--selector", "unix:uid:4242", "--selector", "unix:gid:4343",
		"--owner", "team-web", "--purpose", "shop", "--ttl", "30m", "-o", "json"))
	if e.ID == "" || e.Revision == 0 || e.Owner != "team-web" || e.TTL != 30*time.Minute {
		t.Fatalf("created %+v", e)
	}
	// The same again, with its selectors in another order, is the same.
	if out := p.fails("entry", "create", "--spiffe-id", "spiffe://local.internal/web", "--selector", "unix:gid:4343", "--selector", "unix:uid:4242"); !strings.Contains(out, e.ID) {
		t.Errorf("the duplicate is refused with %q, which does not name %s", out, e.ID)
	}
	updated := one(p.must("entry", "update", e.ID, "--owner", "team-shop", "--revision", fmt.Sprint(e.Revision), "-o", "json"))
	if updated.Owner != "team-shop" || updated.Purpose != "shop" || updated.TTL != e.TTL || updated.Revision <= e.Revision || !slices.Equal(updated.Selectors, e.Selectors) {
		t.Errorf("updated to %+v", updated)
	}
	stale := p.fails("entry", "update", e.ID, "--owner", "late", "--revision", fmt.Sprint(e.Revision))
	if !strings.Contains(stale, "revision") {
		t.Errorf("an update of a stale revision is refused with %q", stale)
	}
	shown := one(p.must("entry", "show", e.ID, "-o", "json"))
	if shown.Owner != "team-shop" || shown.Revision != updated.Revision {
		t.Errorf("after the stale update: %+v", shown)
	}
	if out := p.must("entry", "show", e.ID, "-o", "yaml"); !strings.Contains(out, "owner: team-shop") {
		t.Errorf("as YAML: %s", out)
	}
	if out := p.must("entry", "list"); !strings.Contains(out, "spiffe://local.internal/web") || !strings.Contains(out, "unix:uid:4242") {
		t.Errorf("list: %s", out)
	}
	p.must("entry", "delete", e.ID)
	p.fails("entry", "show", e.ID)
	p.fails("entry", "delete", e.ID)
	p.fails("entry", "update", e.ID, "--owner", "nobody")
	if out := p.must("entry", "list"); strings.Contains(out, e.ID) {
		t.Errorf("list after the end: %s", out)
	}
	for what, id := range map[string]string{"another trust domain": "spiffe://example.org/web", "no path": "spiffe://local.internal"} {
		if out, code := p.postern("entry", "create", "--spiffe-id", id, "--selector", "unix:uid:1"); code == 0 {
			t.Errorf("%s was taken: %s", what, out)
		}
	}
}

// Only root and the uid that postern runs as administer, as the kernel tells: not even a socket that was opened to all changes that.
func TestTheAdminSocketServesNoOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root can become another user")
	}
	p, _ := quickStart(t)
	p.ready()
	info, err := os.Stat(p.socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	dir := filepath.Dir(filepath.Dir(p.socket))
	program := filepath.Join(dir, "program") // where everybody may run it
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil { //nolint:gosec // it is to be run by others
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // likewise
		t.Fatal(err)
	}
	asNobody := func(args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--admin-address", p.socket}, args...)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := asNobody("version"); code != 0 {
		t.Fatalf("the program does not run as another user: %d, %s", code, out)
	}
	for _, mode := range []os.FileMode{0o600, 0o777} {
		if err := os.Chmod(p.socket, mode); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"status"}, {"entry", "list"}, {"ca", "rotate", "root"}, {"token", "create", "--node", "thief"}, {"reload"}, {"healthcheck"},
			{"entry", "create", "--spiffe-id", "spiffe://local.internal/thief", "--selector", "unix:uid:65534"}} {
			out, code := asNobody(args...)
			if code == 0 || strings.Contains(out, "spiffe://") {
				t.Errorf("mode %v, %v as another user: exit code %d, %s", mode, args, code, out)
			}
			if mode == 0o777 {
				t.Logf("%v: %d, %s", args, code, strings.TrimSpace(out))
			}
		}
	}
	if out := p.must("entry", "list"); strings.Contains(out, "thief") {
		t.Errorf("entries afterwards: %s", out)
	}
}

// notifications is a NOTIFY_SOCKET, as systemd makes one.
type notifications struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func listenNotify(t *testing.T) *notifications {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &notifications{t, conn, path}
}

// await reads to a message that has the line, and returns it.
func (n *notifications) await(line string) string {
	n.t.Helper()
	_ = n.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 4096)
	for {
		size, err := n.conn.Read(buf)
		if err != nil {
			n.t.Fatalf("%s was never said: %v", line, err)
		}
		if slices.Contains(strings.Split(string(buf[:size]), "\n"), line) {
			return string(buf[:size])
		}
	}
}

func TestSystemdIsToldOfReadinessReloadAndTheEnd(t *testing.T) {
	n := listenNotify(t)
	app := startRecorder(t, nil)
	dir := shortDir(t)
	write(t, filepath.Join(dir, "gateway.yaml"), gateway(ports(t, 1)[0], app.addr, "/", ""))
	p := launch(t, dir, filepath.Join(dir, "gateway.sock"), []string{"NOTIFY_SOCKET=" + n.path}, "run", "-c", "gateway.yaml")
	n.await("READY=1")
	if st, err := p.admin.Status(t.Context()); err != nil || !st.Ready {
		t.Errorf("said to be ready with status %+v, %v", st, err)
	}
	reload := func(how string) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		// sd_notify(3): RELOADING=1 has to come with MONOTONIC_USEC, else Type=notify-reload does not take it.
		if said := n.await("RELOADING=1"); !regexp.MustCompile(`(?m)^MONOTONIC_USEC=[1-9][0-9]*$`).MatchString(said) {
			t.Errorf("%s: %q has no MONOTONIC_USEC", how, said)
		}
		n.await("READY=1")
	}
	reload("a good file")
	write(t, filepath.Join(dir, "gateway.yaml"), "broken")
	reload("a broken file") // systemd waits for READY=1 all the same
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.await("STOPPING=1")
	<-p.exited
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

func TestASecondProcessOnTheSameStateIsToldSoAndHarmsNothing(t *testing.T) {
	p, port, app := oneLiner(t, "spiffe://local.internal/**")
	dir := p.cmd.Dir
	for what, env := range map[string][]string{
		"with the same sockets": {"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")},
		"with other sockets":    {"XDG_RUNTIME_DIR=" + shortDir(t), "XDG_STATE_HOME=" + filepath.Join(dir, "state")},
	} {
		second := launch(t, dir, filepath.Join(dir, "second.sock"), env, "run")
		select {
		case <-second.exited:
		case <-time.After(patience):
			t.Fatalf("%s it still runs: %s", what, second.out)
		}
		said := second.out.String()
		if code := second.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(said, filepath.Join(dir, "state")) || !strings.Contains(said, "another process") {
			t.Errorf("%s: exit code %d, %q", what, code, said)
		}
		if strings.Contains(said, "panic") || strings.Count(strings.TrimSpace(said), "\n") > 3 {
			t.Errorf("%s it says more than the error: %q", what, said)
		}
	}
	p.ready()
	if resp, _, err := call(t, port, asPeer(fetch(t, p.workloadSocket())), plainGet); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the first process afterwards: %v, %v", resp, err)
	}
	app.taken()
	// The same for an address that is taken: an error that names it, at once.
	other := shortDir(t)
	third := launch(t, other, filepath.Join(other, "none.sock"), []string{"XDG_RUNTIME_DIR=" + other, "XDG_STATE_HOME=" + filepath.Join(other, "state")},
		"run", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--to", app.addr, "--allow", "spiffe://local.internal/**")
	select {
	case <-third.exited:
		if code := third.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(third.out.String(), fmt.Sprint(port)) {
			t.Errorf("an address that is taken: exit code %d, %q", code, third.out)
		}
	case <-time.After(patience):
		t.Errorf("an address that is taken: it still runs: %s", third.out)
	}
}

func TestTerminationEndsWithZeroAndLeavesNoSocket(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p, _, _ := oneLiner(t, "spiffe://local.internal/**")
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.exited:
		case <-time.After(patience):
			t.Fatalf("%v: it still runs", signal)
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%v: exit code %d", signal, code)
		}
		for _, socket := range []string{p.socket, p.workloadSocket()} {
			if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v: %s was left behind: %v", signal, socket, err)
			}
		}
	}
}
