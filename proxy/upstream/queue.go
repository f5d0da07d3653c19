package upstream

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// maxDialing is how many connections an endpoint opens at once for requests that wait. Without a bound a moment in which answers are
// late makes every request dial, the handshakes make all answers late, and the endpoint does nothing but shake hands: at 2,000
// requests per second on two busy processors 59 of 100 requests found the limit of connections reached, with the bound none.
const maxDialing = 32

// waiter is a request that waits for a connection, or a place on one: whichever is there first, what another request gives back or
// what is dialled for those who wait.
type waiter struct {
	fresh bool // only an HTTP/1 connection that has carried no request will do
	got   chan delivery
	// begin returns a context for a dial, which outlives the request: the connection may serve another one.
	begin func() (context.Context, context.CancelFunc)
}

// delivery has a connection, counted as used, or says why there is none.
type delivery struct {
	conn    *Conn
	failure *l7.Error
}

// attempt is a dial on behalf of those who wait.
type attempt struct {
	cancel context.CancelFunc
	places int // how many of them it was begun for
}

// acquire returns a connection with a place for one request, counted. fresh asks for one that has carried none, or that many
// share. Who is not patient does not wait for an endpoint that could not be reached a moment ago.
func (e *endpoint) acquire(ctx context.Context, fresh, patient bool) (*Conn, *l7.Error) {
	for {
		conn, w, failure := e.joinQueue(ctx, fresh, patient)
		if w != nil {
			conn, failure = e.wait(ctx, w)
		}
		if conn == nil || conn.multi != nil || conn.requests.Load() == 0 || w == nil {
			return conn, failure
		}
		if conn.leavePool() { // it has not been asked since another request gave it back
			return conn, nil
		}
	}
}

// wait returns what comes to a place in the queue.
func (e *endpoint) wait(ctx context.Context, w *waiter) (*Conn, *l7.Error) {
	defer e.queued.Add(-1)
	timer := time.NewTimer(e.cluster.options.ConnectTimeout + dialGrace)
	defer timer.Stop()
	var failure *l7.Error
	select {
	case d := <-w.got:
		return d.conn, d.failure
	case <-ctx.Done():
		// What ended the request (a new policy, say) is the reason, not the connection that it no longer waits for.
		failure = e.failed(l7.ReasonOf(context.Cause(ctx), observe.UpstreamConnect), context.Cause(ctx))
	case <-timer.C:
		failure = e.tooLate()
	}
	if e.leaveQueue(w) {
		return nil, failure
	}
	if d := <-w.got; d.conn != nil { // served at the last moment
		d.conn.giveBack()
	}
	return nil, failure
}

// tooLate is what a request learns that has waited long enough: why no connection comes about, or that all are in use.
func (e *endpoint) tooLate() *l7.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate.failures > 0 {
		return e.gate.last
	}
	return e.failed(observe.UpstreamOverloaded, errors.New("no connection became free in time"))
}

// joinQueue returns a connection that is there; or a place in the queue; or a failure.
func (e *endpoint) joinQueue(ctx context.Context, fresh, patient bool) (*Conn, *waiter, *l7.Error) {
	for {
		if !fresh {
			if conn := e.pooled(); conn != nil {
				return conn, nil, nil
			}
		}
		now := time.Now()
		e.mu.Lock()
		if !fresh && len(e.idle) > 0 { // given back since
			e.mu.Unlock()
			continue
		}
		conn, unused := e.reserve(now)
		var w *waiter
		var failure *l7.Error
		switch {
		case conn != nil:
		case !patient && e.gate.closed(now):
			failure = e.gate.last
		default:
			w, failure = e.join(ctx, fresh)
			unused = append(unused, e.roomFor(fresh)...)
		}
		e.mu.Unlock()
		closeAll(unused) // their end starts dials
		return conn, w, failure
	}
}

// join takes a place in the queue. The lock is held.
func (e *endpoint) join(ctx context.Context, fresh bool) (*waiter, *l7.Error) {
	if len(e.waiting) >= e.cluster.options.MaxWaiting {
		return nil, e.failed(observe.UpstreamOverloaded, errors.New("too many requests wait for a connection"))
	}
	timeout := e.cluster.options.ConnectTimeout
	w := &waiter{fresh: fresh, got: make(chan delivery, 1), begin: func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.WithoutCancel(ctx), timeout)
	}}
	e.waiting = append(e.waiting, w)
	e.queued.Add(1)
	e.dialForWaiters()
	return w, nil
}

