package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/testkit"
)

// tcpService answers everything it was sent, once it has read to the end; until then it sends each line back at once.
type tcpService struct {
	addr  string
	taken chan string // the whole of what each connection sent
}

func startTCPService(t *testing.T) *tcpService {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &tcpService{addr: l.Addr().String(), taken: make(chan string, 64)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *tcpService) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var all bytes.Buffer
	_, err := io.Copy(conn, io.TeeReader(conn, &all))
	s.taken <- all.String()
	if err == nil {
		_, _ = io.WriteString(conn, "goodbye")
	}
}

// next is what the next connection to end had sent.
func (s *tcpService) next(t *testing.T) string {
	t.Helper()
	select {
	case got := <-s.taken:
		return got
	case <-time.After(patience):
		t.Fatal("the service still waits for the end of a connection")
		return ""
	}
}

// tcpGate is a mutual TLS listener of protocol tcp in front of a service, and what a client may be.
type tcpGate struct {
	*process
	ca   *testkit.CA
	port int
	dir  string
	log  string
	app  *tcpService
	yaml func(allowed ...string) string
}

func startTCPGate(t *testing.T, allowed ...string) *tcpGate {
	t.Helper()
	ca := testkit.NewCA(t, "example.org")
	g := &tcpGate{ca: ca, port: ports(t, 1)[0], dir: shortDir(t), app: startTCPService(t)}
	g.log = filepath.Join(g.dir, "access.log")
	identity := credentialFiles(t, g.dir, "own", ca, leafOf(t, ca, "/db"))
	g.yaml = func(allowed ...string) string {
		return fmt.Sprintf(`version: 1
trust_domain: example.org
%slisteners: [{name: in, address: "127.0.0.1:%d", protocol: tcp, service: db, cluster: db}]
clusters: [{name: db, endpoints: ["%s"]}]
policies: [{name: db, service: db, rules: [{allow: {from: ["%s"], tcp: {}}}]}]
admin: {socket: gate.sock}
access_log: {path: access.log}
`, identity, g.port, g.app.addr, strings.Join(allowed, `", "`))
	}
	g.process = start(t, g.dir, "gate", g.yaml(allowed...))
	return g
}

func (g *tcpGate) dial(t *testing.T, as string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.port), asPeer(leafOf(t, g.ca, as)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// echoes sends a line and wants it back.
func echoes(conn net.Conn, line string) error {
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != line {
		return fmt.Errorf("sent %q, got %q", line, back)
	}
	return nil
}

// Client, outbound sidecar, mutual TLS, inbound sidecar, service: all bytes arrive, both ways, and each side may end its own half.
func TestBytesAndHalfClosePassThroughTwoSidecars(t *testing.T) {
	g := startTCPGate(t, "spiffe://example.org/web")
	out := ports(t, 1)[0]
	start(t, g.dir, "out", fmt.Sprintf(`version: 1
trust_domain: example.org
%slisteners: [{name: out, address: "127.0.0.1:%d", protocol: tcp, caller: self, tls: {mode: none}, cluster: db}]
clusters: [{name: db, endpoints: ["127.0.0.1:%d"], tls: {mode: mutual, expect: ["spiffe://example.org/db"]}}]
admin: {socket: out.sock}
`, credentialFiles(t, g.dir, "web", g.ca, leafOf(t, g.ca, "/web")), out, g.port))

	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", out))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(2 * patience))
	conn := raw.(*net.TCPConn)
	if err := echoes(conn, "a line\n"); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if err == nil {
			err = conn.CloseWrite() // our half ends; theirs goes on
		}
		sent <- err
	}()
	back, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, append(bytes.Clone(data), "goodbye"...)) {
		t.Errorf("sent %d bytes, got %d back, want them and the goodbye that the service says after our end", len(data), len(back))
	}
	if got := g.app.next(t); got != "a line\n"+string(data) {
		t.Errorf("the service got %d bytes of %d", len(got), len(data)+7)
	}
	flow := g.record(g.log, "type", "flow", "direction", "accepted", "peer", "spiffe://example.org/web")
	if flow["bytes_in"] != float64(len(data)+7) || flow["bytes_out"] != float64(len(back)+7) || flow["decision"] == nil || flow["cluster"] != "db" {
		t.Errorf("recorded as %v", flow)
	}
}

