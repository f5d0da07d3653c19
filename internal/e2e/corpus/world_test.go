package corpus

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/testkit"
)

// world is a running postern between the cases and the upstreams.
type world struct {
	t         *testing.T
	admin     *admin.Client
	log       string
	ports     map[string]int // of listeners
	upstreams map[string]*upstream
	caller    tls.Certificate
	out       *output
	exited    chan struct{}
}

// Listeners; each stands there twice, with an upstream of HTTP/1.1 and with one of HTTP/2.
const (
	open   = "open"   // allows everything but what a deny names
	exact  = "exact"  // allows one path, one host and one header, each exactly
	relax  = "relax"  // open, with routes that take forms of paths that are refused elsewhere
	mutual = "mutual" // open, for callers with an SVID
)

// kinds of upstreams: the end of a listener's name, and of a cluster's.
var kinds = []struct{ suffix, protocol string }{{"-h1", "http1"}, {"-h2", "h2c"}}

const openRules = `[{allow: {from: [anonymous, "spiffe://example.test/**"]}},
  {deny: {http: {paths: ["/admin", "/admin/{rest...}"]}}}, {deny: {http: {headers: {x-role: guest}}}},
  {deny: {http: {hosts: [internal.example.test]}}}, {deny: {http: {methods: [DELETE]}}}]`

const config = `version: 1
trust_domain: example.test
identity: {source: files, files: {certificate: svid.pem, key: svid.key, bundle: ca.pem}}
timeouts: {head: 2s, idle: 8s, body_idle: 2s}
admin: {socket: corpus.sock}
access_log: {path: access.log}
policies:
- {name: open, service: open, rules: ` + openRules + `}
- {name: exact, service: exact, rules: [{allow: {from: [anonymous], http: {methods: [GET, POST], paths: [/ok, "/ok/{name}"], hosts: [app.example.test], headers: {x-tier: gold}}}}]}
- {name: relax, service: relax, rules: ` + openRules + `}
- {name: mutual, service: mutual, rules: ` + openRules + `}
`

// startWorld runs postern with every listener, and the upstreams. A port that somebody took meanwhile is no failure yet.
func startWorld(t *testing.T) *world {
	t.Helper()
	for range 5 {
		w := newWorld(t)
		if err := w.ready(); err == nil {
			return w
		} else if !strings.Contains(w.out.String(), "address already in use") {
			t.Fatalf("%v\n%s", err, w.out)
		}
	}
	t.Fatal("there are no free ports")
	return nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "pst") //nolint:usetesting // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, log: filepath.Join(dir, "access.log"), ports: map[string]int{}, upstreams: map[string]*upstream{},
		out: &output{}, exited: make(chan struct{}), admin: admin.NewClient(filepath.Join(dir, "corpus.sock"))}
	ca := testkit.NewCA(t, "example.test")
	own := ca.Leaf(t, testkit.WithURIs(ca.ID(t, "/proxy").String()))
	w.caller = ca.Leaf(t, testkit.WithURIs(ca.ID(t, "/caller").String()))
	write(t, dir, "svid.pem", testkit.ChainPEM(own))
	write(t, dir, "svid.key", testkit.KeyPEM(t, own))
	write(t, dir, "ca.pem", ca.RootPEM())
	write(t, dir, "corpus.yaml", []byte(w.configure()))

	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "run", "-c", "corpus.yaml")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, w.out, w.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(w.exited)
	}()
	t.Cleanup(func() {
		w.admin.Close()
		_ = cmd.Process.Kill()
		<-w.exited
		if t.Failed() {
			t.Logf("postern printed:\n%s", w.out)
		}
	})
	return w
}

// ready waits until the process says that it is.
func (w *world) ready() error {
	return w.soon(func() error {
		st, err := w.admin.Status(w.t.Context())
		if err == nil && !st.Ready {
			err = fmt.Errorf("waits for %v", st.NotReady)
		}
		return err
	})
}

