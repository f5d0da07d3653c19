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

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// flapper is a service that dies with all its connections and comes back on the same address.
type flapper struct {
	t       testing.TB
	address Address
	serve   script

	mu       sync.Mutex
	listener net.Listener          // guarded by mu: nil while it is down
	conns    map[net.Conn]struct{} // guarded by mu
	tasks    sync.WaitGroup
}

func flaps(t testing.TB, serve script) *flapper {
	t.Helper()
	f := &flapper{t: t, serve: serve, conns: map[net.Conn]struct{}{}, address: Address{"tcp", "127.0.0.1:0"}}
	f.up()
	t.Cleanup(func() { f.down(); f.tasks.Wait() })
	return f
}

func (f *flapper) up() {
	l, err := (&net.ListenConfig{}).Listen(f.t.Context(), "tcp", f.address.Target)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.mu.Lock()
	f.listener, f.address.Target = l, l.Addr().String()
	f.mu.Unlock()
	f.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[conn] = struct{}{}
			dead := f.listener != l
			f.mu.Unlock()
			if dead {
				_ = conn.Close()
			}
			f.tasks.Go(func() {
				f.serve(conn, bufio.NewReader(conn))
				_ = conn.Close()
				f.mu.Lock()
				delete(f.conns, conn)
				f.mu.Unlock()
			})
		}
	})
}

func (f *flapper) down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener == nil {
		return
	}
	_ = f.listener.Close()
	f.listener = nil
	for conn := range f.conns {
		_ = conn.(*net.TCPConn).SetLinger(0) // as a process that is killed
		_ = conn.Close()
	}
}

// load sends requests from several clients until stop and returns how many were answered, and the errors.
func (b bench) load(t *testing.T, stop <-chan struct{}, clients int, next func() *l7.Request) (answered int64, failures []error) {
	t.Helper()
	var good atomic.Int64
	var mu sync.Mutex
	var tasks sync.WaitGroup
	for range clients {
		tasks.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := b.ask(t, next()); err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
					continue
				}
				good.Add(1)
			}
		})
	}
	tasks.Wait()
	return good.Load(), failures
}

// An endpoint that flaps each second, on a smaller scale.
func TestFlappingEndpointCostsIdempotentRequestsNothing(t *testing.T) {
	for _, alone := range []bool{false, true} {
		name := map[bool]string{false: "while another lives", true: "though it is the only one"}[alone]
		t.Run(name, func(t *testing.T) {
			dies := flaps(t, answers("x"))
			endpoints := []Address{dies.address}
			if !alone {
				endpoints = append(endpoints, serve(t, answers("x")).address())
			}
			c := cluster(t, nil, endpoints...)
			stop := make(chan struct{})
			go func() {
				defer close(stop)
				for range 8 {
					time.Sleep(100 * time.Millisecond)
					dies.down()
					time.Sleep(50 * time.Millisecond)
					dies.up()
				}
			}()
			answered, failures := c.load(t, stop, 6, func() *l7.Request { return get("GET") })
			if answered < 500 || int64(len(failures))*1000 > answered {
				t.Errorf("%d of %d requests failed, the first with %v", len(failures), answered, append(failures, nil)[0])
			}
			t.Logf("%d answered, %d failed", answered, len(failures))
		})
	}
}

func TestRequestsThatAreNotIdempotentReachAnEndpointOnceHoweverItFlaps(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	note := func(conn net.Conn, r *bufio.Reader) {
		for {
			head, err := readHead(r)
			if err != nil {
				return
			}
			line, _, _ := strings.Cut(head, "\r\n")
			mu.Lock()
			seen[line]++
			mu.Unlock()
			time.Sleep(time.Millisecond) // so that requests are under way when it dies
			_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}
	one, other := flaps(t, note), flaps(t, note)
	c := cluster(t, nil, one.address, other.address)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := range 6 {
			time.Sleep(40 * time.Millisecond)
			f := []*flapper{one, other}[i%2]
			f.down()
			time.Sleep(20 * time.Millisecond)
			f.up()
		}
	}()
	var id atomic.Int64
	answered, failures := c.load(t, stop, 6, func() *l7.Request {
		req := get("POST")
		req.Path = fmt.Sprintf("/%d", id.Add(1))
		return req
	})
	if answered == 0 {
		t.Fatal("nothing was answered")
	}
	for _, err := range failures {
		if e, ok := errors.AsType[*l7.Error](err); ok && !e.Sent {
			t.Errorf("a request failed of which nothing was sent: %v", err)
		}
	}
	for line, n := range seen {
		if n != 1 {
			t.Errorf("%q arrived %d times", line, n)
		}
	}
}