func TestAConnectionIsJudgedByTheCallersIdentityBeforeAByteOfItIsPassedOn(t *testing.T) {
	g := startTCPGate(t, "spiffe://example.org/web")
	if err := echoes(g.dial(t, "/web"), "allowed\n"); err != nil {
		t.Errorf("allowed caller: %v", err)
	}
	denied := g.dial(t, "/batch")
	source := denied.LocalAddr().String()
	_, _ = io.WriteString(denied, "secret\n")
	if rest, err := io.ReadAll(denied); len(rest) > 0 || isTimeout(err) {
		t.Errorf("a denied caller read %q, %v", rest, err)
	}
	flow := g.record(g.log, "type", "flow", "direction", "accepted", "source", source)
	decision, _ := flow["decision"].(string)
	if flow["close"] != "denied" || flow["peer"] != "spiffe://example.org/batch" || decision == "" {
		t.Errorf("recorded as %v", flow)
	}
	var described, live admin.Explanation
	decode(t, g.fails("explain", "--service", "db", "--from", "spiffe://example.org/batch", "--tcp", "-o", "json"), &described)
	out, _ := g.postern("explain", decision, "-o", "json")
	decode(t, out, &live)
	if described.Effect != "deny" || live.Effect != "deny" || live.Principal != "spiffe://example.org/batch" || live.Advice != described.Advice {
		t.Errorf("explained as %+v, described as %+v", live, described)
	}
	if err := echoes(g.dial(t, "/web"), "allowed\n"); err != nil {
		t.Errorf("allowed caller afterwards: %v", err)
	}
	if flows := accessLines(t, g.log, "type", "flow", "direction", "dialled"); len(flows) > 2 {
		t.Errorf("the service was dialled for the denied caller: %v", flows)
	}
}

