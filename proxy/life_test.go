package proxy

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/proxy/registry"
)

// echo upgrades to a stream that answers with what it gets.
func echo(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		_, _ = io.WriteString(rw, "plain")
		return
	}
	conn, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	accept := ""
	if key := r.Header.Get("Sec-WebSocket-Key"); key != "" { // RFC 6455, Section 4.2.2
		sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		accept = "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+accept+"\r\n")
	_, _ = io.Copy(conn, buf)
}

// websocket is an upgraded connection.
type websocket struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func (w *world) websocket(caller string) *websocket {
	w.t.Helper()
	ws := &websocket{t: w.t, conn: w.dialTLS("inbound", w.leaf(caller))}
	ws.upgrade()
	return ws
}

func (ws *websocket) upgrade() { ws.t.Helper(); ws.upgradeWith("") }

// upgradeWith sends these field lines too.
func (ws *websocket) upgradeWith(fields string) {
	ws.t.Helper()
	ws.r = bufio.NewReader(ws.conn)
	_, _ = io.WriteString(ws.conn, "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+fields+"\r\n")
	resp, err := http.ReadResponse(ws.r, nil) //nolint:bodyclose // a 101 has none
	if err != nil || resp.StatusCode != 101 {
		ws.t.Fatalf("upgrade: %v, %v", resp, err)
	}
	ws.wantEcho()
}

func (ws *websocket) wantEcho() {
	ws.t.Helper()
	if _, err := io.WriteString(ws.conn, "ping"); err != nil {
		ws.t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(ws.r, got); err != nil || string(got) != "ping" {
		ws.t.Fatalf("echo %q, %v", got, err)
	}
}

// wantEnd reads until the connection ends, which must be within a second.
func wantEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection lives on after a second")
	}
}