// Whoever restarts the only endpoint does not expect errors for what was not sent.
func TestRequestsWaitForAnEndpointThatIsAwayForAMoment(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			s := flaps(t, answers("x"))
			var dials atomic.Int32
			c := cluster(t, func(o *Options) {
				o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					dials.Add(1)
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}
			}, s.address)
			s.down()
			var requests sync.WaitGroup
			for range 50 {
				requests.Go(func() {
					if got, err := c.ask(t, get(method)); err != nil || got != "x" {
						t.Errorf("%q, %v", got, err)
					}
				})
			}
			time.Sleep(300 * time.Millisecond)
			if n := dials.Load(); n > 2*maxDialing {
				t.Errorf("%d dials to an endpoint that is away", n)
			}
			s.up()
			requests.Wait()
		})
	}
}

func TestByteStreamsWaitForAnEndpointThatIsAwayForAMoment(t *testing.T) {
	s := flaps(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	var dials atomic.Int32
	c := cluster(t, func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}, s.address)
	s.down()
	time.AfterFunc(200*time.Millisecond, s.up)
	conn, err := c.Dial(t.Context(), permit(t), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conn.Finish(0, 0)
	if n := dials.Load(); n > 10 {
		t.Errorf("%d dials", n)
	}
}

func TestAnEndpointThatHasBeenAwayForLongIsNotWaitedFor(t *testing.T) {
	s := flaps(t, answers("x"))
	c := cluster(t, nil, s.address)
	s.down()
	c.endpoints[0].gate.shut(time.Now().Add(-bridge), c.failed(observe.UpstreamConnect, errors.New("away")))
	began := time.Now()
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamConnect)
	if took := time.Since(began); took > bridge/2 {
		t.Errorf("it took %v to learn that", took)
	}
}

// resets reads requests and breaks each off without an answer.
func resets(heads *atomic.Int32) script {
	return func(_ net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			heads.Add(1)
		}
	}
}

func TestIdempotentRequestsAreTriedOnlySoOften(t *testing.T) {
	for _, test := range []struct {
		method string
		retry  Retry
		heads  int32
	}{
		{"GET", Retry{}, 3},
		{"GET", Retry{Attempts: 1}, 2},
		{"GET", Retry{Attempts: -1}, 1},
		{"POST", Retry{}, 1},
	} {
		var heads atomic.Int32
		s := serve(t, resets(&heads))
		c := cluster(t, func(o *Options) { o.Retry = test.retry }, s.address())
		_, err := c.ask(t, get(test.method))
		wantReason(t, err, observe.UpstreamReset)
		if n := heads.Load(); n != test.heads {
			t.Errorf("%s with %+v was sent %d times, want %d", test.method, test.retry, n, test.heads)
		}
	}
}

func TestRetriesEndWithTheirBudget(t *testing.T) {
	var heads atomic.Int32
	s := serve(t, resets(&heads))
	c := cluster(t, func(o *Options) {
		o.Retry = Retry{Attempts: 1, Budget: 0.1, MinPerSecond: -1}
		o.Outlier.Failures = -1
	}, s.address())
	for range 40 {
		_, err := c.ask(t, get("GET"))
		wantReason(t, err, observe.UpstreamReset)
	}
	if n := heads.Load(); n != 44 {
		t.Errorf("40 requests were sent %d times, want 4 retries", n)
	}
	if n := testutil.ToFloat64(c.metrics.retriesRefused); n != 36 {
		t.Errorf("%v retries counted as refused, want 36", n)
	}
	if n := testutil.ToFloat64(c.metrics.retries); n != 4 {
		t.Errorf("%v retries counted, want 4", n)
	}
}