// fails is postern for a command that has to end with 1: a check failed.
func (p *process) fails(args ...string) string {
	p.t.Helper()
	out, code := p.postern(args...)
	if code != 1 {
		p.t.Errorf("postern %s: exit code %d, want 1\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Revocation bites (promise 3): a policy that denies what is open closes it within a second, and nothing else.
func TestAPolicyChangeClosesTheConnectionsItDeniesAndNoOthers(t *testing.T) {
	g := startTCPGate(t, "spiffe://example.org/web", "spiffe://example.org/batch")
	web, batch := g.dial(t, "/web"), g.dial(t, "/batch")
	for _, conn := range []*tls.Conn{web, batch} {
		if err := echoes(conn, "before\n"); err != nil {
			t.Fatal(err)
		}
	}
	source := web.LocalAddr().String()
	write(t, filepath.Join(g.dir, "gate.yaml"), g.yaml("spiffe://example.org/batch"))
	began := time.Now()
	g.must("reload")
	_, err := web.Read(make([]byte, 1))
	took := time.Since(began)
	if err == nil || isTimeout(err) || took > time.Second {
		t.Errorf("the denied connection ended after %s with %v, want within a second", took, err)
	}
	t.Logf("closed %s after the reload was asked for", took)
	if err := echoes(batch, "after\n"); err != nil {
		t.Errorf("the connection that is allowed still: %v", err)
	}
	if flow := g.record(g.log, "type", "flow", "direction", "accepted", "source", source); flow["close"] != "policy_changed" {
		t.Errorf("recorded as %v", flow)
	}
	// A policy that is gone allows nothing: the last connection ends too.
	write(t, filepath.Join(g.dir, "gate.yaml"), strings.Replace(g.yaml("spiffe://example.org/batch"), "policies:", "#policies:", 1))
	began = time.Now()
	g.must("reload")
	if _, err := batch.Read(make([]byte, 1)); err == nil || isTimeout(err) || time.Since(began) > time.Second {
		t.Errorf("without any policy the connection ended after %s with %v", time.Since(began), err)
	}
}

func TestAnAutoListenerTellsHTTPFromOtherBytes(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	web, raw := startRecorder(t, nil), startTCPService(t)
	dir, p := shortDir(t), ports(t, 2)
	proxy := start(t, dir, "auto", fmt.Sprintf(`version: 1
trust_domain: example.org
%slisteners:
- {name: mutual, address: "127.0.0.1:%d", protocol: auto, service: app, routes: [{match: {}, cluster: web}], cluster: raw}
- {name: plain, address: "127.0.0.1:%d", protocol: auto, service: open, caller: anonymous, tls: {mode: none}, routes: [{match: {}, cluster: web}], cluster: raw}
clusters: [{name: web, endpoints: ["%s"]}, {name: raw, endpoints: ["%s"]}]
policies:
- {name: app, service: app, rules: [{allow: {from: ["spiffe://example.org/web"], http: {methods: [GET]}}}, {allow: {from: ["spiffe://example.org/web"], tcp: {}}}, {allow: {from: ["spiffe://example.org/reader"], http: {}}}]}
- {name: open, service: open, rules: [{allow: {from: [anonymous], http: {}}}, {allow: {from: [anonymous], tcp: {}}}]}
admin: {socket: auto.sock}
`, credentialFiles(t, dir, "own", ca, leafOf(t, ca, "/orders")), p[0], p[1], web.addr, raw.addr))

	dial := func(as string) *rawConn {
		if as == "" {
			return dialRaw(t, p[1])
		}
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p[0]), asPeer(leafOf(t, ca, as)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return newRawConn(conn)
	}
	for _, as := range []string{"", "/web"} {
		conn := dial(as)
		for range 2 {
			conn.send(t, "GET /page HTTP/1.1\r\nHost: app\r\n\r\n")
			if resp, body := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != "/page" {
				t.Errorf("HTTP as %q: %s %q", as, resp.Status, body)
			}
		}
		for _, first := range []string{"hello, not HTTP\n", "\x00\x01\x02\xff\n", "SSH-2.0-x\r\n"} {
			if err := echoes(dial(as), first); err != nil {
				t.Errorf("raw bytes %q as %q: %v", first, as, err)
			}
		}
		// A request in pieces is a request.
		conn = dial(as)
		for _, piece := range []string{"G", "ET /pie", "ces HTTP/1.1\r\nHo", "st: app\r\n\r\n"} {
			conn.send(t, piece)
		}
		if resp, body := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != "/pieces" {
			t.Errorf("in pieces as %q: %s %q", as, resp.Status, body)
		}
	}
	// What is judged is what it is: a caller with HTTP only gets no raw connection.
	reader := dial("/reader")
	reader.send(t, "raw secret\n")
	if rest, err := io.ReadAll(reader.in); len(rest) > 0 || isTimeout(err) {
		t.Errorf("a caller allowed HTTP only read %q, %v", rest, err)
	}
	web.taken()
	// Malformed HTTP is HTTP: it is refused, not passed on as raw bytes.
	bad := dial("/web")
	bad.send(t, "GET /admin HTTP/1.1\nHost: app\n\n")
	if resp, _ := bad.answer(t, http.MethodGet); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("malformed HTTP: %s", resp.Status)
	}
	proxy.kill() // ends the six raw connections
	for range 6 {
		if got := raw.next(t); strings.Contains(got, "secret") || strings.Contains(got, "HTTP/1.1") {
			t.Errorf("the raw service got %q", got)
		}
	}
	select {
	case got := <-raw.taken:
		t.Errorf("the raw service got one connection more, with %q", got)
	default:
	}
}
