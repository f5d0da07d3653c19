package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// tcpService accepts byte streams.
func (w *world) tcpService(serve func(conn *net.TCPConn)) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn.(*net.TCPConn))
			}()
		}
	}()
	w.t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// reverse reads everything, then answers: it works only if the end of one direction is passed on.
func reverse(conn *net.TCPConn) {
	all, _ := io.ReadAll(conn)
	_, _ = fmt.Fprintf(conn, "%d bytes", len(all))
}

func (w *world) tcpProxy(app, listenerTLS, more string) string {
	return fmt.Sprintf(`
listeners:
- {name: stream, address: "127.0.0.1:0", protocol: tcp, tls: %s, service: db, cluster: db}
clusters: [{name: db, endpoints: ["%s"]}]
policies:
- {name: db, service: db, rules: [{allow: {from: ["spiffe://example.org/web"%s], tcp: {}}}]}
`, listenerTLS, app, more)
}

func TestAuthorizedByteStreamPassesWithHalfClose(t *testing.T) {
	for _, test := range []struct{ name, tls, more string }{
		{"mutual TLS", "{mode: mutual}", ""},
		{"plaintext, spliced by the kernel", "{mode: none}", ", anonymous"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.apply("%s", w.tcpProxy(w.tcpService(reverse), test.tls, test.more))
			var conn interface {
				net.Conn
				CloseWrite() error
			}
			if test.more == "" {
				conn = w.dialTLS("stream", w.leaf("/web"))
			} else {
				conn = w.dialPlain("stream").(*net.TCPConn)
			}
			go func() {
				_, _ = conn.Write(bytes.Repeat([]byte("x"), 1<<20))
				_ = conn.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil || string(got) != "1048576 bytes" {
				t.Fatalf("%q, %v", got, err)
			}
			_ = conn.Close()
			w.eventually("the flow", func() bool {
				line, ok := w.log.find("type", "flow", "direction", "accepted", "close", observe.PeerClosed, "bytes_in", 1048576.0)
				_, dialled := w.log.find("type", "flow", "direction", "dialled", "cluster", "db", "bytes_out", 1048576.0, "bytes_in", 13.0)
				return ok && dialled && line["decision"] != nil && line["cluster"] == "db" && line["bytes_out"] == 13.0
			})
		})
	}
}

// Who can cut the connection must not be able to make a part pass for the whole (RFC 8446, Section 6.1).
func TestByteStreamThatIsCutIsNotEndedInOrder(t *testing.T) {
	w := newWorld(t)
	read := make(chan error, 1)
	w.apply("%s", w.tcpProxy(w.tcpService(func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "hello")
		_, err := io.ReadAll(conn)
		read <- err
	}), "{mode: mutual}", ""))
	conn := w.dialTLS("stream", w.leaf("/web"))
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "half")
	_ = conn.NetConn().Close()
	select {
	case err := <-read:
		if err == nil {
			t.Error("the service takes what it has for the whole")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the service's connection does not end")
	}
	w.eventually("the flows", func() bool {
		_, accepted := w.log.find("type", "flow", "direction", "accepted", "close", observe.IOError)
		_, dialled := w.log.find("type", "flow", "direction", "dialled", "close", observe.IOError)
		return accepted && dialled
	})
}

func TestByteStreamThatPolicyDeniesIsClosedUnseen(t *testing.T) {
	w := newWorld(t)
	var reached atomic.Int32
	w.apply("%s", w.tcpProxy(w.tcpService(func(*net.TCPConn) { reached.Add(1) }), "{mode: mutual}", ""))
	conn := w.dialTLS("stream", w.leaf("/stranger"))
	wantEnd(t, conn)
	w.eventually("the reason", func() bool {
		_, ok := w.log.find("type", "flow", "close", observe.Denied)
		return ok
	})
	if reached.Load() != 0 {
		t.Fatal("the service was dialled")
	}
}

func TestByteStreamEndsWhenRevokedOrDeniedLater(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.tcpProxy(w.tcpService(func(c *net.TCPConn) { _, _ = io.Copy(c, c) }), "{mode: mutual}", ""))
	open := func() net.Conn {
		conn := w.dialTLS("stream", w.leaf("/web"))
		_, _ = io.WriteString(conn, "ping")
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := open()
	w.policies("policies: [{name: db, service: db, rules: [{allow: {from: [\"spiffe://example.org/other\"], tcp: {}}}]}]")
	wantEnd(t, conn)
	w.policies("policies: [{name: db, service: db, rules: [{allow: {from: [\"spiffe://example.org/web\"], tcp: {}}}]}]")
	conn = open()
	w.revoke(revocation.SPIFFEID, "spiffe://example.org/web")
	wantEnd(t, conn)
	w.eventually("both reasons", func() bool {
		_, policy := w.log.find("type", "flow", "close", observe.PolicyChanged)
		_, revoked := w.log.find("type", "flow", "close", observe.Revoked)
		return policy && revoked
	})
}

