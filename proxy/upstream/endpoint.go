package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// endpoint is one address of a cluster with its pool and its health.
type endpoint struct {
	cluster    *Cluster
	at         Address
	serverName string
	active     atomic.Int64 // requests and byte streams under way
	open       atomic.Int64 // connections, unused ones and those being dialled included
	queued     atomic.Int64 // requests that wait for a connection
	health     health

	mu      sync.Mutex
	idle    []*Conn               // guarded by mu: the last used is last
	reaper  *time.Timer           // guarded by mu: set while idle is not empty
	waiting []*waiter             // guarded by mu: the longest first; empty while idle is not, but for those that want a fresh one
	dials   map[*attempt]struct{} // guarded by mu: under way for those who wait
}

func newEndpoint(c *Cluster, at Address) *endpoint {
	e := &endpoint{cluster: c, at: at, dials: map[*attempt]struct{}{}}
	if at.Network == "tcp" {
		e.serverName, _, _ = net.SplitHostPort(at.Target)
	}
	return e
}

// pooled returns an unused connection that is still good, or nil. The last used comes first, so that the pool shrinks to what is
// needed.
func (e *endpoint) pooled() *Conn {
	for {
		conn := e.pop()
		if conn == nil {
			return nil
		}
		if reason := conn.unusable(time.Now()); reason != "" {
			conn.close(reason)
			continue
		}
		conn.use()
		return conn
	}
}

func (e *endpoint) pop() *Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := len(e.idle) - 1
	if last < 0 {
		return nil
	}
	conn := e.idle[last]
	e.idle[last] = nil
	e.idle = e.idle[:last]
	return conn
}

// load is what the balance goes by: requests and byte streams under way, and those that wait.
func (e *endpoint) load() int64 { return e.active.Load() + e.queued.Load() }

// put gives a connection back that may be used again: to who waits for one, else to the pool.
func (e *endpoint) put(conn *Conn) {
	conn.idleSince = time.Now()
	e.mu.Lock()
	good := !conn.retired.Load() && !conn.ended.Load() // ended by the registry, or about to be
	if good && e.handOver(conn) {
		e.mu.Unlock()
		return
	}
	keep := good && len(e.idle) < e.cluster.options.MaxIdle && !e.cluster.closed.Load()
	if keep {
		e.idle = append(e.idle, conn)
		if e.reaper == nil {
			e.reaper = time.AfterFunc(e.cluster.options.IdleTimeout, e.reap)
		}
	}
	e.mu.Unlock()
	if !keep {
		conn.close(observe.Drained)
	}
}

// remove takes a connection out of the pool; false if it is in use or gone.
func (e *endpoint) remove(conn *Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, c := range e.idle {
		if c == conn {
			e.idle = append(e.idle[:i], e.idle[i+1:]...)
			return true
		}
	}
	return false
}

// reap closes what was not used for the idle time and comes again while something is left.
func (e *endpoint) reap() {
	deadline := time.Now().Add(-e.cluster.options.IdleTimeout)
	e.mu.Lock()
	n := 0
	for n < len(e.idle) && !e.idle[n].idleSince.After(deadline) {
		n++
	}
	old := append([]*Conn(nil), e.idle[:n]...)
	e.idle = append(e.idle[:0], e.idle[n:]...)
	e.reaper = nil
	if len(e.idle) > 0 {
		e.reaper = time.AfterFunc(time.Until(e.idle[0].idleSince.Add(e.cluster.options.IdleTimeout)), e.reap)
	}
	e.mu.Unlock()
	for _, conn := range old {
		conn.close(observe.IdleTimeout)
	}
}

func (e *endpoint) closeIdle(reason observe.Reason) {
	e.mu.Lock()
	idle := e.idle
	e.idle = nil
	if e.reaper != nil {
		e.reaper.Stop()
		e.reaper = nil
	}
	e.mu.Unlock()
	for _, conn := range idle {
		conn.abort(reason) // does not wait for the peer, for which nothing is lost
	}
}

