package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// patience is how long a test waits for what must happen.
const patience = 5 * time.Second

// testServer is an engine behind a real socket.
type testServer struct {
	t       *testing.T
	address string
	reasons chan observe.Reason
	conns   chan *ServerConn
}

func startServer(t *testing.T, options ServerOptions) *testServer {
	t.Helper()
	if options.Timeouts.Linger == 0 {
		options.Timeouts.Linger = 200 * time.Millisecond
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{t: t, address: listener.Addr().String(), reasons: make(chan observe.Reason, 1000), conns: make(chan *ServerConn, 1000)}
	server := NewServer(options)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				c := server.NewConn(conn.(*net.TCPConn))
				s.conns <- c
				s.reasons <- c.Serve(ctx)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		running.Wait()
	})
	return s
}

func (s *testServer) dial() *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{t: s.t, conn: conn.(*net.TCPConn), r: bufio.NewReader(conn)}
}

func (s *testServer) wantReason(want observe.Reason) {
	s.t.Helper()
	select {
	case got := <-s.reasons:
		if got != want {
			s.t.Errorf("connection ended for %q, want %q", got, want)
		}
	case <-time.After(patience):
		s.t.Fatal("connection did not end")
	}
}

// client speaks bytes.
type client struct {
	t    *testing.T
	conn *net.TCPConn
	r    *bufio.Reader
}

func (c *client) send(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, raw); err != nil {
		c.t.Fatal(err)
	}
}

// response reads one response to a request with that method with net/http.
func (c *client) response(method string) answer {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return answerOf(resp, string(body))
}

func (c *client) want(method string, status int, body string) answer {
	c.t.Helper()
	got := c.response(method)
	if got.status != status || got.body != body {
		c.t.Fatalf("got %d %q, want %d %q", got.status, got.body, status, body)
	}
	return got
}

// line reads up to the next line end.
func (c *client) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read line: %v", err)
	}
	return strings.TrimRight(line, "\r\n")
}

// wantEnd reads to the end of the connection and wants nothing more on it.
func (c *client) wantEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if len(rest) > 0 {
		c.t.Fatalf("connection goes on: %q", rest)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && strings.Contains(err.Error(), "timeout") {
		c.t.Fatalf("connection did not end: %v", err)
	}
}

// echo answers with what it understood of the request and its body.
func echo(_ context.Context, ex l7.Exchange) {
	req := ex.Request()
	text := req.Method + " " + req.Authority + " " + req.Path
	if req.RawQuery != "" {
		text += "?" + req.RawQuery
	}
	if req.Body != nil {
		content, err := io.ReadAll(req.Body)
		if err != nil {
			e := asError(err)
			_ = ex.WriteResponse(stringResponse(e.Status, e.Reason.String()))
			return
		}
		text += " " + string(content)
		for name, value := range req.Body.Trailer().All() {
			text += " " + name + "=" + value
		}
	}
	_ = ex.WriteResponse(stringResponse(200, text))
}

func stringResponse(status int, text string) *l7.Response {
	return &l7.Response{Status: status, ContentLength: int64(len(text)), Body: l7.NewStringBody(text)}
}

func echoServer(t *testing.T) *testServer {
	return startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo)})
}

// proxyTo forwards every request to the address over a connection of its own, or one that is kept.
type proxyTo struct {
	t       *testing.T
	address string
	client  *Client

	mu   sync.Mutex
	kept []*ClientConn
	// dials counts connections that were opened.
	dials int
}

func newProxy(t *testing.T, address string, options ClientOptions) *proxyTo {
	p := &proxyTo{t: t, address: address, client: NewClient(options)}
	t.Cleanup(func() {
		for _, c := range p.kept {
			_ = c.Close()
		}
	})
	return p
}

func (p *proxyTo) take() (*ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.kept); n > 0 {
		c := p.kept[n-1]
		p.kept = p.kept[:n-1]
		return c, nil
	}
	p.dials++
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		return nil, err
	}
	return p.client.NewConn(conn.(*net.TCPConn)), nil
}

func (p *proxyTo) keep(c *ClientConn) {
	if !c.Reusable() {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.kept = append(p.kept, c)
	p.mu.Unlock()
}

// ServeExchange implements l7.Handler.
func (p *proxyTo) ServeExchange(ctx context.Context, ex l7.Exchange) {
	c, err := p.take()
	if err != nil {
		_ = ex.WriteResponse(stringResponse(503, "connect"))
		return
	}
	resp, err := c.RoundTrip(ctx, ex.Request(), func(status int, h *l7.Header) { _ = ex.Informational(status, h) })
	if err != nil {
		_ = c.Close()
		e := asError(err)
		_ = ex.WriteResponse(stringResponse(e.Status, e.Reason.String()))
		return
	}
	if resp.Status == 101 {
		p.tunnel(ex, resp)
		return
	}
	_ = ex.WriteResponse(resp)
	_ = resp.Body.Close()
	p.keep(c)
}

func (p *proxyTo) tunnel(ex l7.Exchange, resp *l7.Response) {
	up, err := l7.Tunnel(resp)
	if err != nil {
		p.t.Error(err)
		return
	}
	down, err := ex.Tunnel(resp)
	if err != nil {
		p.t.Error(err)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, down)
		_ = up.CloseWrite()
	}()
	_, _ = io.Copy(down, up)
	_ = down.CloseWrite()
	<-done
	_ = up.Close()
	_ = down.Close()
}