func TestAutoListenerTellsHTTPFromByteStreams(t *testing.T) {
	w := newWorld(t)
	w.apply(`
listeners:
- name: both
  address: 127.0.0.1:0
  protocol: auto
  tls: {mode: mutual}
  service: orders
  cluster: db
  routes: [{match: {path_prefix: /}, cluster: app}]
clusters: [{name: app, endpoints: ["%s"]}, {name: db, endpoints: ["%s"]}]
policies: [{name: p, service: orders, rules: [{allow: {}}, {deny: {http: {paths: [/admin]}}}, {allow: {from: ["spiffe://example.org/db"], tcp: {}}}]}]
`, w.app(nil), w.tcpService(reverse))
	if a := w.get(w.as("/web"), w.url("both", "/x")); a.seen(t).URI != "/x" {
		t.Errorf("HTTP: %d %s", a.status, a.body)
	}
	// talk sends first, after the time in which the listener waits for it if late.
	talk := func(caller, alpn string, late bool, first string) (string, error) {
		config := clientTLS(nil)
		config.Certificates, config.NextProtos = []tls.Certificate{w.leaf(caller)}, nil
		if alpn != "" {
			config.NextProtos = []string{alpn}
		}
		conn, err := tls.Dial("tcp", w.Addr("both").String(), config)
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if late {
			<-time.After(sniffTime + 200*time.Millisecond)
		}
		_, _ = io.WriteString(conn, first)
		_ = conn.CloseWrite()
		got, err := io.ReadAll(conn)
		return string(got), err
	}
	const binary, request = "\x00\x01binary", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, test := range []struct {
		name, caller, alpn string
		late               bool
		first, answer      string // how it begins; empty for none
	}{
		{"bytes that are no HTTP, without a rule for TCP", "/web", "", false, binary, ""},
		{"bytes that are no HTTP", "/db", "", false, binary, "8 bytes"},
		{"http/1.1 was negotiated", "/db", "http/1.1", false, binary + "\n", "HTTP/1.1 400 "},
		{"an empty line before a request", "/web", "", false, "\r\n" + request, "HTTP/1.1 400 "},
		{"silence, and a rule names TCP", "/db", "", true, binary, "8 bytes"},
		// The client chooses to be silent; without a rule for TCP that gives it no way around the rules for HTTP.
		{"silence, and no rule names TCP", "/web", "", true, request, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := talk(test.caller, test.alpn, test.late, test.first)
			if !strings.HasPrefix(got, test.answer) || test.answer == "" && got != "" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestSlowReaderHoldsBackTheService: what the client does not take, the proxy does not gather.
func TestSlowReaderHoldsBackTheService(t *testing.T) {
	w := newWorld(t)
	var written atomic.Int64
	stalled := make(chan struct{})
	w.apply("%s", w.sidecar(w.app(func(rw http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 256<<10)
		for range 512 { // 128 MiB
			_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := rw.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				close(stalled)
				return
			}
		}
	}), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	select {
	case <-stalled:
	case <-time.After(8 * time.Second):
		t.Fatalf("the service has written %d MiB to a client that reads nothing", written.Load()>>20)
	}
	if got := written.Load(); got > 32<<20 {
		t.Errorf("%d MiB were taken from the service before it was held back", got>>20)
	}
	// What the service broke off must not look whole to the client.
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("the client took a broken response for a whole one")
	}
}

func TestLargeBodiesStreamBothWays(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		_, _ = io.Copy(rw, r.Body)
	}), ""))
	const size = 8 << 20
	body := io.LimitReader(zeros{}, size)
	a, err := w.do(w.as("/web"), "POST", w.url("inbound", "/"), body)
	if err != nil || a.status != 200 || len(a.body) != size {
		t.Fatalf("status %d, %d bytes, %v", a.status, len(a.body), err)
	}
	w.eventually("the counts", func() bool {
		line, ok := w.log.find("type", "request", "status", 200)
		return ok && line["bytes_in"] == float64(size) && line["bytes_out"] == float64(size)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
