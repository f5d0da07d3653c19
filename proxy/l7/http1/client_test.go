package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// scripted is an upstream that does what a test says with the bytes of its connection.
func scripted(t *testing.T, options ClientOptions, script func(conn *net.TCPConn, r *bufio.Reader)) *ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		script(conn.(*net.TCPConn), bufio.NewReader(conn))
		_ = conn.Close()
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = listener.Close()
		<-done
	})
	return NewClient(options).NewConn(conn.(*net.TCPConn))
}

// readRequest reads a request and its body with net/http.
func readRequest(t *testing.T, r *bufio.Reader) {
	req, err := http.ReadRequest(r)
	if err == nil {
		_, err = io.ReadAll(req.Body)
	}
	if err != nil {
		t.Errorf("upstream reads: %v", err)
	}
}

func get(path string) *l7.Request {
	return &l7.Request{Method: "GET", Authority: "a", Path: path}
}

func post(body string) *l7.Request {
	return &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: int64(len(body)), Body: l7.NewStringBody(body)}
}

// roundTrip reads the whole response.
func roundTrip(t *testing.T, c *ClientConn, req *l7.Request) (status int, content string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := c.RoundTrip(ctx, req, nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return resp.Status, string(data), err
}

func TestConnectionIsReusedAfterCleanExchanges(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		for _, answer := range []string{
			head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok",
			head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\nA: b\r\n\r\n",
			head("HTTP/1.1 204 No Content"),
			head("HTTP/1.1 304 Not Modified", "Content-Length: 10"),
			head("HTTP/1.1 200 OK", "Content-Length: 0"),
		} {
			readRequest(t, r)
			_, _ = io.WriteString(conn, answer)
		}
		_, _ = r.ReadByte()
	})
	for i, want := range []string{"200 ok", "200 ok", "204 ", "304 ", "200 "} {
		status, body, err := roundTrip(t, c, post("x"))
		if got := fmt.Sprint(status, " ", body); err != nil || got != want {
			t.Fatalf("exchange %d: %q, %v", i, got, err)
		}
		if !c.Reusable() {
			t.Fatalf("exchange %d: not reusable", i)
		}
	}
}

func TestConnectionIsNotReusedWhenItMayNotBe(t *testing.T) {
	rows := []struct{ name, answer string }{
		{"bytes that nobody asked for", head("HTTP/1.1 200 OK", "Content-Length: 2") + "okHTTP/1.1 200 OK\r\n"},
		{"content after 204", head("HTTP/1.1 204 No Content") + "x"},
		{"content after 304", head("HTTP/1.1 304 Not Modified", "Content-Length: 1") + "x"},
		{"Connection: close", head("HTTP/1.1 200 OK", "Content-Length: 2", "Connection: close") + "ok"},
		{"HTTP/1.0", head("HTTP/1.0 200 OK", "Content-Length: 2") + "ok"},
		{"until the end", head("HTTP/1.1 200 OK") + "ok"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
				readRequest(t, r)
				_, _ = io.WriteString(conn, row.answer)
			})
			if _, _, err := roundTrip(t, c, get("/")); err != nil {
				t.Fatal(err)
			}
			if c.Reusable() {
				t.Error("reusable")
			}
			if _, _, err := roundTrip(t, c, get("/")); err == nil {
				t.Error("a spent connection carries another request")
			}
		})
	}
}

// watched is a stream that knows whether something has arrived.
type watched struct {
	l7.Stream
	quiet bool
}

func (w watched) Quiet() bool { return w.quiet }

func TestConnectionThatIsNotQuietIsNotReused(t *testing.T) {
	for _, quiet := range []bool{true, false} {
		c := NewClient(ClientOptions{}).NewConn(watched{&fakeStream{}, quiet})
		if c.Reusable() != quiet {
			t.Errorf("quiet %v: reusable %v", quiet, c.Reusable())
		}
	}
}

