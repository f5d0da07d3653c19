package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/registry"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func permit(t testing.TB) authz.Permit {
	t.Helper()
	p, ok := authz.Decided(authz.Decision{ID: 1, Effect: authz.Allow}).Permit()
	if !ok {
		t.Fatal("no permit")
	}
	return p
}

// service is a scripted upstream: each accepted connection is given to the next of its scripts, the last one repeats.
type service struct {
	listener net.Listener
	accepted atomic.Int32
	conns    sync.WaitGroup
}

// script serves one connection.
type script func(conn net.Conn, r *bufio.Reader)

func serve(t testing.TB, scripts ...script) *service {
	t.Helper()
	return serveOn(t, func(l net.Listener) net.Listener { return l }, scripts...)
}

func serveOn(t testing.TB, wrap func(net.Listener) net.Listener, scripts ...script) *service {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{listener: wrap(plain)}
	s.conns.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			n := int(s.accepted.Add(1))
			s.conns.Go(func() {
				stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
				defer stop()
				defer func() { _ = conn.Close() }()
				scripts[min(n, len(scripts))-1](conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { _ = s.listener.Close(); s.conns.Wait() })
	return s
}

func (s *service) address() Address {
	return Address{Network: "tcp", Target: s.listener.Addr().String()}
}

// readHead reads a request head and its body when a length is given; io.EOF when the connection ended.
func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		_, _ = fmt.Sscanf(strings.ToLower(line), "content-length: %d", &length)
		head.WriteString(line)
		if line == "\r\n" {
			_, err := io.CopyN(io.Discard, r, int64(length))
			return head.String(), err
		}
	}
}

// answers serves every request with a small response.
func answers(text string) script {
	return func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(text), text)
		}
	}
}

// bench is a cluster under test with what it reports to.
type bench struct {
	*Cluster
	registry *registry.Registry
}

func cluster(t testing.TB, change func(*Options), at ...Address) bench {
	t.Helper()
	metrics, err := observe.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(registry.Options{})
	options := Options{Name: "app", Endpoints: at, Registry: r, Metrics: metrics}
	if change != nil {
		change(&options)
	}
	c := New(options)
	t.Cleanup(func() {
		c.Close()
		for deadline := time.Now().Add(5 * time.Second); dialing(c) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // connections that nobody waited for any more
		}
		if n := r.Count(registry.Dialled); n != 0 {
			t.Errorf("%d connections are left after the test", n)
		}
		for _, e := range c.endpoints {
			if e.active.Load() != 0 || e.open.Load() != 0 {
				t.Errorf("endpoint counts %d active, %d open", e.active.Load(), e.open.Load())
			}
		}
	})
	return bench{c, r}
}

func dialing(c *Cluster) bool {
	for _, e := range c.endpoints {
		if e.open.Load() != 0 {
			return true
		}
	}
	return false
}

func get(method string) *l7.Request {
	return &l7.Request{Protocol: l7.HTTP11, Method: method, Scheme: "http", Authority: "app.test", Host: "app.test", Path: "/"}
}

// ask sends a request and returns the body of the answer.
func (b bench) ask(t testing.TB, req *l7.Request) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	resp, err := b.RoundTrip(ctx, permit(t), req, Call{})
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func wantReason(t *testing.T, err error, want observe.Reason) {
	t.Helper()
	e, ok := errors.AsType[*l7.Error](err)
	if !ok || e.Reason != want || e.Status != l7.StatusOf(want) {
		t.Fatalf("error %v, want reason %q with its status", err, want)
	}
}

func TestNothingIsSentWithoutAPermit(t *testing.T) {
	s := serve(t, answers("x"))
	c := cluster(t, nil, s.address())
	if _, err := c.RoundTrip(t.Context(), authz.Permit{}, get("GET"), Call{}); err == nil {
		t.Error("a request passed with the zero permit")
	}
	if _, err := c.Dial(t.Context(), authz.Permit{}, DialOptions{}); err == nil {
		t.Error("a connection was dialled with the zero permit")
	}
	if s.accepted.Load() != 0 {
		t.Error("something was dialled")
	}
}

