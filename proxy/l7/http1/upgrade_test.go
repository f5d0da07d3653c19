package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

var upgradeRequests = []refusal{
	{"upgrade with a body", head(getLine, hostLine, "Connection: upgrade", "Upgrade: websocket", "Content-Length: 1"), 400},
	{"websocket with another method", head("OPTIONS / HTTP/1.1", hostLine, "Connection: upgrade", "Upgrade: WebSocket"), 400},
	{"websocket of CONNECT", head("CONNECT a:1 HTTP/1.1", "Host: a:1", "Connection: upgrade", "Upgrade: websocket"), 400},
	{"upgrade with chunks", head(getLine, hostLine, "Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), 400},
}

var upgradeResponses = []refusal{
	{"101 with content", head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket", "Content-Length: 1"), 502},
	{"101 with chunks", head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"), 502},
}

func TestRefusedUpgradeAndConnectEndTheConnection(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(stringResponse(403, "no"))
	})})
	for _, raw := range []string{
		head("GET / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket"),
		head("CONNECT b:1 HTTP/1.1", "Host: b:1"),
	} {
		c := s.dial()
		c.send(raw + head("GET /smuggled HTTP/1.1", "Host: a"))
		c.want("GET", 403, "no")
		c.wantEnd()
	}
}

func TestTunnelBeginsWithWhatFollowedTheRequest(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		stream, err := ex.Tunnel(&l7.Response{Status: 101})
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(stream, stream)
		_ = stream.Close()
	})})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: echo/1") + "early ")
	for _, want := range []string{"HTTP/1.1 101 Switching Protocols", "connection: upgrade", "upgrade: echo/1", ""} {
		if line := c.line(); line != want {
			t.Fatalf("got %q, want %q", line, want)
		}
	}
	c.send("late\n")
	if line := c.line(); line != "early late" {
		t.Errorf("got %q", line)
	}
	_ = c.conn.CloseWrite()
	c.wantEnd()
}

func TestUpgradeTunnelsBothWays(t *testing.T) {
	_, url, p := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-Websocket-Key") != "k" {
			t.Errorf("upstream sees %v", r.Header)
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString(head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: "+acceptOf("k")) + "hello ")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
		_ = conn.Close()
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, head("GET /chat HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k"))
	got := make([]byte, 0, 1000)
	for !strings.HasSuffix(string(got), "hello ") {
		buf := make([]byte, 1000)
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if text := string(got); !strings.HasPrefix(text, "HTTP/1.1 101 ") || !strings.Contains(text, "sec-websocket-accept: "+acceptOf("k")) {
		t.Errorf("head %q", text)
	}
	_, _ = io.WriteString(conn, "ping")
	_ = conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(conn); string(rest) != "ping" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) > 0 {
		t.Error("a connection that saw an upgrade went back to the pool")
	}
}

func TestRefusedUpgradeIsAnOrdinaryResponse(t *testing.T) {
	client, url, p := proxied(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(426) })
	req := request(t, "GET", url, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	if got := do(t, client, req); got.status != 426 {
		t.Errorf("status %d", got.status)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) > 0 {
		t.Error("a connection that saw an upgrade went back to the pool")
	}
}

// upgrade is a request for websocket with that key, if there is one.
func upgrade(keys ...string) *l7.Request {
	req := get("/")
	req.Upgrade = "websocket"
	for _, key := range keys {
		req.Header.Add("sec-websocket-key", key)
	}
	return req
}

// RFC 6455, Section 1.3, has this key and the value for it.
const sampleKey, sampleAccept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

func TestUpgradeIsTakenOnlyFromWhoUnderstoodIt(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols"
	lines := []string{switching, "Connection: upgrade", "Upgrade: websocket"}
	rows := []struct {
		name, answer string
		request      *l7.Request
		taken        bool
	}{
		{"right accept value", head(append(lines, "Sec-WebSocket-Accept: "+sampleAccept)...), upgrade(sampleKey), true},
		{"no key, no accept value", head(lines...), upgrade(), true},
		{"wrong accept value", head(append(lines, "Sec-WebSocket-Accept: "+acceptOf("x"))...), upgrade(sampleKey), false},
		{"accept value in another case", head(append(lines, "Sec-WebSocket-Accept: "+strings.ToLower(sampleAccept))...), upgrade(sampleKey), false},
		{"no accept value", head(lines...), upgrade(sampleKey), false},
		{"two accept values", head(append(lines, "Sec-WebSocket-Accept: "+sampleAccept, "Sec-WebSocket-Accept: "+sampleAccept)...), upgrade(sampleKey), false},
		{"other protocol", head(switching, "Connection: upgrade", "Upgrade: h2c"), upgrade(), false},
		{"no protocol", head(switching), upgrade(), false},
		{"protocol that is not nominated", head(switching, "Upgrade: websocket"), upgrade(), false},
		{"nothing was asked for", head(lines...), get("/"), false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
				_, _ = http.ReadRequest(r)
				_, _ = io.WriteString(conn, row.answer)
				_, _ = r.ReadByte()
			})
			resp, err := c.RoundTrip(t.Context(), row.request, nil)
			if row.taken {
				if err != nil || resp.Status != 101 {
					t.Fatalf("%+v, %v", resp, err)
				}
				_ = resp.Body.Close()
			} else if e, ok := errors.AsType[*l7.Error](err); !ok || e.Reason != observe.UpstreamProtocol || e.Status != 502 || !e.Responded {
				t.Fatalf("error %v", err)
			}
			if c.Reusable() {
				t.Error("reusable")
			}
		})
	}
}

func TestTunnelIsOnlyOfA101(t *testing.T) {
	for _, status := range []string{"101 Switching Protocols", "200 OK"} {
		c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(conn, head("HTTP/1.1 "+status, "Connection: upgrade", "Upgrade: websocket", "X: y")+"early")
			_, _ = io.Copy(conn, r)
		})
		resp, err := c.RoundTrip(t.Context(), upgrade(), nil)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := l7.Tunnel(resp)
		if resp.Status != 101 {
			if err == nil {
				t.Error("a tunnel behind 200")
			}
			_ = resp.Body.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(stream, " late")
		_ = stream.CloseWrite()
		if all, err := io.ReadAll(stream); string(all) != "early late" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		if got, _ := resp.Header.Get("x"); got != "y" {
			t.Errorf("the header of the response has become %q", got)
		}
		_ = stream.Close()
	}
}

func TestContextEndsATunnel(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(conn, head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"))
		_, _ = r.ReadByte()
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := c.RoundTrip(ctx, upgrade(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := l7.Tunnel(resp)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel goes on")
	}
	_ = stream.Close()
}