func TestBudgetGoesByTheLastSeconds(t *testing.T) {
	b := budget{share: 0.5, perSecond: 1}
	now := time.Unix(1000, 0)
	for range 8 {
		b.request(now)
	}
	take := func(at time.Time, underWay int64) (n int) {
		for b.withdraw(at, underWay) {
			n++
		}
		return n
	}
	if n := take(now, 0); n != 4 {
		t.Errorf("%d retries for 8 requests, want half", n)
	}
	if n := take(now.Add(3*time.Second), 0); n != 1 {
		t.Errorf("%d retries in a later second, want the one of every second", n)
	}
	if n := take(now.Add(4*time.Second), 20); n != 5 {
		t.Errorf("%d retries with 20 under way after 5, want half together", n)
	}
	if n := take(now.Add(time.Minute), 0); n != 1 {
		t.Errorf("%d retries long after, want the one of every second", n)
	}
}

// status answers every request with it, and counts.
func status(code int, heads *atomic.Int32) script {
	return func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			heads.Add(1)
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Whatever\r\ncontent-length: 3\r\n\r\nbad", code)
		}
	}
}

func TestStatusIsTriedAgainElsewhereWhereTheCallSaysSo(t *testing.T) {
	for _, test := range []struct {
		name, method string
		on           []int
		body         bool
		want         int
	}{
		{"GET", "GET", []int{502, 503}, false, 200},
		{"another status", "GET", []int{502, 504}, false, 503},
		{"nothing said", "GET", nil, false, 503},
		{"POST", "POST", []int{503}, false, 503},
		{"PUT with a body", "PUT", []int{503}, true, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			var bad, good atomic.Int32
			first, second := serve(t, status(503, &bad)), serve(t, status(200, &good))
			c := cluster(t, nil, first.address(), second.address())
			c.turn.Store(1) // the next choice begins with the first
			req := get(test.method)
			if test.body {
				req.Body, req.ContentLength = l7.NewStringBody("abc"), 3
			}
			resp, err := c.RoundTrip(t.Context(), permit(t), req, Call{RetryOn: test.on})
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.Status != test.want || bad.Load() != 1 {
				t.Errorf("status %d after %d tries at the first, want %d", resp.Status, bad.Load(), test.want)
			}
		})
	}
}

func TestTheLastResponseIsPassedOnWhenNoMoreMayBeTried(t *testing.T) {
	var heads atomic.Int32
	s := serve(t, status(503, &heads))
	c := cluster(t, nil, s.address())
	resp, err := c.RoundTrip(t.Context(), permit(t), get("GET"), Call{RetryOn: []int{503}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.Status != 503 || string(body) != "bad" || heads.Load() != 3 {
		t.Errorf("status %d %q after %d tries", resp.Status, body, heads.Load())
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections for responses that were at hand", n)
	}
}

func TestNothingIsTriedAgainForAClientThatIsGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var heads atomic.Int32
	s := serve(t, func(_ net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			heads.Add(1)
			cancel()
			_, _ = r.ReadByte()
		}
	})
	c := cluster(t, nil, s.address())
	if _, err := c.RoundTrip(ctx, permit(t), get("GET"), Call{}); err == nil {
		t.Fatal("an answer")
	}
	if heads.Load() != 1 || c.endpoints[0].health.gateway.Load() != 0 {
		t.Errorf("%d tries, %d failures", heads.Load(), c.endpoints[0].health.gateway.Load())
	}
}

func TestResponseThatHasBegunIsNeverTriedAgain(t *testing.T) {
	var heads atomic.Int32
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			heads.Add(1)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-le")
		}
	})
	c := cluster(t, nil, s.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamReset)
	if heads.Load() != 1 {
		t.Errorf("%d tries", heads.Load())
	}
}
