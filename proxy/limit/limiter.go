package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a listener. Zero is no bound.
type Bounds struct {
	// Requests is how many may be under way in all.
	Requests int
	// CallerConnections, CallerRequests and CallerRate are for each caller: connections, requests under way, requests begun in a
	// second. As many as the rate may begin at once.
	CallerConnections int
	CallerRequests    int
	CallerRate        int
}

// Limiter counts for one listener. Safe for concurrent use.
type Limiter struct {
	bounds   atomic.Pointer[Bounds]
	requests atomic.Int64

	mu      sync.Mutex
	callers map[string]*Caller // guarded by mu: those with a connection, and those that left less than a second ago
	left    []departure        // guarded by mu: in the order of time
}

// departure is when a caller had no connection any more.
type departure struct {
	caller *Caller
	at     time.Time
}

// New returns a Limiter.
func New(bounds Bounds) *Limiter {
	l := &Limiter{callers: map[string]*Caller{}}
	l.Set(bounds)
	return l
}

// Set replaces the bounds. What is over a new one already may go on.
func (l *Limiter) Set(bounds Bounds) { l.bounds.Store(&bounds) }

// Caller returns the caller of that name for one more connection, or false when it has as many as it may. Each success wants one
// Leave.
func (l *Limiter) Caller(name string, now time.Time) (*Caller, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	c := l.callers[name]
	if c == nil {
		c = &Caller{limiter: l, name: name, tokens: float64(l.bounds.Load().CallerRate), refilled: now}
		l.callers[name] = c
	}
	if most := l.bounds.Load().CallerConnections; most > 0 && c.connections >= most {
		return nil, false
	}
	c.connections++
	return c, true
}

// Callers is how many are in memory.
func (l *Limiter) Callers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.callers)
}

// memory is how long a caller without connection is kept: after it, what it may begin at once is whole again.
const memory = time.Second

// forget drops the callers that left long enough ago. The lock is held.
func (l *Limiter) forget(now time.Time) {
	n := 0
	for n < len(l.left) && now.Sub(l.left[n].at) >= memory {
		c := l.left[n].caller
		if c.connections == 0 && c.left.Equal(l.left[n].at) && l.callers[c.name] == c {
			delete(l.callers, c.name)
		}
		n++
	}
	if n > 0 {
		l.left = append(l.left[:0], l.left[n:]...)
	}
}

// Caller is one that is counted. Safe for concurrent use.
type Caller struct {
	limiter     *Limiter
	name        string
	connections int       // guarded by limiter.mu
	left        time.Time // guarded by limiter.mu: when the last connection ended
	requests    atomic.Int64

	mu       sync.Mutex
	tokens   float64   // guarded by mu: requests that may begin at once
	refilled time.Time // guarded by mu
}

// Leave gives a connection back.
func (c *Caller) Leave(now time.Time) {
	l := c.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	c.connections--
	if c.connections > 0 {
		return
	}
	if l.bounds.Load().CallerRate <= 0 {
		delete(l.callers, c.name)
		return
	}
	c.left = now
	l.left = append(l.left, departure{c, now})
}

// Begin counts one request, or says that it is over a bound. Each success wants one End.
func (c *Caller) Begin(now time.Time) bool {
	l := c.limiter
	bounds := l.bounds.Load()
	if !within(&l.requests, bounds.Requests) {
		return false
	}
	if !within(&c.requests, bounds.CallerRequests) {
		l.requests.Add(-1)
		return false
	}
	if !c.take(bounds.CallerRate, now) {
		c.End()
		return false
	}
	return true
}

// End gives a request back.
func (c *Caller) End() {
	c.requests.Add(-1)
	c.limiter.requests.Add(-1)
}

// within adds one unless that is more than there may be.
func within(count *atomic.Int64, most int) bool {
	if n := count.Add(1); most > 0 && n > int64(most) {
		count.Add(-1)
		return false
	}
	return true
}

// take is a token bucket that holds what one second brings.
func (c *Caller) take(rate int, now time.Time) bool {
	if rate <= 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if passed := now.Sub(c.refilled); passed > 0 {
		c.tokens += passed.Seconds() * float64(rate)
		c.refilled = now
	}
	c.tokens = min(c.tokens, float64(rate))
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}