func TestResponseThatIsNoneIsAProtocolError(t *testing.T) {
	rows := []struct{ name, answer string }{
		{"length and transfer coding", head("HTTP/1.1 200 OK", "Content-Length: 2", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n"},
		{"101 without being asked", head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket")},
		{"bare 101", head("HTTP/1.1 101 Switching Protocols")},
		{"1xx for ever", strings.Repeat(head("HTTP/1.1 103 Early Hints"), 100)},
		{"endless head", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20000)},
		{"HTTP/2", "\x00\x00\x12\x04\x00\x00\x00\x00\x00\n\n"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
				readRequest(t, r)
				_, _ = io.WriteString(conn, row.answer)
				_, _ = r.ReadByte()
			})
			_, _, err := roundTrip(t, c, get("/"))
			e, ok := errors.AsType[*l7.Error](err)
			if !ok || e.Reason != observe.UpstreamProtocol || e.Side != l7.Upstream || !e.Responded || e.Status != 502 {
				t.Errorf("error %#v", err)
			}
			if c.Reusable() {
				t.Error("reusable")
			}
		})
	}
}

func TestMalformedResponseBodyIsAProtocolError(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		readRequest(t, r)
		_, _ = io.WriteString(conn, head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")+"2\nok\r\n0\r\n\r\n")
	})
	_, _, err := roundTrip(t, c, get("/"))
	if l7.ReasonOf(err, "") != observe.UpstreamProtocol || c.Reusable() {
		t.Errorf("error %v, reusable %v", err, c.Reusable())
	}
}

func TestConnectionThatEndsEarlyIsAReset(t *testing.T) {
	rows := []struct {
		name, answer string
		responded    bool
	}{
		{"before the response", "", false},
		{"in the head", "HTTP/1.1 200 OK\r\nCon", true},
		{"after an informational response", head("HTTP/1.1 103 Early Hints"), true},
		{"in the body", head("HTTP/1.1 200 OK", "Content-Length: 10") + "half", true},
		{"in a chunk", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "a\r\nhalf", true},
		{"before the last chunk", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "4\r\nhalf\r\n", true},
		{"in the trailer", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "0\r\nA: b\r\n", true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
				readRequest(t, r)
				_, _ = io.WriteString(conn, row.answer)
			})
			_, _, err := roundTrip(t, c, get("/"))
			e, ok := errors.AsType[*l7.Error](err)
			if !ok || e.Reason != observe.UpstreamReset || e.Status != 502 {
				t.Fatalf("error %v", err)
			}
			if inHead := !strings.Contains(row.answer, "200 OK\r\nContent") && !strings.Contains(row.answer, "Transfer"); inHead && (!e.Sent || e.Responded != row.responded) {
				t.Errorf("sent %v, responded %v", e.Sent, e.Responded)
			}
			if c.Reusable() {
				t.Error("reusable")
			}
		})
	}
}

func TestInformationalResponsesArePassedOn(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		readRequest(t, r)
		_, _ = io.WriteString(conn, head("HTTP/1.1 100 Continue")+head("HTTP/1.1 103 Early Hints", "Link: </a>")+head("HTTP/1.1 200 OK", "Content-Length: 0"))
		_, _ = r.ReadByte()
	})
	var got []string
	resp, err := c.RoundTrip(t.Context(), get("/"), func(status int, h *l7.Header) {
		link, _ := h.Get("link")
		got = append(got, fmt.Sprint(status, link))
	})
	if err != nil || resp.Status != 200 || len(got) != 1 || got[0] != "103</a>" {
		t.Fatalf("%v, %v", got, err)
	}
	_ = resp.Body.Close()
	if !c.Reusable() {
		t.Error("not reusable")
	}
}

// slowBody has no end until it is closed.
type slowBody struct {
	sent   bool
	closed chan struct{}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if !b.sent {
		b.sent = true
		return copy(p, "begin"), nil
	}
	<-b.closed
	return 0, errHalted
}
func (b *slowBody) Trailer() *l7.Header { return nil }
func (b *slowBody) Close() error        { close(b.closed); return nil }

