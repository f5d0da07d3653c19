package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// TestDrainCutsWhoShakesHandsTooLate: a byte stream has no end of its own, so one that appears after everything was cut would keep
// Drain from returning for as long as its client likes.
func TestDrainCutsWhoShakesHandsTooLate(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.tcpProxy(w.tcpService(func(c *net.TCPConn) { _, _ = io.Copy(c, c) }), "{mode: mutual}", ""))
	raw := w.dialPlain("stream")
	w.eventually("accepted", func() bool { return w.Listeners()[0].Connections == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(ctx) }()
	select {
	case err := <-drained:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain = %v", err)
		}
	case <-time.After(2 * time.Second):
		leaf := w.leaf("/web")
		_ = tls.Client(raw, clientTLS(&leaf)).Handshake()
		t.Error("Drain waits for a handshake")
		_ = raw.Close()
		if err := <-drained; err != nil {
			t.Log(err)
		}
	}
}

func TestAByteStreamDoesNotBeginWhileTheServerDrains(t *testing.T) {
	w := newWorld(t)
	var reached atomic.Int32
	w.apply("%s", w.tcpProxy(w.tcpService(func(*net.TCPConn) { reached.Add(1) }), "{mode: mutual}", ""))
	raw := w.dialPlain("stream")
	w.eventually("accepted", func() bool { return w.Listeners()[0].Connections == 1 })
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(t.Context()) }()
	w.eventually("draining", func() bool { return w.draining.Load() })
	leaf := w.leaf("/web")
	conn := tls.Client(raw, clientTLS(&leaf))
	_ = conn.Handshake()
	wantEnd(t, conn)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if reached.Load() != 0 {
		t.Error("the service was dialled")
	}
}

// A request takes the generation that serves when it begins, and is answered by it.
func TestReloadsThatReplaceAClusterFailNoRequest(t *testing.T) {
	w := newWorld(t)
	app := w.app(nil)
	declare := func(i int) string {
		return strings.Replace(w.sidecar(app, ""), `endpoints: ["`, fmt.Sprintf(`max_idle: %d, endpoints: ["`, 100+i%2), 1)
	}
	w.apply("%s", declare(0))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 8 {
		client := w.as("/web")
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := w.do(client, "POST", w.url("inbound", "/"), nil); err != nil || a.status != 200 {
					t.Error(err, a.status, a.body)
					return
				}
			}
		})
	}
	for i := range 100 {
		w.apply("%s", declare(i+1))
		time.Sleep(5 * time.Millisecond) // requests meet the reload at every stage
	}
	close(stop)
	asking.Wait()
}

func TestAPauseInAResponseIsNoFault(t *testing.T) {
	w := newWorld(t)
	app := w.app(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "data: 1\n\n")
		_ = http.NewResponseController(rw).Flush()
		time.Sleep(400 * time.Millisecond)
		_, _ = io.WriteString(rw, "data: 2\n\n")
	})
	w.apply("timeouts: {body_idle: 100ms}\n%s", w.sidecar(app, ""))
	a, err := w.do(w.as("/web"), "GET", w.url("inbound", "/"), nil)
	if err != nil || a.body != "data: 1\n\ndata: 2\n\n" {
		t.Errorf("%+v, %v", a, err)
	}
}

// A new policy may ask for a field that the old one did not look at.
func TestANewDenyOnAHeaderClosesTheTunnelsThatSentIt(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(echo), ""))
	guest, other := w.websocketWith("/web", "X-Role: guest\r\n"), w.websocket("/web")
	w.policies(`
policies: [{name: p, service: orders, rules: [{allow: {from: ["spiffe://example.org/web"]}}, {deny: {http: {headers: {x-role: guest}}}}]}]`)
	wantEnd(t, guest.conn)
	other.wantEcho()
}

func (w *world) websocketWith(caller, fields string) *websocket {
	w.t.Helper()
	ws := &websocket{t: w.t, conn: w.dialTLS("inbound", w.leaf(caller))}
	ws.upgradeWith(fields)
	return ws
}

func TestATunnelEndsWithTheDrainTimeOfItsCluster(t *testing.T) {
	w := newWorld(t)
	app := w.app(echo)
	w.apply("%s", w.sidecar(app, "shutdown: {drain_timeout: 200ms}"))
	ws := w.websocket("/web")
	w.apply("%s", strings.NewReplacer("cluster: app", "cluster: next", "name: app", "name: next").Replace(
		w.sidecar("127.0.0.1:1", "shutdown: {drain_timeout: 200ms}")))
	ws.wantEcho()
	wantEnd(t, ws.conn)
}