func TestConnectionIsUsedAgain(t *testing.T) {
	s := serve(t, answers("x"))
	c := cluster(t, nil, s.address())
	for range 5 {
		if got, err := c.ask(t, get("POST")); err != nil || got != "x" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if n := s.accepted.Load(); n != 1 {
		t.Fatalf("%d connections for 5 requests", n)
	}
}

// once answers one request and then does something to the connection.
func once(then func(net.Conn)) script {
	return func(conn net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
		then(conn)
	}
}

func TestPooledConnectionThatTheUpstreamClosedIsNotUsed(t *testing.T) {
	pooled := make(chan struct{})
	s := serve(t, once(func(c net.Conn) { <-pooled; _ = c.Close() }), answers("fresh"))
	c := cluster(t, nil, s.address())
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	close(pooled)
	waitClosed(t, c)
	if got, err := c.ask(t, get("POST")); err != nil || got != "fresh" {
		t.Fatalf("a POST met the dead connection: %q, %v", got, err)
	}
}

// waitClosed waits until the end that the upstream sent has arrived at the unused connection.
func waitClosed(t testing.TB, c bench) {
	t.Helper()
	e := c.endpoints[0]
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		e.mu.Lock()
		idle := append([]*Conn(nil), e.idle...)
		e.mu.Unlock()
		if len(idle) == 0 || !newWatch(idle[0].raw).quiet() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the end did not arrive")
}

func TestBytesThatNobodyAskedForPoisonAConnection(t *testing.T) {
	pooled := make(chan struct{})
	s := serve(t, once(func(c net.Conn) {
		<-pooled
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
		_, _ = c.Read(make([]byte, 1))
	}), answers("good"))
	c := cluster(t, nil, s.address())
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	close(pooled)
	waitClosed(t, c)
	if got, err := c.ask(t, get("GET")); err != nil || got != "good" {
		t.Fatalf("the second request was answered %q, %v", got, err)
	}
}

// dies reads the second request on a connection and closes without an answer: what a close that crosses with a request looks like.
func dies(heads *atomic.Int32) script {
	return once(func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			heads.Add(1)
		}
	})
}

func TestRequestIsSentOnceMoreOnlyIfThatIsSafe(t *testing.T) {
	for _, test := range []struct {
		name, method string
		body         bool
		again        bool
	}{
		{"GET without body", "GET", false, true},
		{"DELETE without body", "DELETE", false, true},
		{"GET with a body", "GET", true, false},
		{"POST", "POST", false, false},
		{"PATCH", "PATCH", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var heads atomic.Int32
			s := serve(t, dies(&heads), answers("again"))
			c := cluster(t, nil, s.address())
			if _, err := c.ask(t, get("GET")); err != nil {
				t.Fatal(err)
			}
			req := get(test.method)
			if test.body {
				req.Body, req.ContentLength = l7.NewStringBody("abc"), 3
			}
			got, err := c.ask(t, req)
			if test.again && (err != nil || got != "again") {
				t.Fatalf("%q, %v; want the answer of a fresh connection", got, err)
			}
			if !test.again {
				wantReason(t, err, observe.UpstreamReset)
				if s.accepted.Load() != 1 {
					t.Fatal("the request was sent again")
				}
			}
			if heads.Load() != 1 {
				t.Fatalf("the first connection saw %d heads", heads.Load())
			}
		})
	}
}

func TestDeadEndpointIsPassedOverAndLeftAlone(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	s := serve(t, answers("alive"))
	var dials atomic.Int32
	c := cluster(t, func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == dead.Addr().String() {
				dials.Add(1)
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
		o.MaxIdle = -1 // a dial for every request
	}, Address{"tcp", dead.Addr().String()}, s.address())
	for range 10 {
		if got, err := c.ask(t, get("POST")); err != nil || got != "alive" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if dials.Load() != 1 {
		t.Fatalf("the dead endpoint was dialled %d times within a second", dials.Load())
	}
	only := cluster(t, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond }, Address{"tcp", dead.Addr().String()})
	_, err = only.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamConnect)
	none := cluster(t, nil)
	_, err = none.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamNone)
}