func TestResponseBeforeTheEndOfTheRequestGivesUpTheRest(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(conn, head("HTTP/1.1 413 Content Too Large", "Content-Length: 2")+"no")
		_, _ = io.Copy(io.Discard, r)
	})
	req := &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: &slowBody{closed: make(chan struct{})}}
	status, body, err := roundTrip(t, c, req)
	if status != 413 || body != "no" || err != nil {
		t.Errorf("%d %q %v", status, body, err)
	}
	if c.Reusable() {
		t.Error("reusable with half a request on it")
	}
}

func TestFailingRequestBodyIsTheFaultOfTheDownstream(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(_ *net.TCPConn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err == nil {
			_, err = io.ReadAll(req.Body)
		}
		if err == nil {
			t.Error("the upstream takes half a request for a whole one")
		}
	})
	req := &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: failingBody{l7.NewStringBody("half")}}
	_, _, err := roundTrip(t, c, req)
	e, ok := errors.AsType[*l7.Error](err)
	if !ok || e.Side != l7.Downstream || e.Reason != observe.IOError {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsTheWait(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(_ *net.TCPConn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.RoundTrip(ctx, get("/"), nil)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("waited %v", took)
	}
	e, ok := errors.AsType[*l7.Error](err)
	if !ok || e.Reason != observe.UpstreamTimeout || e.Status != 504 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if c.Reusable() {
		t.Error("reusable")
	}
}

func TestContextEndsAResponseThatStreams(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		readRequest(t, r)
		_, _ = io.WriteString(conn, head("HTTP/1.1 200 OK", "Content-Length: 100")+"begin")
		_, _ = r.ReadByte()
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := c.RoundTrip(ctx, get("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half a response is taken for a whole one")
	}
	_ = resp.Body.Close()
	if c.Reusable() {
		t.Error("reusable")
	}
}

func TestRequestsThatAreNotCanonicalAreNotSent(t *testing.T) {
	for _, req := range []*l7.Request{
		{Method: "GET", Authority: "a", Path: "/ HTTP/1.1\r\nX: y"},
		{Method: "GET", Authority: "a\r\nX: y", Path: "/"},
		{Method: "GET", Authority: "a", Path: "/", RawQuery: "a b"},
		{Method: "G T", Authority: "a", Path: "/"},
		{Method: "CONNECT", Authority: "a", Path: "/"},
		{Method: "GET", Authority: "", Path: "/"},
		{Method: "GET", Authority: "a", Path: "/a?b"},
	} {
		c := NewClient(ClientOptions{}).NewConn(&fakeStream{})
		_, err := c.RoundTrip(t.Context(), req, nil)
		if e, ok := errors.AsType[*l7.Error](err); !ok || e.Sent || e.Reason != observe.Internal {
			t.Errorf("%q: %v", req.Path, err)
		}
	}
}

func TestBodyMayBeClosedTwiceAndResponseReadAfter(t *testing.T) {
	c := scripted(t, ClientOptions{}, func(conn *net.TCPConn, r *bufio.Reader) {
		for range 2 {
			readRequest(t, r)
			_, _ = io.WriteString(conn, head("HTTP/1.1 200 OK", "Content-Length: 2", "X: y")+"ok")
		}
		_, _ = r.ReadByte()
	})
	first, err := c.RoundTrip(t.Context(), get("/1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(first.Body)
	_ = first.Body.Close()
	second, err := c.RoundTrip(t.Context(), get("/2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Body.Close()
	if first.Status != 200 || first.Header.Len() != 0 {
		t.Errorf("first response after its end: %d, %d fields", first.Status, first.Header.Len())
	}
	if body, err := io.ReadAll(second.Body); string(body) != "ok" || err != nil {
		t.Errorf("second response: %q, %v", body, err)
	}
	_ = second.Body.Close()
	if !c.Reusable() {
		t.Error("not reusable")
	}
}