// dialForWaiters starts as many dials as those who wait need, within the bounds. The lock is held.
//
//nolint:contextcheck,nolintlint // a dial belongs to whoever waits, not to whom it is started by; nolintlint does not see the use
func (e *endpoint) dialForWaiters() {
	places := e.placesPerDial()
	for len(e.dials) < e.dialsWanted(places) && e.open.Load() < int64(e.cluster.options.MaxConnections) {
		ctx, cancel := e.waiting[0].begin()
		a := &attempt{cancel: cancel, places: places}
		e.dials[a] = struct{}{}
		e.open.Add(1)
		go e.dialFor(ctx, a)
	}
}

// dialsWanted is how many connections should be being opened. The lock is held.
func (e *endpoint) dialsWanted(places int) int {
	wanted := min((len(e.waiting)+places-1)/places, maxDialing)
	if wanted == 0 || e.empty() {
		return 0
	}
	if e.gate.failures == 0 {
		return wanted
	}
	if in := time.Until(e.gate.opens); in > 0 {
		if e.gate.timer == nil {
			e.gate.timer = time.AfterFunc(in, e.gateOpens)
		}
		return 0
	}
	return 1
}

func (e *endpoint) gateOpens() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gate.timer = nil
	e.dialForWaiters()
}

// placesPerDial is for how many requests a connection will do. As long as nobody knows what the server will choose, one is opened
// to find out.
func (e *endpoint) placesPerDial() int {
	options := &e.cluster.options
	many := options.Protocol == HTTP2
	if options.Protocol == Auto && options.TLS != nil {
		many = e.spoken.Load() != int32(HTTP1)+1
	}
	if many {
		return options.MaxStreams
	}
	return 1
}

// dialFor opens one connection and gives it to who waits. A failure goes to the first ones; to all of them when the endpoint could
// not be reached before either.
func (e *endpoint) dialFor(ctx context.Context, a *attempt) {
	defer a.cancel()
	conn, failure := e.connectCounted(ctx, purpose{})
	e.mu.Lock()
	_, wanted := e.dials[a]
	delete(e.dials, a)
	if failure != nil && wanted {
		n := min(a.places, len(e.waiting))
		if e.gate.failures > 1 {
			n = len(e.waiting)
		}
		for _, w := range e.waiting[:n] {
			w.got <- delivery{failure: failure}
		}
		e.waiting = slices.Delete(e.waiting, 0, n)
	}
	e.mu.Unlock()
	switch {
	case failure != nil:
	case conn.multi != nil:
		e.share(conn)
	default:
		e.put(conn)
	}
	e.refill()
}

// handOver gives an HTTP/1 connection to the first who can use it; false when nobody waits for it. The lock is held.
func (e *endpoint) handOver(conn *Conn) bool {
	carried := conn.requests.Load() > 0
	i := slices.IndexFunc(e.waiting, func(w *waiter) bool { return !w.fresh || !carried })
	if i < 0 {
		return false
	}
	conn.use()
	e.waiting[i].got <- delivery{conn: conn}
	e.waiting = slices.Delete(e.waiting, i, i+1)
	return true
}

// leaveQueue gives up a place; false when it was served already.
func (e *endpoint) leaveQueue(w *waiter) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.Index(e.waiting, w)
	if i < 0 {
		return false
	}
	e.waiting = slices.Delete(e.waiting, i, i+1)
	return true
}

// refill starts dials in the place of a connection that ended.
func (e *endpoint) refill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialForWaiters()
}

// endDials ends the dials that nobody waits for.
func (e *endpoint) endDials() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) > 0 {
		return
	}
	for a := range e.dials {
		a.cancel()
	}
	clear(e.dials) // who comes now does not wait for them
}

// roomFor takes an unused connection out of the pool, when a fresh one is wanted and only the limit stands against it. The lock is
// held; the caller ends the connection without it.
func (e *endpoint) roomFor(fresh bool) []*Conn {
	if !fresh || len(e.idle) == 0 || e.open.Load() < int64(e.cluster.options.MaxConnections) {
		return nil
	}
	conn := e.idle[0] // the longest unused
	e.idle = slices.Delete(e.idle, 0, 1)
	return []*Conn{conn}
}

// dialGrace is how much longer a request waits than a dial takes, so that it learns why the dial failed.
const dialGrace = 250 * time.Millisecond
