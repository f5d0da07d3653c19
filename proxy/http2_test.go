package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
)

// http2As returns a client that speaks HTTP/2 and nothing else, on one connection: by ALPN with an identity, by prior knowledge
// without.
func (w *world) http2As(path string) *http.Client {
	transport := &http.Transport{DisableCompression: true, Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP2(path != "")
	transport.Protocols.SetUnencryptedHTTP2(path == "")
	if path != "" {
		certificate := w.leaf(path)
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}}
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func TestHTTP2RequestIsJudgedAndForwardedLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	client := w.http2As("/web")
	a := w.get(client, w.url("inbound", "/v1/%7Eorders/./7?q=%2F"), "X-Forwarded-Client-Cert", "URI=spiffe://example.org/admin", "X-Custom", "kept")
	s := a.seen(t)
	if a.status != 200 || s.URI != "/v1/~orders/7?q=%2F" || s.Header.Get("X-Custom") != "kept" {
		t.Errorf("status %d, the service saw %+v", a.status, s)
	}
	if xfcc := s.Header.Values("X-Forwarded-Client-Cert"); len(xfcc) != 1 || !strings.HasSuffix(xfcc[0], ";URI=spiffe://example.org/web") {
		t.Errorf("X-Forwarded-Client-Cert %q", xfcc)
	}
	if denied := w.get(client, w.url("inbound", "/v1/..//%61dmin")); denied.status != 403 || denied.header.Get("X-Postern-Decision") == "" {
		t.Errorf("a denied path: %+v", denied)
	}
	w.eventually("an access log line", func() bool {
		_, ok := w.log.find("type", "request", "protocol", "HTTP/2", "path", "/v1/~orders/7", "status", 200.0)
		return ok
	})
	if n := w.metric("postern_connections_total", "direction", "accepted", "result", "ok"); n != 1 {
		t.Errorf("%v connections for requests that could share one", n)
	}
}

func TestPlaintextListenerTakesHTTP2ByPriorKnowledge(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.open(w.app(nil), ""))
	url := "http://" + w.Addr("open").String() + "/x"
	for name, client := range map[string]*http.Client{"HTTP/2": w.http2As(""), "HTTP/1.1": w.client(nil)} {
		if a := w.get(client, url); a.status != 200 {
			t.Errorf("%s: %+v", name, a)
		}
		w.eventually(name+" in the log", func() bool { _, ok := w.log.find("type", "request", "protocol", name); return ok })
	}
}

// open is a plaintext listener for anybody before an app.
func (w *world) open(app, more string) string {
	return fmt.Sprintf(`
listeners:
- name: open
  address: 127.0.0.1:0
  tls: {mode: none}
  caller: anonymous
  service: app
  routes: [{match: {}, cluster: app}]
%s
clusters: [{name: app, endpoints: ["%s"]}]
policies: [{name: app, service: app, rules: [{allow: {from: [anonymous]}}]}]
`, more, app)
}

// ticking is a service whose answers do not end by themselves.
func ticking(rw http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(rw, "tick\n"); err != nil {
			return
		}
		_ = http.NewResponseController(rw).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// follow reads an answer that does not end and tells when it has broken off.
func (w *world) follow(client *http.Client, url string) (lines *bufio.Reader) {
	w.t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	lines = bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "tick\n" {
		w.t.Fatalf("%q, %v", line, err)
	}
	return lines
}

func wantBroken(t *testing.T, lines *bufio.Reader) {
	t.Helper()
	broken := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, lines); broken <- err }()
	select {
	case err := <-broken:
		if err == nil {
			t.Error("the answer ended as if it were whole")
		}
	case <-time.After(5 * time.Second):
		t.Error("the answer goes on")
	}
}

func wantLines(t *testing.T, lines *bufio.Reader) {
	t.Helper()
	for range 5 {
		if line, err := lines.ReadString('\n'); err != nil || line != "tick\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

func TestNewPolicyEndsTheStreamsItDeniesAndNotTheirConnection(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(ticking), ""))
	client := w.http2As("/web")
	kept, cut := w.follow(client, w.url("inbound", "/kept")), w.follow(client, w.url("inbound", "/cut"))
	w.policies(`
policies: [{name: p, service: orders, rules: [{allow: {from: ["spiffe://example.org/web"], http: {paths: ["/kept", "/new"]}}}]}]`)
	wantBroken(t, cut)
	wantLines(t, kept)
	wantLines(t, w.follow(client, w.url("inbound", "/new")))
	if n := w.metric("postern_connections_total", "direction", "accepted", "result", "ok"); n != 1 {
		t.Errorf("%v connections: the streams that were allowed did not go on on theirs", n)
	}
}

func TestRevocationEndsAllStreamsOfTheConnection(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(ticking), ""))
	client, other := w.http2As("/web"), w.http2As("/web")
	first, second := w.follow(client, w.url("inbound", "/1")), w.follow(client, w.url("inbound", "/2"))
	w.follow(other, w.url("inbound", "/3"))
	serial := client.Transport.(*http.Transport).TLSClientConfig.Certificates[0].Leaf.SerialNumber
	if n := w.revoke(revocation.Serial, revocation.SerialString(serial)); n != 1 {
		t.Errorf("%d connections were closed", n)
	}
	wantBroken(t, first)
	wantBroken(t, second)
	if a, err := w.do(client, "GET", w.url("inbound", "/4"), nil); err == nil {
		t.Errorf("the revoked caller came back: %+v", a)
	}
}

// pair is two posterns in one: a local listener, and behind it over mutual TLS the one before the app.
func (w *world) pair(app string) (entry string) {
	w.apply("%s", w.sidecar(app, ""))
	inbound := w.Addr("inbound").String()
	w.apply("%s", strings.Replace(w.sidecar(app, ""), "clusters:\n", fmt.Sprintf(`- name: outbound
  address: 127.0.0.1:0
  tls: {mode: none}
  caller: self
  routes: [{match: {}, cluster: orders, allow_upgrade: [websocket]}]
clusters:
- name: orders
  endpoints: ["%s"]
  tls: {mode: mutual, identity: spiffe://example.org/web, expect: ["spiffe://example.org/orders"]}
`, inbound), 1))
	return w.Addr("outbound").String()
}

func TestPosternsSpeakHTTP2ToEachOther(t *testing.T) {
	w := newWorld(t)
	entry := w.pair(w.app(nil))
	a := w.get(w.client(nil), "http://"+entry+"/v1")
	if s := a.seen(t); a.status != 200 || !strings.Contains(s.Header.Get("X-Forwarded-Client-Cert"), "URI=spiffe://example.org/web") {
		t.Errorf("%+v", a)
	}
	w.eventually("both hops in the log", func() bool {
		_, near := w.log.find("type", "request", "listener", "outbound", "protocol", "HTTP/1.1", "status", 200.0)
		_, far := w.log.find("type", "request", "listener", "inbound", "protocol", "HTTP/2", "status", 200.0)
		return near && far
	})
}

func TestWebSocketPassesAPairThatSpeaksHTTP2(t *testing.T) {
	w := newWorld(t)
	entry := w.pair(w.app(echo))
	ws := &websocket{t: t, conn: w.dialPlain("outbound")}
	ws.upgradeWith("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	ws.wantEcho()
	_ = entry
}