// dial opens a connection for a byte stream and counts it as used.
func (e *endpoint) dial(ctx context.Context) (*Conn, *l7.Error) {
	if e.open.Add(1) > int64(e.cluster.options.MaxConnections) {
		e.open.Add(-1)
		return nil, e.failed(observe.TooManyConnections, errors.New("the limit of connections to the endpoint is reached"))
	}
	conn, failure := e.connectCounted(ctx)
	if failure != nil {
		return nil, failure
	}
	conn.use()
	return conn, nil
}

// connectCounted opens a connection for which a place in open is taken, and gives the place back when it fails.
func (e *endpoint) connectCounted(ctx context.Context) (*Conn, *l7.Error) {
	conn, failure := e.connectSafely(ctx)
	if failure != nil {
		e.open.Add(-1)
		e.cluster.metrics.failed(failure)
		if !errors.Is(ctx.Err(), context.Canceled) { // a client that left says nothing about the endpoint
			e.health.failed(time.Now())
		}
		return nil, failure
	}
	e.health.succeeded()
	return conn, nil
}

// connectSafely keeps a programmer's error in a dial, which has a goroutine of its own, from ending the process.
func (e *endpoint) connectSafely(ctx context.Context) (conn *Conn, failure *l7.Error) {
	defer func() {
		if cause := recover(); cause != nil {
			e.cluster.options.Metrics.Panics.Inc()
			conn, failure = nil, e.failed(observe.Internal, fmt.Errorf("panic: %v", cause))
		}
	}()
	return e.connect(ctx)
}

func (e *endpoint) connect(ctx context.Context) (*Conn, *l7.Error) {
	options := &e.cluster.options
	bounded, cancel := context.WithTimeout(ctx, options.ConnectTimeout)
	defer cancel()
	began := time.Now()
	raw, err := options.Dial(bounded, e.at.Network, e.at.Target)
	if err != nil {
		return nil, e.undialled(observe.UpstreamConnect, err, nil, began)
	}
	if options.TLS == nil {
		return newConn(e, &plain{Conn: raw}, raw, nil, began), nil
	}
	generation := options.TLS.Generation() // before the handshake: a rotation meanwhile retires the connection early, not late
	session, err := options.TLS.Handshake(bounded, raw, e.serverName)
	if err != nil {
		return nil, e.undialled(observe.UpstreamTLS, err, raw, began)
	}
	e.cluster.metrics.handshake.Observe(time.Since(began).Seconds())
	conn := newConn(e, session, raw, session, began)
	conn.generation = generation
	if options.Revocations == nil {
		return conn, nil
	}
	if err := session.Recheck(options.Revocations(), time.Now()); err != nil {
		e.open.Add(1) // ending the connection gives one back, and so does the failure
		conn.abort(observe.Revoked)
		return nil, e.failed(observe.UpstreamTLS, err)
	}
	return conn, nil
}

// undialled records a connection that did not come about, and returns the failure. raw is nil when there was none.
func (e *endpoint) undialled(reason observe.Reason, err error, raw net.Conn, began time.Time) *l7.Error {
	f := &observe.Flow{Started: began, Duration: time.Since(began), Direction: observe.Dialled, Cluster: e.cluster.options.Name,
		Target: e.at.Target, Close: reason, Cause: err.Error()}
	if why, ok := handshakeReason(err); ok {
		f.Close = why
	}
	if raw != nil {
		f.Source = raw.LocalAddr().String()
	}
	e.cluster.options.AccessLog.Flow(f)
	return e.failed(reason, err)
}

func (e *endpoint) failed(reason observe.Reason, err error) *l7.Error {
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: l7.Upstream,
		Err: fmt.Errorf("connect to %q of cluster %q: %w", e.at.Target, e.cluster.options.Name, err)}
}

// handshakeReason is the reason of a TLS failure inside an error; false if it is none.
func handshakeReason(err error) (observe.Reason, bool) {
	e, ok := errors.AsType[*mtls.Error](err)
	if !ok {
		return "", false
	}
	return e.Reason, true
}
