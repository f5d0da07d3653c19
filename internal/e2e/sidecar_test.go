package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/admin"
)

// mesh is examples/sidecar: an authority and the sidecars of orders and web in processes of their own, joined by tokens.
type mesh struct {
	dir                    string
	authority, orders, web *process
	app                    *httptest.Server // the orders service
	outbound, inbound      int
}

// startMesh runs the files of examples/sidecar on free ports. edit may change a file before it is used.
func startMesh(t *testing.T, app http.Handler, edit func(name, yaml string) string) *mesh {
	t.Helper()
	m := &mesh{dir: shortDir(t), app: httptest.NewServer(app)}
	t.Cleanup(m.app.Close)
	p := ports(t, 4)
	m.outbound, m.inbound = p[2], p[3]
	replace := strings.NewReplacer("127.0.0.1:18081", fmt.Sprintf("127.0.0.1:%d", p[0]), "127.0.0.1:18082", fmt.Sprintf("127.0.0.1:%d", p[1]),
		"127.0.0.1:18001", fmt.Sprintf("127.0.0.1:%d", p[2]), "127.0.0.1:18443", fmt.Sprintf("127.0.0.1:%d", p[3]),
		"127.0.0.1:18080", strings.TrimPrefix(m.app.URL, "http://"))
	if err := os.Mkdir(filepath.Join(m.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string) *process {
		data, err := os.ReadFile(filepath.Join("..", "..", "examples", "sidecar", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		yaml := replace.Replace(string(data))
		if edit != nil {
			yaml = edit(name, yaml)
		}
		write(t, filepath.Join(m.dir, name+".yaml"), yaml)
		return launch(t, m.dir, filepath.Join(m.dir, "state", name+".sock"), nil, "run", "-c", name+".yaml")
	}
	m.authority = run("authority")
	m.authority.ready()
	for _, name := range []string{"orders", "web"} {
		token := m.authority.must("token", "create", "--node", name, "--identity", "spiffe://example.org/"+name, "--quiet")
		write(t, filepath.Join(m.dir, "state", name+".token"), token)
	}
	m.orders, m.web = run("orders"), run("web")
	m.orders.ready()
	m.web.ready()
	return m
}

func (m *mesh) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", m.outbound, path) }

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

// order calls orders as web.
func (m *mesh) order(t *testing.T, method string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, m.url("/v1/orders/7"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s %s by %s", r.Method, r.URL.Path, r.Header.Get("X-Forwarded-Client-Cert"))
}

func TestTwoSidecarsWithARemoteAuthority(t *testing.T) {
	m := startMesh(t, http.HandlerFunc(hello), nil)

	allowed := m.order(t, http.MethodGet)
	if allowed.status != http.StatusOK || !strings.Contains(allowed.body, "URI=spiffe://example.org/web") {
		t.Errorf("allowed call: %+v", allowed)
	}
	denied := m.order(t, http.MethodDelete)
	id := denied.header.Get("X-Postern-Decision")
	if denied.status != http.StatusForbidden || id == "" || !strings.Contains(denied.body, id) {
		t.Errorf("denied call: %+v", denied)
	}
	if strings.Contains(denied.body, "orders") || strings.Contains(denied.body, "policy") {
		t.Errorf("the peer is told more than code and ids: %q", denied.body)
	}

	var live, described admin.Explanation
	decode(t, m.orders.must("explain", id, "-o", "json"), &live)
	if live.Effect != "deny" || live.Principal != "spiffe://example.org/web" || live.Method != "DELETE" || live.Path != "/v1/orders/7" {
		t.Errorf("explained as %+v", live)
	}
	out, code := m.orders.postern("explain", "--service", "orders", "--from", "spiffe://example.org/web", "--request", "DELETE /v1/orders/7", "-o", "json")
	decode(t, out, &described)
	if code != 1 || described.Effect != live.Effect || described.Rule != live.Rule || described.Advice != live.Advice {
		t.Errorf("exit code %d; live %+v, described %+v", code, live, described)
	}
	out, code = m.orders.postern("explain", "--service", "orders", "--from", "spiffe://example.org/web", "--request", "GET /v1/orders/7", "-o", "json")
	decode(t, out, &described)
	if code != 0 || described.Policy != "orders" || described.Rule != "allow[0]" {
		t.Errorf("exit code %d, %+v", code, described)
	}
}

func TestAJoinTokenWorksOnceAndANodeThatJoinedNeedsItNoMore(t *testing.T) {
	m := startMesh(t, http.HandlerFunc(hello), nil)
	m.web.kill()
	again := launch(t, m.dir, filepath.Join(m.dir, "state", "web.sock"), nil, "run", "-c", "web.yaml")
	again.ready()
	if got := m.order(t, http.MethodGet); got.status != http.StatusOK {
		t.Errorf("after a restart: %+v", got)
	}
	again.kill()
	if err := os.RemoveAll(filepath.Join(m.dir, "state", "web")); err != nil {
		t.Fatal(err)
	}
	thief := launch(t, m.dir, filepath.Join(m.dir, "state", "web.sock"), nil, "run", "-c", "web.yaml")
	<-thief.exited
	if code := thief.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(thief.out.String(), "token") {
		t.Errorf("a used token: exit code %d, %q", code, thief.out)
	}
}

func TestSidecarsServeOnWhileTheAuthorityIsAway(t *testing.T) {
	m := startMesh(t, http.HandlerFunc(hello), nil)
	m.authority.kill()
	for range 20 {
		if got := m.order(t, http.MethodGet); got.status != http.StatusOK {
			t.Fatalf("%+v", got)
		}
	}
	var st admin.Status
	m.web.eventually("the loss is seen", func() error {
		decode(t, m.web.must("status", "-o", "json"), &st)
		if st.Upstream == nil || st.Upstream.Connected {
			return fmt.Errorf("status %+v", st.Upstream)
		}
		return nil
	})
	m.authority = launch(t, m.dir, filepath.Join(m.dir, "state", "authority.sock"), nil, "run", "-c", "authority.yaml")
	m.authority.ready()
	m.web.eventually("followed again", func() error {
		decode(t, m.web.must("status", "-o", "json"), &st)
		if !st.Upstream.Connected {
			return fmt.Errorf("status %+v", st.Upstream)
		}
		return nil
	})
}

func TestARevokedIdentityIsCutAndRefused(t *testing.T) {
	stream := make(chan struct{})
	app := http.NewServeMux()
	app.HandleFunc("/v1/orders/{id}", hello)
	app.HandleFunc("/v1/orders", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-stream:
		}
	})
	m := startMesh(t, app, nil)
	defer close(stream)

	resp, err := http.Get(m.url("/v1/orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	m.authority.must("svid", "revoke", "--spiffe-id", "spiffe://example.org/web", "--reason", "test")
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the stream ended in order, with %q, though the message was not complete", rest)
	}
	m.orders.eventually("the next call is refused", func() error {
		if got := m.order(t, http.MethodGet); got.status == http.StatusOK {
			return errors.New("still served")
		}
		return nil
	})
	if out := m.authority.must("svid", "revoke", "list"); !strings.Contains(out, "spiffe://example.org/web") || !strings.Contains(out, "uid:") {
		t.Errorf("the revocation is listed as %q", out)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}