// exchange sends a request on a kept-alive connection and returns the status line's code and whether the connection goes on.
func exchange(t testing.TB, conn net.Conn, r *bufio.Reader) (status int, closes bool) {
	t.Helper()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("GET: %v", err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Close
}

const denyWeb = `
policies: [{name: nobody, service: orders, rules: [{allow: {from: ["spiffe://example.org/nobody"]}}]}]`

func TestNewPolicyHoldsForTheNextRequestOfALiveConnection(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	r := bufio.NewReader(conn)
	if status, closes := exchange(t, conn, r); status != 200 || closes {
		t.Fatalf("status %d, closes %v", status, closes)
	}
	w.policies(denyWeb)
	if status, closes := exchange(t, conn, r); status != 403 || closes {
		t.Fatalf("after the change: status %d, closes %v; want a denial on the same connection", status, closes)
	}
	w.apply("%s", w.sidecar(w.app(nil), ""))
	if status, closes := exchange(t, conn, r); status != 200 || closes {
		t.Fatalf("after the reload: status %d, closes %v", status, closes)
	}
}

func TestReloadKeepsConnectionsThatItDoesNotConcern(t *testing.T) {
	w := newWorld(t)
	app := w.app(echo)
	before := w.sidecar(app, "")
	w.apply("%s", before)
	address := w.Addr("inbound").String()
	ws := w.websocket("/web")
	pooled := w.active.Load().clusters["app"]

	// A second listener comes, and the routes of the first change.
	two := strings.Replace(before, "listeners:\n", "listeners:\n- {name: extra, address: \"127.0.0.1:0\", tls: {mode: none}, service: orders, routes: [{match: {path_prefix: /}, cluster: app}]}\n", 1)
	two = strings.Replace(two, "  - {match: {path_prefix: /}, cluster: app, allow", "  - {match: {path: /gone}, cluster: app}\n  - {match: {path_prefix: /}, cluster: app, allow", 1)
	w.apply("%s", two)
	ws.wantEcho()
	if w.Addr("inbound").String() != address || w.active.Load().clusters["app"] != pooled {
		t.Fatal("the socket or the pool was made anew")
	}
	extra := w.dialPlain("extra")
	extraAt := w.Addr("extra").String()
	if status, _ := exchange(t, extra, bufio.NewReader(extra)); status != 403 { // anonymous
		t.Fatalf("status %d", status)
	}
	w.apply("%s", before)
	ws.wantEcho()
	wantEnd(t, extra)
	if c, err := net.Dial("tcp", extraAt); err == nil {
		_ = c.Close()
		t.Error("the removed listener still accepts")
	}
}

func TestReloadThatFailsChangesNothing(t *testing.T) {
	w := newWorld(t)
	app := w.app(nil)
	w.apply("%s", w.sidecar(app, ""))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	generation := w.Generation()
	err = w.try("%s", strings.Replace(w.sidecar(app, ""), "listeners:\n", fmt.Sprintf(
		"listeners:\n- {name: free, address: %q, tls: {mode: none}, service: orders, routes: [{match: {}, cluster: app}]}\n"+
			"- {name: taken, address: %q, tls: {mode: none}, service: orders, routes: [{match: {}, cluster: app}]}\n", free.Addr(), taken.Addr()), 1))
	if err == nil || !strings.Contains(err.Error(), "taken") {
		t.Fatalf("error %v", err)
	}
	if w.Generation() != generation || w.Addr("free") != nil {
		t.Fatal("a part of the new configuration serves")
	}
	if c, err := net.Dial("tcp", free.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the socket that could be bound stays open")
	}
	if a := w.get(w.as("/web"), w.url("inbound", "/")); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
}

func TestChangedIdentityDrainsTheListenersConnections(t *testing.T) {
	w := newWorld(t)
	app := w.app(nil)
	w.apply("%s", w.sidecar(app, ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	if status, _ := exchange(t, conn, bufio.NewReader(conn)); status != 200 {
		t.Fatalf("status %d", status)
	}
	w.apply("%s", strings.Replace(w.sidecar(app, ""), "{mode: mutual}", `{mode: mutual, identity: "spiffe://example.org/other"}`, 1))
	wantEnd(t, conn)
	fresh := w.dialTLS("inbound", w.leaf("/web"))
	if got := fresh.ConnectionState().PeerCertificates[0].URIs[0].Path; got != "/other" {
		t.Fatalf("presented %q", got)
	}
}

func TestRevocationClosesTheLiveConnectionsItConcernsAndNoOther(t *testing.T) {
	web := "spiffe://example.org/web"
	for _, test := range []struct {
		name   string
		revoke func(w *world, serial string) int
	}{
		{"by SPIFFE ID", func(w *world, _ string) int { return w.revoke(revocation.SPIFFEID, web) }},
		{"by serial", func(w *world, serial string) int { return w.revoke(revocation.Serial, serial) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.apply("%s", w.sidecar(w.app(echo), `
- {name: other, service: orders, rules: [{allow: {from: ["spiffe://example.org/other"]}}]}`))
			certificate := w.leaf("/web")
			idle := w.dialTLS("inbound", certificate)
			if status, _ := exchange(t, idle, bufio.NewReader(idle)); status != 200 {
				t.Fatalf("status %d", status)
			}
			other := w.websocket("/other")
			otherIdle := w.dialTLS("inbound", w.leaf("/other"))
			otherReader := bufio.NewReader(otherIdle)
			exchange(t, otherIdle, otherReader)

			if n := test.revoke(w, revocation.SerialString(certificate.Leaf.SerialNumber)); n != 1 {
				t.Fatalf("closed %d connections", n)
			}
			wantEnd(t, idle)
			other.wantEcho()
			if status, _ := exchange(t, otherIdle, otherReader); status != 200 {
				t.Fatalf("another's connection: status %d", status)
			}
			if _, err := w.do(w.client(&certificate), "GET", w.url("inbound", "/"), nil); err == nil {
				t.Fatal("the revoked certificate was accepted again")
			}
			w.eventually("the reason", func() bool {
				_, ok := w.log.find("type", "flow", "close", observe.Revoked)
				return ok && w.metric("postern_connections_closed_total", "reason", "revoked", "name", "inbound") == 1 &&
					w.metric("postern_tls_handshake_failures_total", "reason", "peer_revoked") == 1
			})
		})
	}
}

func TestRevocationEndsTunnelsAndRequestsUnderWay(t *testing.T) {
	w := newWorld(t)
	started := make(chan struct{})
	w.apply("%s", w.sidecar(w.app(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(started)
			<-r.Context().Done()
			return
		}
		echo(rw, r)
	}), ""))
	ws := w.websocket("/web")
	slow := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-started
	if n := w.revoke(revocation.SPIFFEID, "spiffe://example.org/web"); n != 2 {
		t.Fatalf("closed %d connections", n)
	}
	wantEnd(t, ws.conn)
	wantEnd(t, slow)
	w.eventually("the reason of the tunnel", func() bool {
		_, ok := w.log.find("type", "request", "status", 101, "reason", observe.Revoked)
		return ok
	})
}

func TestRevocationDuringTheHandshakeIsNotMissed(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	revoke := func() { w.revoke(revocation.SPIFFEID, "spiffe://example.org/web") }
	began := func() { w.meanwhile.Store(&revoke) } // the handshake begins with the index, and asks it again about the peer
	w.meanwhile.Store(&began)                      // after that the connection is not registered yet
	if _, err := w.do(w.as("/web"), "GET", w.url("inbound", "/"), nil); err == nil {
		t.Fatal("a revoked peer slipped through between its handshake and its registration")
	}
	w.eventually("the reason", func() bool {
		_, ok := w.log.find("type", "flow", "close", observe.Revoked)
		return ok
	})
}

func TestConnectionEndsWithItsCredential(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(echo), ""))
	certificate := w.leaf("/web", testkit.WithTTL(2*time.Second))
	conn := w.dialTLS("inbound", certificate)
	r := bufio.NewReader(conn)
	if status, _ := exchange(t, conn, r); status != 200 {
		t.Fatalf("status %d", status)
	}
	// The connection says before its end that it will end.
	w.eventually("Connection: close", func() bool {
		if time.Now().After(certificate.Leaf.NotAfter) {
			t.Fatal("no response said close before the credential ended")
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil { // closed while idle, after it began to drain
			return true
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.Close
	})
	tunnel := w.leaf("/web", testkit.WithTTL(2*time.Second))
	ws := &websocket{t: t, conn: w.dialTLS("inbound", tunnel)}
	ws.upgrade()
	_ = ws.conn.SetReadDeadline(tunnel.Leaf.NotAfter.Add(time.Second))
	if _, err := io.Copy(io.Discard, ws.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the tunnel outlives the credential")
	}
	if time.Now().Before(tunnel.Leaf.NotAfter) {
		t.Fatal("the tunnel ended before the credential")
	}
	w.eventually("the reason", func() bool {
		_, ok := w.log.find("type", "flow", "close", observe.CredentialExpired)
		return ok
	})
}

func TestPolicyChangeClosesTheTunnelsItDeniesAndNoOther(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(echo), `
- {name: other, service: orders, rules: [{allow: {from: ["spiffe://example.org/other"]}}]}`))
	denied, kept := w.websocket("/web"), w.websocket("/other")
	w.policies(`
policies: [{name: other, service: orders, rules: [{allow: {from: ["spiffe://example.org/other"]}}]}]`)
	wantEnd(t, denied.conn)
	kept.wantEcho()
	w.eventually("the reason", func() bool {
		_, request := w.log.find("type", "request", "status", 101, "reason", observe.PolicyChanged)
		_, flow := w.log.find("type", "flow", "close", observe.PolicyChanged)
		return request && flow
	})
}

