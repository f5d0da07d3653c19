package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
)

// nowhere returns addresses that nothing is dialled at.
func nowhere(n int) []Address {
	list := make([]Address, n)
	for i := range list {
		list[i] = Address{"tcp", fmt.Sprintf("192.0.2.%d:80", i+1)}
	}
	return list
}

func TestAnEndpointThatCannotBeReachedIsLeftAloneLongerEachTime(t *testing.T) {
	c := cluster(t, nil, nowhere(1)...)
	h := &c.endpoints[0].health
	now := time.Now()
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		h.unreachable(now, observe.UpstreamConnect)
		h.unreachable(now.Add(want/2), observe.UpstreamConnect) // of a dial that was under way
		if h.available(now.Add(want-time.Millisecond).UnixNano()) || !h.available(now.Add(want).UnixNano()) {
			t.Fatalf("after %d failures: want it left alone for %v", i+1, want)
		}
		now = now.Add(want)
	}
	h.reached()
	if !h.available(now.UnixNano()) {
		t.Fatal("a success must end it")
	}
	if n := testutil.ToFloat64(c.options.Metrics.UpstreamEjections.WithLabelValues("app", connectFailures)); n != 7 {
		t.Errorf("%v ejections counted, want 7", n)
	}
}

func TestEjectionsGrowByMultiplesAndBeginAgain(t *testing.T) {
	c := cluster(t, func(o *Options) { o.Outlier = Outlier{Failures: 2, Eject: time.Minute, MaxEject: 150 * time.Second} }, nowhere(2)...)
	h := &c.endpoints[0].health
	now := time.Now()
	eject := func(want time.Duration) {
		t.Helper()
		h.failed(now, observe.UpstreamReset)
		if !h.available(now.UnixNano()) {
			t.Fatal("one failure is enough")
		}
		h.failed(now, observe.UpstreamReset)
		if h.available(now.Add(want-1).UnixNano()) || !h.available(now.Add(want).UnixNano()) {
			t.Fatalf("want it ejected for %v", want)
		}
		now = now.Add(want)
	}
	eject(time.Minute)
	eject(2 * time.Minute)
	eject(150 * time.Second)
	now = now.Add(time.Minute) // it answers well for as long as an ejection lasts
	eject(time.Minute)
}

func TestASuccessEndsARowOfFailures(t *testing.T) {
	c := cluster(t, func(o *Options) { o.Outlier.Failures = 2 }, nowhere(2)...)
	h := &c.endpoints[0].health
	for range 5 {
		h.failed(time.Now(), observe.UpstreamReset)
		h.answered()
	}
	if !h.available(time.Now().UnixNano()) {
		t.Error("it is ejected for failures that did not follow one another")
	}
}

func TestOnlyAShareOfTheEndpointsIsEjected(t *testing.T) {
	for percent, want := range map[int]int{0: 5, 30: 3, 19: 1, 9: 0, -1: 0, 100: 10} {
		c := cluster(t, func(o *Options) { o.Outlier = Outlier{Failures: 1, MaxEjectedPercent: percent} }, nowhere(10)...)
		for _, e := range c.endpoints {
			e.health.failed(time.Now(), observe.UpstreamReset)
		}
		if n := c.ejected(time.Now()); n != want {
			t.Errorf("%d of 10 endpoints ejected with %d %%, want %d", n, percent, want)
		}
	}
	alone := cluster(t, func(o *Options) { o.Outlier.Failures = 1 }, nowhere(1)...)
	alone.endpoints[0].health.failed(time.Now(), observe.UpstreamReset)
	if alone.ejected(time.Now()) != 0 {
		t.Error("the only endpoint is ejected")
	}
}