func TestAChangedServiceDrainsTheConnections(t *testing.T) {
	w := newWorld(t)
	app := w.app(echo)
	more := "- {name: invoices, service: invoices, rules: [{allow: {from: [\"spiffe://example.org/other\"]}}]}\nshutdown: {drain_timeout: 100ms}"
	w.apply("%s", w.sidecar(app, more))
	ws := w.websocket("/web")
	w.apply("%s", strings.Replace(w.sidecar(app, more), "  service: orders\n  routes", "  service: invoices\n  routes", 1))
	wantEnd(t, ws.conn)
}

func TestATunnelEndsWithTheRuleThatAllowedIt(t *testing.T) {
	w := newWorld(t)
	at := time.Now().Add(time.Second).UTC().Truncate(time.Second).Add(time.Second)
	w.apply("%s", strings.Replace(w.sidecar(w.app(echo), ""), "  service: orders\n  rules",
		fmt.Sprintf("  service: orders\n  expires: %s\n  rules", at.Format(time.RFC3339)), 1))
	ws := w.websocket("/web")
	_ = ws.conn.SetReadDeadline(at.Add(time.Second))
	if _, err := ws.r.ReadByte(); err == nil || time.Now().Before(at) || time.Until(at.Add(time.Second)) <= 0 {
		t.Errorf("ended %s after the rule did: %v", time.Since(at), err)
	}
}

// A rule may end between the decision and the moment from which the answer is followed.
func TestAnAnswerThatBeginsAfterItsRuleHasEndedIsCut(t *testing.T) {
	w := newWorld(t)
	at := time.Now().Add(time.Second).UTC().Truncate(time.Second).Add(time.Second)
	late := func(rw http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Until(at.Add(200 * time.Millisecond))) // the service is slow by just so much
		ticking(rw, r)
	}
	w.apply("%s", strings.Replace(w.sidecar(w.app(late), ""), "  service: orders\n  rules",
		fmt.Sprintf("  service: orders\n  expires: %s\n  rules", at.Format(time.RFC3339)), 1))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	_ = conn.SetReadDeadline(at.Add(2 * time.Second))
	if answer, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the answer goes on: %q", answer)
	}
}

func TestWhoHasLeftIsNotCut(t *testing.T) {
	cuts := 0
	s := &longStream{cut: func(*l7.Error) { cuts++ }}
	s.end(nil)
	s.leave()
	s.end(nil)
	if cuts != 1 {
		t.Errorf("cut %d times, once before it left", cuts)
	}
}

func TestLongMessagesAreJudgedAgain(t *testing.T) {
	endless := func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "data: 1\n\n")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	}
	upload := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for name, test := range map[string]struct {
		app  http.HandlerFunc
		head string
	}{
		"a response": {endless, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"},
		"an upload":  {upload, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nfirst"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.apply("%s", w.sidecar(w.app(test.app), ""))
			conn := w.dialTLS("inbound", w.leaf("/web"))
			_, _ = io.WriteString(conn, test.head)
			if name == "a response" {
				if _, err := bufio.NewReader(conn).ReadString('1'); err != nil {
					t.Fatal(err)
				}
			}
			w.eventually("followed", func() bool { return len(w.streams.all()) > 0 })
			w.policies(denyWeb)
			wantEnd(t, conn)
			w.eventually("the reason", func() bool {
				_, request := w.log.find("type", "request", "reason", observe.PolicyChanged)
				_, flow := w.log.find("type", "flow", "close", observe.PolicyChanged)
				return request && flow
			})
			w.eventually("nothing is followed", func() bool { return len(w.streams.all()) == 0 })
		})
	}
}

func TestAResetOfTheServiceIsNoEndForTheClient(t *testing.T) {
	w := newWorld(t)
	seen := make(chan struct{})
	w.apply("%s", w.tcpProxy(w.tcpService(func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "half of it")
		<-seen
		_ = c.SetLinger(0)
		_ = c.Close()
	}), "{mode: none}", ", anonymous"))
	c := w.dialPlain("stream")
	_, _ = io.ReadFull(c, make([]byte, 10))
	close(seen)
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
}