func TestUpgradeNeedsARouteThatAllowsIt(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", strings.Replace(w.sidecar(w.app(echo), ""), ", allow_upgrade: [websocket]", "", 1))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 403 {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	w := newWorld(t)
	started, finish := make(chan struct{}), make(chan struct{})
	w.apply("%s", w.sidecar(w.app(func(rw http.ResponseWriter, _ *http.Request) {
		close(started)
		<-finish
		_, _ = io.WriteString(rw, "whole")
	}), ""))
	idle := w.dialTLS("inbound", w.leaf("/web"))
	_ = idle.Handshake()
	var busy sync.WaitGroup
	client := w.as("/web")
	busy.Go(func() {
		a, err := w.do(client, "GET", w.url("inbound", "/"), nil)
		if err != nil || a.body != "whole" || !a.closes {
			t.Errorf("%+v, %v", a, err)
		}
	})
	<-started
	at := w.Addr("inbound").String()
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(t.Context()) }()
	wantEnd(t, idle)
	if c, err := net.Dial("tcp", at); err == nil {
		_ = c.Close()
		t.Error("a draining server accepts")
	}
	close(finish)
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	busy.Wait()
	if err := w.try("%s", w.sidecar("127.0.0.1:1", "")); err == nil {
		t.Error("a draining server took a new configuration")
	}
}

