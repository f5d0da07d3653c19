package upstream

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// pick returns the endpoint to ask next among those not tried yet, and whether there are more after it: an available one with the
// fewest requests under way; if none is available, any; if all have been tried, among all. So a cluster that looks dead is still
// asked. In panic the first choice is among all, available or not.
//
// Of few endpoints all are compared. Of many, two that are drawn: the load is spread nearly as well, and not every proxy that sees
// the same idle endpoint runs to it (Mitzenmacher, "The Power of Two Choices").
func (c *Cluster) pick(tried []*endpoint) (e *endpoint, more bool) {
	left := len(c.endpoints) - len(tried)
	if left <= 0 {
		tried, left = nil, len(c.endpoints)
	}
	now := time.Now().UnixNano()
	any := len(tried) == 0 && c.panicking(now)
	if left > scanned {
		if e := c.pickOfTwo(tried, any, now); e != nil {
			return e, left > 1
		}
	}
	return c.pickOfAll(tried, any, now), left > 1
}

// scanned is up to how many endpoints all are compared.
const scanned = 8

// pickOfTwo returns the less loaded of two that may be taken; nil when luck does not find them.
func (c *Cluster) pickOfTwo(tried []*endpoint, any bool, now int64) *endpoint {
	var first *endpoint
	for range maxDraws {
		e := c.endpoints[rand.IntN(len(c.endpoints))]
		if e == first || slices.Contains(tried, e) || !any && !e.health.available(now) {
			continue
		}
		if first == nil {
			first = e
			continue
		}
		if e.load() < first.load() {
			return e
		}
		return first
	}
	return nil
}

// maxDraws finds two of which half may be taken in 99 of 100 cases.
const maxDraws = 10

func (c *Cluster) pickOfAll(tried []*endpoint, any bool, now int64) *endpoint {
	var best, fallback *endpoint
	start := int(c.turn.Add(1) % uint64(len(c.endpoints)))
	for i := range c.endpoints {
		e := c.endpoints[(start+i)%len(c.endpoints)] // equal ones take turns
		if slices.Contains(tried, e) {
			continue
		}
		if fallback == nil || e.load() < fallback.load() {
			fallback = e
		}
		if (any || e.health.available(now)) && (best == nil || e.load() < best.load()) {
			best = e
		}
	}
	if best == nil {
		return fallback
	}
	return best
}

// panicking reports that fewer than half of the endpoints are available. To send everything to the few that are left would break
// them too, and so many are rarely broken at once: more likely it is the judgement that is.
func (c *Cluster) panicking(now int64) bool {
	if len(c.endpoints) > scanned {
		return c.panic.at(now, c.fewAvailable)
	}
	return c.fewAvailable(now)
}

func (c *Cluster) fewAvailable(now int64) bool { return 2*c.available(now) < len(c.endpoints) }

// available counts the endpoints that requests are sent to.
func (c *Cluster) available(now int64) int {
	n := 0
	for _, e := range c.endpoints {
		if e.health.available(now) {
			n++
		}
	}
	return n
}

// panicMode remembers for a moment whether a large cluster panics, since counting takes longer than the choice.
type panicMode struct {
	until atomic.Int64 // Unix nanoseconds
	on    atomic.Bool
}

func (p *panicMode) at(now int64, count func(now int64) bool) bool {
	if now >= p.until.Load() {
		p.on.Store(count(now))
		p.until.Store(now + int64(panicMemory))
	}
	return p.on.Load()
}

const panicMemory = 50 * time.Millisecond