func TestEndpointThatAnswersBadlyIsEjectedAndComesBack(t *testing.T) {
	var bad atomic.Bool
	bad.Store(true)
	var asked atomic.Int32
	doubtful := serve(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			asked.Add(1)
			code := 200
			if bad.Load() {
				code = 503
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Whatever\r\ncontent-length: 0\r\n\r\n", code)
		}
	})
	good := serve(t, answers("x"))
	c := cluster(t, func(o *Options) { o.Outlier = Outlier{Failures: 3, Eject: 150 * time.Millisecond} }, doubtful.address(), good.address())
	for range 20 {
		if _, err := c.ask(t, get("GET")); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 3 {
		t.Fatalf("it was asked %d times, want 3", n)
	}
	is := c.Status()[0]
	if is.State != Ejected || is.Reason != observe.UpstreamProtocol || time.Until(is.Until) > 150*time.Millisecond || c.Status()[1].State != Available {
		t.Errorf("status %+v", c.Status())
	}
	available := c.metrics.available
	if n := testutil.ToFloat64(available); n != 1 {
		t.Errorf("%v endpoints are said to be available", n)
	}
	bad.Store(false)
	deadline := time.Now().Add(5 * time.Second)
	for asked.Load() == 3 && time.Now().Before(deadline) {
		if _, err := c.ask(t, get("GET")); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() == 3 {
		t.Fatal("it does not come back")
	}
	for testutil.ToFloat64(available) != 2 {
		if time.Now().After(deadline) {
			t.Fatalf("%v endpoints are said to be available", testutil.ToFloat64(available))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestConnectionsThatBreakOffAreGatewayFailures(t *testing.T) {
	for name, test := range map[string]struct {
		serve script
		want  observe.Reason
	}{
		"reset":     {func(_ net.Conn, r *bufio.Reader) { _, _ = readHead(r) }, observe.UpstreamReset},
		"malformed": {func(c net.Conn, r *bufio.Reader) { _, _ = readHead(r); _, _ = io.WriteString(c, "HELO\r\n\r\n") }, observe.UpstreamProtocol},
		"silent":    {func(_ net.Conn, r *bufio.Reader) { _, _ = readHead(r); _, _ = r.ReadByte() }, observe.UpstreamTimeout},
		"half a body": {func(c net.Conn, r *bufio.Reader) {
			_, _ = readHead(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
		}, observe.UpstreamReset},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, test.serve)
			c := cluster(t, func(o *Options) {
				o.ResponseTimeout = 50 * time.Millisecond
				o.Outlier = Outlier{Failures: 1, MaxEjectedPercent: 100}
			}, s.address())
			_, err := c.ask(t, get("POST"))
			wantReason(t, err, test.want)
			if is := c.Status()[0]; is.State != Ejected || is.Reason != test.want {
				t.Errorf("status %+v", is)
			}
		})
	}
}

func TestAClientThatLeavesInTheMiddleOfAResponseSaysNothingOfTheEndpoint(t *testing.T) {
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
			_, _ = r.ReadByte()
		}
	})
	c := cluster(t, func(o *Options) { o.Outlier = Outlier{Failures: 1, MaxEjectedPercent: 100} }, s.address())
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := c.RoundTrip(ctx, permit(t), get("GET"), Call{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half a body is taken for the whole")
	}
	_ = resp.Body.Close()
	if is := c.Status()[0]; is.State != Available {
		t.Errorf("status %+v", is)
	}
}

// away marks an endpoint as ejected.
func (e *endpoint) away() { e.health.ejected.Store(time.Now().Add(time.Hour).UnixNano()) }

func TestWithMostEndpointsGoneAllAreUsed(t *testing.T) {
	for _, n := range []int{4, 20} { // those that are compared, and those that are drawn
		c := cluster(t, nil, nowhere(n)...)
		used := func() int {
			seen := map[*endpoint]bool{}
			for range 100 * n {
				e, _ := c.pick(nil)
				seen[e] = true
			}
			return len(seen)
		}
		for _, e := range c.endpoints[:n/2] {
			e.away()
		}
		if got := used(); got != n/2 {
			t.Errorf("with half of %d gone %d are used", n, got)
		}
		c.endpoints[n/2].away()
		time.Sleep(panicMemory)
		if got := used(); got != n {
			t.Errorf("with most of %d gone %d are used, want all", n, got)
		}
		first, _ := c.pick(nil)
		if next, _ := c.pick([]*endpoint{first}); !next.health.available(time.Now().UnixNano()) {
			t.Errorf("the second choice of %d is not an available one", n)
		}
	}
}

func TestOfManyEndpointsTheBusiestIsLeftAlone(t *testing.T) {
	c := cluster(t, nil, nowhere(20)...)
	for i, e := range c.endpoints {
		e.active.Store(int64(i))
	}
	counts := map[*endpoint]int{}
	for range 5000 {
		e, more := c.pick(nil)
		if !more {
			t.Fatal("there are more")
		}
		counts[e]++
	}
	if n := counts[c.endpoints[19]]; n != 0 {
		t.Errorf("the busiest was taken %d times", n)
	}
	if most, least := counts[c.endpoints[0]], counts[c.endpoints[10]]; most <= least || most > 5000/5 {
		t.Errorf("the least busy was taken %d times, one in the middle %d times", most, least)
	}
	for _, e := range c.endpoints {
		e.active.Store(0)
	}
}

func TestEndpointsThatWereTriedComeLast(t *testing.T) {
	for _, n := range []int{3, 12} {
		c := cluster(t, nil, nowhere(n)...)
		var tried []*endpoint
		for i := range n {
			e, more := c.pick(tried)
			if contains := len(tried) > 0 && e == tried[len(tried)-1]; contains || more != (i < n-1) {
				t.Fatalf("choice %d of %d: more %v", i, n, more)
			}
			tried = append(tried, e)
		}
	}
}
