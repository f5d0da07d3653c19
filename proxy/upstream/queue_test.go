package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/registry"
)

// holds answers a request each time something comes from the channel.
func holds(turn <-chan struct{}) script {
	return func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			<-turn
			_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}
}

// waits returns once n requests wait for a connection.
func (b bench) waits(t *testing.T, n int64) {
	t.Helper()
	b.until(t, "requests wait", n, &b.endpoints[0].queued)
}

// busy returns once n connections carry a request.
func (b bench) busy(t *testing.T, n int64) {
	t.Helper()
	b.until(t, "connections are busy", n, &b.endpoints[0].active)
}

func (b bench) until(t *testing.T, what string, n int64, count *atomic.Int64) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for count.Load() != n {
		if time.Now().After(deadline) {
			t.Fatalf("%d %s, want %d", count.Load(), what, n)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestARequestWaitsForTheConnectionOfAnother(t *testing.T) {
	turn := make(chan struct{})
	finish := sync.OnceFunc(func() { close(turn) })
	defer finish()
	s := serve(t, holds(turn))
	c := cluster(t, func(o *Options) { o.MaxConnections = 1 }, s.address())
	var requests sync.WaitGroup
	for range 3 {
		requests.Go(func() {
			if _, err := c.ask(t, get("GET")); err != nil {
				t.Error(err)
			}
		})
	}
	c.waits(t, 2)
	finish()
	requests.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections were opened", n)
	}
}

// Late answers must not make every request dial: the handshakes would make all answers late.
func TestABurstOpensConnectionsOnlySoManyAtOnce(t *testing.T) {
	s := serve(t, answers("x"))
	var dialing, most atomic.Int32
	gate := make(chan struct{})
	c := cluster(t, func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			most.Store(max(most.Load(), dialing.Add(1)))
			defer dialing.Add(-1)
			<-gate
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}, s.address())
	var requests sync.WaitGroup
	const burst = 10 * maxDialing
	for range burst {
		requests.Go(func() {
			if got, err := c.ask(t, get("GET")); err != nil || got != "x" {
				t.Error(got, err)
			}
		})
	}
	c.waits(t, burst)
	close(gate)
	requests.Wait()
	if n := most.Load(); n > maxDialing {
		t.Errorf("%d dials at once", n)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	turn := make(chan struct{})
	finish := sync.OnceFunc(func() { close(turn) })
	defer finish()
	s := serve(t, holds(turn))
	c := cluster(t, func(o *Options) { o.MaxConnections, o.MaxWaiting = 2, 2 }, s.address())
	var requests sync.WaitGroup
	ask := func() { requests.Go(func() { _, _ = c.ask(t, get("GET")) }) }
	for n := range int64(2) {
		ask()
		c.busy(t, n+1)
	}
	for range 2 {
		ask()
	}
	c.waits(t, 2)
	_, err := c.ask(t, get("GET"))
	finish()
	requests.Wait()
	wantReason(t, err, observe.UpstreamOverloaded)
}

func TestWhoStopsWaitingLeavesTheQueue(t *testing.T) {
	turn := make(chan struct{})
	finish := sync.OnceFunc(func() { close(turn) })
	defer finish()
	s := serve(t, holds(turn))
	c := cluster(t, func(o *Options) { o.MaxConnections = 1 }, s.address())
	var requests sync.WaitGroup
	requests.Go(func() { _, _ = c.ask(t, get("GET")) })
	c.busy(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	requests.Go(func() {
		if _, err := c.RoundTrip(ctx, permit(t), get("GET"), Call{}); err == nil {
			t.Error("a request that was given up was answered")
		}
	})
	c.waits(t, 1)
	cancel()
	c.waits(t, 0)
	finish()
	requests.Wait()
}

// Who took the cluster before a reload replaced it has to be answered, whether it waits then or comes later.
func TestAClosedClusterServesWhoStillComesAndKeepsNothing(t *testing.T) {
	turn := make(chan struct{})
	finish := sync.OnceFunc(func() { close(turn) })
	defer finish()
	s := serve(t, holds(turn))
	c := cluster(t, func(o *Options) { o.MaxConnections = 1 }, s.address())
	var requests sync.WaitGroup
	ask := func() {
		requests.Go(func() {
			if _, err := c.ask(t, get("POST")); err != nil {
				t.Error(err)
			}
		})
	}
	ask()
	c.busy(t, 1)
	ask()
	c.waits(t, 1)
	c.Close()
	ask()
	c.waits(t, 2)
	finish()
	requests.Wait()
	if n := c.registry.Count(registry.Dialled); n != 0 {
		t.Errorf("%d connections are kept", n)
	}
}

func TestAPanicInADialFailsOneRequest(t *testing.T) {
	s := serve(t, answers("x"))
	var dials atomic.Int32
	c := cluster(t, func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				panic("a bug")
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}, s.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.Internal)
	if n := testutil.ToFloat64(c.options.Metrics.Panics); n != 1 {
		t.Errorf("%v panics counted", n)
	}
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Error(err)
	}
}

func TestAnEndpointThatSwallowsConnectionsIsReportedAsSuch(t *testing.T) {
	c := cluster(t, func(o *Options) {
		o.ConnectTimeout = 30 * time.Millisecond
		o.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}, Address{Network: "tcp", Target: "192.0.2.1:80"})
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamConnect)
}

// A request that is sent once more needs a fresh connection; unused ones must not take its place.
func TestAFreshConnectionTakesThePlaceOfAnUnusedOne(t *testing.T) {
	s := serve(t, answers("x"))
	c := cluster(t, func(o *Options) { o.MaxConnections = 1 }, s.address())
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	conn, failure := c.endpoints[0].acquire(ctx, true, true)
	if failure != nil {
		t.Fatal(failure)
	}
	if n := conn.requests.Load(); n != 0 {
		t.Errorf("the connection has carried %d requests", n)
	}
	conn.release(false)
}

// The registry's callbacks must not wait for a peer, as an orderly end under TLS does.
func TestUnusedConnectionsAreBrokenOffWhenTheyDrain(t *testing.T) {
	for name, drain := range map[string]func(c bench){
		"drain": func(c bench) { c.registry.DrainOwner(c.Cluster, observe.Drained) },
		"close": func(c bench) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			s := serve(t, func(conn net.Conn, r *bufio.Reader) {
				_, _ = readHead(r)
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
				_, err := r.ReadByte()
				ended <- err
			})
			c := cluster(t, nil, s.address())
			if _, err := c.ask(t, get("GET")); err != nil {
				t.Fatal(err)
			}
			drain(c)
			if err := <-ended; errors.Is(err, io.EOF) {
				t.Error("the connection was closed in order")
			}
		})
	}
}

// The registry may end a connection between its registration and its first use.
func TestAStreamThatEndsBeforeItIsUsedIsNotCountedForEver(t *testing.T) {
	s := serve(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	c := cluster(t, nil, s.address())
	e := c.endpoints[0]
	e.open.Add(1)
	conn, failure := e.connectCounted(t.Context(), purpose{byteStream: true})
	if failure != nil {
		t.Fatal(failure)
	}
	c.registry.CloseOwner(c.Cluster, observe.Revoked)
	conn.use() // as dial does
	conn.Finish(0, 0)
	if n := e.active.Load(); n != 0 {
		t.Errorf("%d are under way", n)
	}
}

func TestNoResponseTimeoutIsNoBound(t *testing.T) {
	c := cluster(t, nil)
	if d := c.options.HTTP.Timeouts.Response; d < 24*time.Hour {
		t.Errorf("a response may take %s", d)
	}
}