func TestLeastBusyEndpointIsTaken(t *testing.T) {
	hold := make(chan struct{})
	slow := serve(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			<-hold
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
		}
	})
	quick := serve(t, answers("quick"))
	c := cluster(t, func(o *Options) { o.MaxIdle = -1 }, slow.address(), quick.address())
	var waiting sync.WaitGroup
	for slow.accepted.Load() == 0 {
		waiting.Go(func() { _, _ = c.ask(t, get("GET")) })
		time.Sleep(5 * time.Millisecond)
	}
	for range 10 {
		if got, err := c.ask(t, get("GET")); err != nil || got != "quick" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(hold)
	waiting.Wait()
}

func TestTimeoutsAreTold(t *testing.T) {
	silent := serve(t, func(_ net.Conn, r *bufio.Reader) {
		_, _ = readHead(r)
		_, _ = r.ReadByte()
	})
	c := cluster(t, func(o *Options) { o.ResponseTimeout = 50 * time.Millisecond }, silent.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamTimeout)

	late := cluster(t, nil, silent.address())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = late.RoundTrip(ctx, permit(t), get("GET"), Call{})
	wantReason(t, err, observe.UpstreamTimeout)
}

func TestConnectionsAreBounded(t *testing.T) {
	hold := make(chan struct{})
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			<-hold
			_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	c := cluster(t, func(o *Options) { o.MaxConnections, o.ConnectTimeout = 1, 100*time.Millisecond }, s.address())
	var first sync.WaitGroup
	first.Go(func() { _, _ = c.ask(t, get("GET")) })
	for c.endpoints[0].open.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	_, err := c.ask(t, get("GET"))
	close(hold)
	first.Wait()
	wantReason(t, err, observe.UpstreamOverloaded)
}

func TestUnusedConnectionsEndAfterTheIdleTime(t *testing.T) {
	s := serve(t, answers("x"))
	c := cluster(t, func(o *Options) { o.IdleTimeout = 30 * time.Millisecond }, s.address())
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the unused connection stays")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestUpgradedConnectionIsATunnelAndNeverPooled(t *testing.T) {
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		head, err := readHead(r)
		if err != nil {
			return
		}
		if strings.Contains(strings.ToLower(head), "x-refuse") {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")
			_, _ = r.ReadByte()
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
		_, _ = io.Copy(conn, r)
	})
	c := cluster(t, nil, s.address())
	req := get("GET")
	req.Upgrade = "websocket"
	resp, err := c.RoundTrip(t.Context(), permit(t), req, Call{})
	if err != nil || resp.Status != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	stream, err := resp.Tunnel()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(stream, " world")
	got := make([]byte, 11)
	if _, err := io.ReadFull(stream, got); err != nil || string(got) != "hello world" {
		t.Fatalf("%q, %v", got, err)
	}
	_ = stream.Close()

	refused := get("GET")
	refused.Upgrade = "websocket"
	refused.Header.Add("x-refuse", "1")
	if got, err := c.ask(t, refused); err != nil || got != "no" {
		t.Fatalf("%q, %v", got, err)
	}
	c.endpoints[0].mu.Lock()
	defer c.endpoints[0].mu.Unlock()
	if len(c.endpoints[0].idle) != 0 {
		t.Fatal("a connection that saw an upgrade is in the pool")
	}
}

func TestDialledStreamIsRegisteredAndCounted(t *testing.T) {
	s := serve(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	c := cluster(t, nil, s.address())
	conn, err := c.Dial(t.Context(), permit(t), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.registry.Count(registry.Dialled) != 1 || c.endpoints[0].active.Load() != 1 {
		t.Fatal("the connection is not known")
	}
	_, _ = io.WriteString(conn, "ping")
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "ping" {
		t.Fatalf("%q, %v", got, err)
	}
	_ = conn.Close()
	conn.Finish(0, 0)
}
