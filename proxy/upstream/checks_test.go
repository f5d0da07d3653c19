package upstream

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
)

// run runs the cluster's tasks until the test ends.
func (b bench) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var task sync.WaitGroup
	task.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); task.Wait() })
}

// becomes waits until the first endpoint is in the state.
func (b bench) becomes(t *testing.T, want State) EndpointStatus {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		is := b.Status()[0]
		if is.State == want {
			return is
		}
		if time.Now().After(deadline) {
			t.Fatalf("the endpoint is %+v, want %s", is, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHealthCheckTurnsAnEndpointAwayAndBack(t *testing.T) {
	var ill atomic.Bool
	var checked, asked atomic.Int32
	var line atomic.Pointer[string]
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head, err := readHead(r)
			if err != nil {
				return
			}
			code := 200
			if strings.Contains(head, "/ready") {
				checked.Add(1)
				line.Store(&head)
				if ill.Load() {
					code = 500
				}
			} else {
				asked.Add(1)
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Whatever\r\ncontent-length: 0\r\n\r\n", code)
		}
	})
	well := serve(t, answers("x"))
	c := cluster(t, func(o *Options) {
		o.Health = Health{Path: "/ready?deep=1", Host: "app.test", Interval: 5 * time.Millisecond, Healthy: 2, Unhealthy: 3}
	}, s.address(), well.address())
	c.run(t)
	ill.Store(true)
	is := c.becomes(t, Unhealthy)
	if is.Reason != observe.UpstreamProtocol {
		t.Errorf("status %+v", is)
	}
	if n := checked.Load(); n < 3 {
		t.Errorf("turned away after %d checks", n)
	}
	if head := *line.Load(); !strings.HasPrefix(head, "GET /ready?deep=1 HTTP/1.1\r\n") || !strings.Contains(strings.ToLower(head), "host: app.test\r\n") {
		t.Errorf("the check asks %q", head)
	}
	before := asked.Load()
	for range 10 {
		if _, err := c.ask(t, get("GET")); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != before {
		t.Error("requests go to an endpoint that is unhealthy")
	}
	if n := testutil.ToFloat64(c.metrics.available); n != 1 {
		t.Errorf("%v endpoints are said to be available", n)
	}
	ill.Store(false)
	c.becomes(t, Available)
	if testutil.ToFloat64(c.metrics.healthy) < 2 || testutil.ToFloat64(c.metrics.unhealthy) < 3 {
		t.Error("checks are not counted")
	}
}

func TestHealthCheckWithoutAPathConnectsOnly(t *testing.T) {
	s := flaps(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	c := cluster(t, func(o *Options) { o.Health = Health{Interval: 5 * time.Millisecond, Healthy: 1, Unhealthy: 2} }, s.address)
	c.run(t)
	s.down()
	if is := c.becomes(t, Unhealthy); is.Reason != observe.UpstreamConnect {
		t.Errorf("status %+v", is)
	}
	s.up()
	c.becomes(t, Available)
}

func TestCheckThatSucceedsEndsTheTimeAnEndpointIsLeftAlone(t *testing.T) {
	s := serve(t, answers("x"))
	c := cluster(t, func(o *Options) { o.Health = Health{Interval: 5 * time.Millisecond} }, s.address())
	c.endpoints[0].health.unreachable(time.Now().Add(time.Hour), observe.UpstreamConnect)
	if is := c.Status()[0]; is.State != Ejected || is.Reason != observe.UpstreamConnect {
		t.Fatalf("status %+v", is)
	}
	c.run(t)
	c.becomes(t, Available)
}

func TestASilentEndpointHoldsUpNoOtherCheck(t *testing.T) {
	var checks atomic.Int32
	c := cluster(t, func(o *Options) {
		o.Health = Health{Interval: time.Millisecond, Timeout: 5 * time.Second}
		o.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "192.0.2.1:") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			checks.Add(1)
			return nil, net.ErrClosed
		}
	}, nowhere(2)...)
	c.run(t)
	deadline := time.Now().Add(4 * time.Second)
	for checks.Load() < 10 {
		if time.Now().After(deadline) {
			t.Fatalf("%d checks of the other endpoint", checks.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRunWithoutAnythingToDoEndsWithItsContext(t *testing.T) {
	c := cluster(t, nil, nowhere(1)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}
