package limit

import (
	"strconv"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func caller(t *testing.T, l *Limiter, name string, now time.Time) *Caller {
	t.Helper()
	c, ok := l.Caller(name, now)
	if !ok {
		t.Fatalf("%s was refused", name)
	}
	return c
}

// begun is how many of n requests may begin.
func begun(c *Caller, n int, now time.Time) (ok int) {
	for range n {
		if c.Begin(now) {
			ok++
		}
	}
	return ok
}

func TestCallerHasNoMoreConnectionsThanItMay(t *testing.T) {
	l := New(Bounds{CallerConnections: 2})
	a := caller(t, l, "a", start)
	caller(t, l, "a", start)
	if _, ok := l.Caller("a", start); ok {
		t.Error("a third connection was let in")
	}
	caller(t, l, "b", start) // another caller is not concerned
	a.Leave(start)
	caller(t, l, "a", start)
}

func TestRequestsUnderWayAreBoundedForEachCallerAndInAll(t *testing.T) {
	l := New(Bounds{Requests: 3, CallerRequests: 2})
	a, b := caller(t, l, "a", start), caller(t, l, "b", start)
	if n := begun(a, 3, start); n != 2 {
		t.Errorf("a has %d under way, and may have 2", n)
	}
	if n := begun(b, 2, start); n != 1 {
		t.Errorf("b has %d under way, and may have 1 of 3 in all", n)
	}
	a.End()
	if !b.Begin(start) {
		t.Error("a place that was given back is not free")
	}
}

func TestRateHoldsOverASecondAndOverReconnecting(t *testing.T) {
	l := New(Bounds{CallerRate: 10})
	a := caller(t, l, "a", start)
	count := func(now time.Time) (n int) {
		for a.Begin(now) {
			a.End()
			n++
		}
		return n
	}
	if n := count(start); n != 10 {
		t.Errorf("%d at once, want 10", n)
	}
	if n := count(start.Add(500 * time.Millisecond)); n != 5 {
		t.Errorf("%d after half a second, want 5", n)
	}
	a.Leave(start.Add(500 * time.Millisecond))
	a = caller(t, l, "a", start.Add(600*time.Millisecond))
	if n := count(start.Add(600 * time.Millisecond)); n != 1 {
		t.Errorf("%d after coming back at once, want 1", n)
	}
	now := start.Add(1400 * time.Millisecond)
	count(now)
	a.Leave(now)
	now = start.Add(1550 * time.Millisecond) // more than a second after it left first, not last
	a = caller(t, l, "a", now)
	if n := count(now); n != 1 {
		t.Errorf("%d after coming back twice, want 1", n)
	}
	if n := count(start.Add(time.Hour)); n != 10 {
		t.Errorf("%d after an hour, want 10", n)
	}
}

func TestCallersAreForgotten(t *testing.T) {
	for _, bounds := range []Bounds{{}, {CallerRate: 1}} {
		l := New(bounds)
		for i := range 1000 {
			caller(t, l, strconv.Itoa(i), start).Leave(start)
		}
		last := caller(t, l, "last", start.Add(2*time.Second))
		if n := l.Callers(); n != 1 {
			t.Errorf("%+v: %d callers are remembered, want 1", bounds, n)
		}
		last.Leave(start.Add(2 * time.Second))
	}
}

func TestNewBoundsHoldForCallersThatAreThere(t *testing.T) {
	l := New(Bounds{})
	a := caller(t, l, "a", start)
	if begun(a, 2, start) != 2 {
		t.Fatal("without bounds nothing is refused")
	}
	l.Set(Bounds{CallerRequests: 2})
	if a.Begin(start) {
		t.Error("a new bound does not hold")
	}
}

func TestCountsAreRightUnderConcurrency(t *testing.T) {
	l := New(Bounds{CallerRequests: 8, CallerConnections: 64, CallerRate: 1 << 30})
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 200 {
				c, ok := l.Caller("a", time.Now())
				if !ok {
					continue
				}
				if c.Begin(time.Now()) {
					c.End()
				}
				c.Leave(time.Now())
			}
		})
	}
	all.Wait()
	c := caller(t, l, "a", time.Now())
	if n := c.requests.Load() + l.requests.Load(); n != 0 || c.connections != 1 {
		t.Errorf("%d requests, %d connections are left", n, c.connections)
	}
}

func BenchmarkBegin(b *testing.B) {
	l := New(Bounds{Requests: 1 << 30, CallerRequests: 1 << 30})
	c, _ := l.Caller("a", start)
	b.ReportAllocs()
	for b.Loop() {
		if c.Begin(start) {
			c.End()
		}
	}
}
