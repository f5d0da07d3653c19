package upstream

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// gate holds back the dials to an endpoint that could not be reached: one at a time, at distances that grow, however many requests
// wait for it. What that dial meets holds for them all. The zero value is open.
type gate struct {
	failures int       // in a row
	since    time.Time // of the first of them
	opens    time.Time
	last     *l7.Error
	timer    *time.Timer // set while requests wait for the gate to open
}

// shut closes the gate after a dial that failed.
func (g *gate) shut(now time.Time, failure *l7.Error) {
	if g.failures == 0 {
		g.since = now
	}
	g.failures++
	g.last = failure
	longest := min(gateMin<<min(g.failures-1, 10), gateMax)
	g.opens = now.Add(longest/2 + rand.N(longest/2)) // not all proxies at once
}

// closed reports that the endpoint could not be reached, and that it is not to be tried at the moment.
func (g *gate) closed(now time.Time) bool { return g.failures > 0 && now.Before(g.opens) }

// bridged reports that the endpoint was lost so shortly ago that who wants it may wait for it to come back. When it has been away
// for longer, requests fail at once: they would only queue up.
func (e *endpoint) bridged(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gate.failures > 0 && now.Sub(e.gate.since) < bridge
}

// passGate waits until the endpoint may be dialled; who is not patient, and has another endpoint to go to, learns at once why not.
func (e *endpoint) passGate(ctx context.Context, patient bool) *l7.Error {
	e.mu.Lock()
	g := e.gate
	e.mu.Unlock()
	now := time.Now()
	if !g.closed(now) {
		return nil
	}
	if !patient {
		return g.last
	}
	if !pause(ctx, g.opens.Sub(now)) {
		return e.failed(l7.ReasonOf(context.Cause(ctx), observe.UpstreamConnect), context.Cause(ctx))
	}
	return nil
}

// pause waits; false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

const (
	// gateMin and gateMax bound the distance of dials to an endpoint that is away: small against the time that a process takes to
	// start again, and as good as nothing for the machine.
	gateMin = 25 * time.Millisecond
	gateMax = 250 * time.Millisecond
	// bridge is ample for a process that is started again after it died.
	bridge = 2 * time.Second
)
