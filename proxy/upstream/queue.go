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

// waiter is a request that waits for a connection: whichever is there first, one that another request gives back or one that is
// dialled for those who wait.
type waiter struct {
	fresh bool // only a connection that has carried no request will do
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
type attempt struct{ cancel context.CancelFunc }

// acquire returns a connection for one request, counted as used. fresh asks for one that has carried none.
func (e *endpoint) acquire(ctx context.Context, fresh bool) (*Conn, *l7.Error) {
	conn, w, failure := e.pooledOrWait(ctx, fresh)
	if w == nil {
		return conn, failure
	}
	defer e.queued.Add(-1)
	timer := time.NewTimer(e.cluster.options.ConnectTimeout + dialGrace)
	defer timer.Stop()
	select {
	case d := <-w.got:
		return d.conn, d.failure
	case <-ctx.Done():
		// What ended the request (a new policy, say) is the reason, not the connection that it no longer waits for.
		failure = e.failed(l7.ReasonOf(context.Cause(ctx), observe.UpstreamConnect), context.Cause(ctx))
	case <-timer.C:
		failure = e.failed(observe.TooManyConnections, errors.New("no connection became free in time"))
	}
	if e.leaveQueue(w) {
		return nil, failure
	}
	if d := <-w.got; d.conn != nil { // served at the last moment
		d.conn.release(true)
	}
	return nil, failure
}

// pooledOrWait returns an unused connection; or a place in the queue; or a failure, when the queue is full.
func (e *endpoint) pooledOrWait(ctx context.Context, fresh bool) (*Conn, *waiter, *l7.Error) {
	for {
		if !fresh {
			if conn := e.pooled(); conn != nil {
				return conn, nil, nil
			}
		}
		e.mu.Lock()
		if !fresh && len(e.idle) > 0 { // given back since
			e.mu.Unlock()
			continue
		}
		w, failure := e.join(ctx, fresh)
		room := e.roomFor(fresh)
		e.mu.Unlock()
		if room != nil {
			room.abort(observe.Drained) // its end starts the dial
		}
		return nil, w, failure
	}
}

// join takes a place in the queue. The lock is held.
func (e *endpoint) join(ctx context.Context, fresh bool) (*waiter, *l7.Error) {
	if len(e.waiting) >= e.cluster.options.MaxWaiting {
		return nil, e.failed(observe.TooManyConnections, errors.New("too many requests wait for a connection"))
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

// dialForWaiters starts as many dials as there are requests that wait, within the bounds. The lock is held.
//
//nolint:contextcheck,nolintlint // a dial belongs to whoever waits, not to whom it is started by; nolintlint does not see the use
func (e *endpoint) dialForWaiters() {
	for len(e.dials) < min(len(e.waiting), maxDialing) && e.open.Load() < int64(e.cluster.options.MaxConnections) {
		ctx, cancel := e.waiting[0].begin()
		a := &attempt{cancel: cancel}
		e.dials[a] = struct{}{}
		e.open.Add(1)
		go e.dialFor(ctx, a)
	}
}

// dialFor opens one connection and gives it, or the failure, to the first who waits.
func (e *endpoint) dialFor(ctx context.Context, a *attempt) {
	defer a.cancel()
	conn, failure := e.connectCounted(ctx)
	e.mu.Lock()
	_, wanted := e.dials[a]
	delete(e.dials, a)
	if failure != nil && wanted && len(e.waiting) > 0 {
		e.waiting[0].got <- delivery{failure: failure}
		e.waiting = slices.Delete(e.waiting, 0, 1)
	}
	e.mu.Unlock()
	if failure == nil {
		e.put(conn)
	}
	e.refill()
}

// handOver gives the connection to the first who can use it; false when nobody waits for it. The lock is held.
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
func (e *endpoint) roomFor(fresh bool) *Conn {
	if !fresh || len(e.idle) == 0 || e.open.Load() < int64(e.cluster.options.MaxConnections) {
		return nil
	}
	conn := e.idle[0] // the longest unused
	e.idle = slices.Delete(e.idle, 0, 1)
	return conn
}

// dialGrace is how much longer a request waits than a dial takes, so that it learns why the dial failed.
const dialGrace = 250 * time.Millisecond
