package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// health is what is known of an endpoint: by what requests meet, which may eject it for a while, and by the checks of Run, which may
// turn it away until they succeed again. Safe for concurrent use.
type health struct {
	endpoint *endpoint

	// Connect failures in a row leave the endpoint alone: 1 s after the first, twice as long after each further one, up to 30 s.
	connects atomic.Int32
	alone    atomic.Int64 // until when, in Unix nanoseconds
	// Gateway failures in a row eject it; see Outlier.
	gateway  atomic.Int32
	ejected  atomic.Int64 // until when, in Unix nanoseconds
	unwell   atomic.Bool  // turned away by checks
	stopped  atomic.Bool
	mu       sync.Mutex
	times    int            // guarded by mu: ejections since it last answered well for long
	reason   observe.Reason // guarded by mu: of the last failure that counted
	returns  *time.Timer    // guarded by mu: counts the available ones anew when the endpoint comes back by itself
	streak   int            // guarded by mu: checks in a row with the result of the last
	lastGood bool           // guarded by mu: that result
}

// available reports that requests are sent to the endpoint, while there are others. The time is in Unix nanoseconds.
func (h *health) available(now int64) bool {
	if h.unwell.Load() || now < h.ejected.Load() {
		return false
	}
	return h.connects.Load() == 0 || now >= h.alone.Load()
}

// unreachable counts a dial that failed. Those that fail while the endpoint is left alone say nothing new.
func (h *health) unreachable(now time.Time, reason observe.Reason) {
	h.mu.Lock()
	n := h.connects.Load()
	if n > 0 && now.UnixNano() < h.alone.Load() {
		h.mu.Unlock()
		return
	}
	until := now.Add(min(time.Second<<min(n, 5), 30*time.Second))
	h.alone.Store(until.UnixNano())
	h.connects.Store(n + 1)
	h.mu.Unlock()
	h.endpoint.cluster.metrics.ejected(connectFailures)
	h.back(until, reason)
}

// reached counts a dial that succeeded.
func (h *health) reached() {
	if h.connects.Load() != 0 {
		h.connects.Store(0)
		h.endpoint.cluster.countAvailable()
	}
}

// answered counts a response that came to its end.
func (h *health) answered() {
	if h.gateway.Load() != 0 {
		h.gateway.Store(0)
	}
}

// failed counts a gateway failure and ejects the endpoint when it is one too many, unless too many others are.
func (h *health) failed(now time.Time, reason observe.Reason) {
	rule := &h.endpoint.cluster.options.Outlier
	if n := h.gateway.Add(1); rule.Failures < 0 || int(n) < rule.Failures {
		return
	}
	c := h.endpoint.cluster
	c.ejecting.Lock()
	defer c.ejecting.Unlock()
	if now.UnixNano() < h.ejected.Load() || 100*(c.ejected(now)+1) > rule.MaxEjectedPercent*len(c.endpoints) {
		return
	}
	h.eject(now, rule, reason)
}

func (h *health) eject(now time.Time, rule *Outlier, reason observe.Reason) {
	h.mu.Lock()
	if now.Sub(time.Unix(0, h.ejected.Load())) >= rule.Eject { // it has been back for as long
		h.times = 0
	}
	h.times++
	until := now.Add(min(time.Duration(h.times)*rule.Eject, rule.MaxEject))
	h.mu.Unlock()
	h.ejected.Store(until.UnixNano())
	h.gateway.Store(0)
	h.endpoint.cluster.metrics.ejected(gatewayFailures)
	h.back(until, reason)
}

// ejected counts the endpoints that gateway failures keep away.
func (c *Cluster) ejected(now time.Time) int {
	n := 0
	for _, e := range c.endpoints {
		if now.UnixNano() < e.health.ejected.Load() {
			n++
		}
	}
	return n
}

// back notes why the endpoint is away and counts the available ones, now and when it comes back.
func (h *health) back(until time.Time, reason observe.Reason) {
	h.mu.Lock()
	h.reason = reason
	if h.returns == nil {
		h.returns = time.AfterFunc(time.Until(until), h.endpoint.cluster.countAvailable)
	} else {
		h.returns.Reset(time.Until(until))
	}
	if h.stopped.Load() {
		h.returns.Stop()
	}
	h.mu.Unlock()
	h.endpoint.cluster.countAvailable()
}

// checked counts the result of a check and reports whether it changed what is thought of the endpoint.
func (h *health) checked(good bool, rule *Health, reason observe.Reason) bool {
	h.mu.Lock()
	if good != h.lastGood {
		h.streak, h.lastGood = 0, good
	}
	h.streak++
	streak := h.streak
	if !good {
		h.reason = reason
	}
	h.mu.Unlock()
	if good && streak >= rule.Healthy {
		return h.unwell.CompareAndSwap(true, false)
	}
	if !good && streak >= rule.Unhealthy {
		return h.unwell.CompareAndSwap(false, true)
	}
	return false
}

// lastReason is why the endpoint was last held against it.
func (h *health) lastReason() observe.Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reason
}

// stop ends the timer of a cluster that is closed, whose name may be another's now.
func (h *health) stop() {
	h.stopped.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.returns != nil {
		h.returns.Stop()
	}
}

// countAvailable tells the metric, as long as the name is this cluster's.
func (c *Cluster) countAvailable() {
	if !c.closed.Load() {
		c.metrics.available.Set(float64(c.available(time.Now().UnixNano())))
	}
}

// Reasons of ejections in the metric.
const (
	connectFailures = "connect"
	gatewayFailures = "gateway"
)