// configure starts the upstreams and writes the configuration around them.
func (w *world) configure() string {
	var listeners, clusters strings.Builder
	free := freePorts(w.t, 8)
	for _, k := range kinds {
		kind, protocol := k.suffix, k.protocol
		serve := serveHTTP1
		if protocol == "h2c" {
			serve = serveHTTP2
		}
		const more = "response_timeout: 3s, outliers: {failures: 0}"
		naive, liar := startUpstream(w.t, serve), startUpstream(w.t, serve)
		liar.lie = lieOf
		w.upstreams["naive"+kind] = naive
		fmt.Fprintf(&clusters, "- {name: naive%s, protocol: %s, endpoints: [%q], %s, retries: {attempts: 0}}\n", kind, protocol, naive.addr, more)
		var lying strings.Builder
		for i, l := range lies() {
			if (l.frames != nil) == (protocol == "h2c") {
				fmt.Fprintf(&clusters, "- {name: liar%s-%d, protocol: %s, endpoints: [%q], %s, retries: {attempts: 1}}\n", kind, i, protocol, liar.addr, more)
				fmt.Fprintf(&lying, "  - {match: {path_prefix: /lie/%d}, cluster: liar%s-%[1]d, timeout: 4s}\n", i, kind)
			}
		}
		for _, name := range []string{open, exact, relax, mutual} {
			port := free[0]
			free = free[1:]
			w.ports[name+kind] = port
			security := "caller: anonymous, tls: {mode: none}"
			if name == mutual {
				security = "tls: {mode: mutual}"
			}
			fmt.Fprintf(&listeners, "- name: %s%s\n  address: 127.0.0.1:%d\n  service: %s\n  %s\n  routes:\n", name, kind, port, name,
				strings.ReplaceAll(security, ", tls", "\n  tls"))
			fmt.Fprintf(&listeners, "  - {match: {}, cluster: naive%s}\n  - {match: {path_prefix: /ws}, cluster: naive%[1]s, allow_upgrade: [websocket]}\n", kind)
			if name == open {
				listeners.WriteString(lying.String())
			}
			if name != relax {
				continue
			}
			for _, form := range []string{"encoded_slash", "encoded_percent", "semicolon", "encoded_backslash", "empty_segments"} {
				fmt.Fprintf(&listeners, "  - {match: {path_prefix: /%s}, cluster: naive%s, relax: [%[1]s]}\n", form, kind)
			}
			fmt.Fprintf(&listeners, "  - {match: {path_prefix: /every}, cluster: naive%s, relax: [encoded_slash, encoded_percent, semicolon, encoded_backslash, empty_segments]}\n", kind)
		}
	}
	return config + "listeners:\n" + listeners.String() + "clusters:\n" + clusters.String()
}

// dial returns how to reach a listener from an address of loopback that no other case has, so that the access log tells them apart.
func (w *world) dial(listener string, number int) dialer {
	address := fmt.Sprintf("127.0.0.1:%d", w.ports[listener])
	from := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 7, byte(number>>8), byte(number))}}
	return func(h2 bool) (net.Conn, error) {
		conn, err := from.DialContext(w.t.Context(), "tcp", address)
		if err != nil || !strings.HasPrefix(listener, mutual) {
			return conn, err
		}
		config := &tls.Config{Certificates: []tls.Certificate{w.caller}, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, //nolint:gosec // the proxy's identity is not what is tested
			MinVersion: tls.VersionTLS13}
		if h2 {
			config.NextProtos = []string{"h2"}
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(w.t.Context()); err != nil {
			return nil, err
		}
		if got := secured.ConnectionState().NegotiatedProtocol; got != config.NextProtos[0] {
			return nil, fmt.Errorf("ALPN chose %q", got)
		}
		return secured, nil
	}
}

// line is a line of the access log about a request.
type line struct {
	Type      string `json:"type"`
	RequestID string `json:"request_id"`
	Listener  string `json:"listener"`
	Source    string `json:"source"`
	Method    string `json:"method"`
	Host      string `json:"host"`
	Path      string `json:"path"`
	Status    int    `json:"status"`
	Effect    string `json:"effect"`
	Decision  string `json:"decision"`
	Reason    string `json:"reason"`
	Cause     string `json:"cause"`
}

// lines reads the access log.
func (w *world) lines() (list []line) {
	data, err := os.ReadFile(w.log)
	if err != nil {
		w.t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		if !strings.HasSuffix(text, "\n") {
			break // half written
		}
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			w.t.Fatalf("access log: %v in %q", err, text)
		}
		if l.Type == "request" {
			list = append(list, l)
		}
	}
	return list
}

// soon asks until there is no error, or the process ends, or 20 seconds have passed.
func (w *world) soon(ask func() error) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-w.exited:
			return errors.New("the process ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// output is what the process prints; safe to read while it runs.
type output struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePorts returns n free ports on loopback.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	list := make([]int, n)
	for i := range list {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		list[i] = l.Addr().(*net.TCPAddr).Port
	}
	return list
}