func TestDrainCutsWhatDoesNotEnd(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(echo), ""))
	ws := w.websocket("/web")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Drain = %v", err)
	}
	wantEnd(t, ws.conn)
	if n := w.Connections(registry.Accepted); n != 0 {
		t.Fatalf("%d connections are left", n)
	}
}

func TestPanicEndsOneConnectionOnly(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	r := bufio.NewReader(conn)
	exchange(t, conn, r)
	w.decisions.mu.Lock()
	slots := w.decisions.slots
	w.decisions.slots = nil // the next record divides by zero
	w.decisions.mu.Unlock()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	wantEnd(t, conn)
	w.decisions.mu.Lock()
	w.decisions.slots = slots
	w.decisions.mu.Unlock()
	if w.metric("postern_panics_total") != 1 {
		t.Fatalf("%v panics counted", w.metric("postern_panics_total"))
	}
	if a := w.get(w.as("/web"), w.url("inbound", "/")); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
}

// TestRotationAndReloadUnderLoadFailNoRequest: renewed credentials on both sides of a mutual TLS hop, reloads and policy pushes, all
// many times a second, while requests that nobody may repeat go over kept-alive and fresh connections.
func TestRotationAndReloadUnderLoadFailNoRequest(t *testing.T) {
	callee := newWorld(t)
	app := callee.app(nil)
	callee.apply("%s", callee.sidecar(app, ""))
	w := newWorld(t)
	w.ca, w.own = callee.ca, "/web"
	outbound := fmt.Sprintf(`
listeners:
- {name: outbound, address: "127.0.0.1:0", tls: {mode: none}, caller: self, routes: [{match: {path_prefix: /}, cluster: orders}]}
clusters:
- {name: orders, endpoints: ["%s"], tls: {mode: mutual, expect: ["spiffe://example.org/orders"]}}
`, callee.Addr("inbound"))
	w.apply("%s", outbound)

	end := time.Now().Add(time.Second)
	var workers sync.WaitGroup
	var served atomic.Int64
	for i := range 4 {
		client := w.client(nil)
		if i == 0 {
			client.Transport.(*http.Transport).DisableKeepAlives = true
		}
		workers.Go(func() {
			for time.Now().Before(end) {
				a, err := w.do(client, "POST", "http://"+w.Addr("outbound").String()+"/", strings.NewReader("body"))
				if err != nil || a.status != 200 {
					t.Errorf("after %d: status %d %s, %v", served.Load(), a.status, a.body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	rotations := uint64(1)
	for time.Now().Before(end) {
		rotations++
		w.holder("/web").Set(w.credential(w.leaf("/web", testkit.WithTTL(20*time.Second)), rotations))
		callee.holder("/orders").Set(w.credential(w.leaf("/orders", testkit.WithTTL(20*time.Second)), rotations))
		callee.apply("%s", callee.sidecar(app, ""))
		w.apply("%s", outbound)
		time.Sleep(10 * time.Millisecond)
	}
	workers.Wait()
	t.Logf("%d requests over %d rotations", served.Load(), rotations)
}
