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

// endpoint is one address of a cluster with its connections and its health.
type endpoint struct {
	cluster *Cluster
	at      Address
	host    string       // of a tcp target
	active  atomic.Int64 // requests and byte streams under way
	open    atomic.Int64 // connections, unused ones and those being dialled included
	queued  atomic.Int64 // requests that wait for a connection
	health  health
	known   atomic.Pointer[addresses] // what Run last saw the name resolve to; nil before
	spoken  atomic.Int32              // the Protocol of the last connection of an Auto cluster, plus one; 0 before

	mu      sync.Mutex
	idle    []*Conn               // guarded by mu: unused HTTP/1 connections, the last used is last
	shared  []*Conn               // guarded by mu: HTTP/2 connections that take requests
	reaper  *time.Timer           // guarded by mu: set while one of them is unused
	waiting []*waiter             // guarded by mu: the longest first
	dials   map[*attempt]struct{} // guarded by mu: under way for those who wait
	gate    gate                  // guarded by mu
}

func newEndpoint(c *Cluster, at Address) *endpoint {
	e := &endpoint{cluster: c, at: at, dials: map[*attempt]struct{}{}}
	e.health.endpoint = e
	if at.Network == "tcp" {
		e.host, _, _ = net.SplitHostPort(at.Target)
	}
	return e
}

// load is what the balance goes by: requests and byte streams under way, and those that wait.
func (e *endpoint) load() int64 { return e.active.Load() + e.queued.Load() }

// purpose is what a connection is opened for; the zero value is for requests.
type purpose struct {
	byteStream bool
	preamble   []byte // sent before anything else
}

// dial opens a connection for a byte stream and counts it as used.
func (e *endpoint) dial(ctx context.Context, want purpose, patient bool) (*Conn, *l7.Error) {
	if failure := e.passGate(ctx, patient); failure != nil {
		return nil, failure
	}
	if e.open.Add(1) > int64(e.cluster.options.MaxConnections) {
		e.open.Add(-1)
		return nil, e.failed(observe.UpstreamOverloaded, errors.New("the limit of connections to the endpoint is reached"))
	}
	conn, failure := e.connectCounted(ctx, want)
	if failure != nil {
		return nil, failure
	}
	conn.use()
	return conn, nil
}

// connectCounted opens a connection for which a place in open is taken, and gives the place back when it fails.
func (e *endpoint) connectCounted(ctx context.Context, want purpose) (*Conn, *l7.Error) {
	conn, failure := e.connectSafely(ctx, want)
	if failure != nil {
		e.open.Add(-1)
		e.cluster.metrics.failed(failure)
		// A client that left, or a limit of our own, says nothing about the endpoint.
		if !errors.Is(ctx.Err(), context.Canceled) && failure.Reason != observe.UpstreamOverloaded {
			now := time.Now()
			e.mu.Lock()
			e.gate.shut(now, failure)
			e.mu.Unlock()
			e.health.unreachable(now, failure.Reason)
		}
		return nil, failure
	}
	e.reachable()
	return conn, nil
}

// reachable notes that the endpoint took a connection.
func (e *endpoint) reachable() {
	e.mu.Lock()
	e.gate = gate{timer: e.gate.timer}
	e.mu.Unlock()
	e.health.reached()
}

// connectSafely keeps a programmer's error in a dial, which has a goroutine of its own, from ending the process.
func (e *endpoint) connectSafely(ctx context.Context, want purpose) (conn *Conn, failure *l7.Error) {
	defer func() {
		if cause := recover(); cause != nil {
			e.cluster.options.Metrics.Panics.Inc()
			conn, failure = nil, e.failed(observe.Internal, fmt.Errorf("panic: %v", cause))
		}
	}()
	return e.connect(ctx, want)
}

func (e *endpoint) connect(ctx context.Context, want purpose) (*Conn, *l7.Error) {
	options := &e.cluster.options
	bounded, cancel := context.WithTimeout(ctx, options.ConnectTimeout)
	defer cancel()
	l := link{began: time.Now()}
	raw, err := e.cluster.dialer.dial(bounded, e.at)
	if err != nil {
		return nil, e.undialled(observe.UpstreamConnect, err, nil, l.began)
	}
	l.raw, l.stream = raw, &plain{Conn: raw}
	if err := introduce(bounded, raw, want.preamble); err != nil {
		_ = raw.Close()
		return nil, e.undialled(observe.UpstreamConnect, err, raw, l.began)
	}
	if client := options.client(want); client != nil {
		l.generation = client.Generation() // before the handshake: a rotation meanwhile retires the connection early, not late
		if l.session, err = client.Handshake(bounded, raw, e.host); err != nil {
			return nil, e.undialled(observe.UpstreamTLS, err, raw, l.began)
		}
		l.stream = l.session
		e.cluster.metrics.handshake.Observe(time.Since(l.began).Seconds())
	}
	speaks, err := e.protocol(want, l.session)
	if err != nil {
		_ = l.session.Abort()
		return nil, e.undialled(observe.UpstreamProtocol, err, raw, l.began)
	}
	if !options.Descriptors.Acquire() {
		_ = l7.Abort(l.stream)
		return nil, e.undialled(observe.UpstreamOverloaded, errors.New("the process is at its limit of file descriptors"), raw, l.began)
	}
	conn := newConn(e, l)
	if l.session != nil && options.Revocations != nil {
		if err := l.session.Recheck(options.Revocations(), time.Now()); err != nil {
			e.open.Add(1) // ending the connection gives one back, and so does the failure
			conn.abort(observe.Revoked)
			return nil, e.failed(observe.UpstreamTLS, err)
		}
	}
	conn.speak(want, speaks)
	return conn, nil
}

// protocol is that of a new connection: what is demanded, or what the server chose (RFC 7301).
func (e *endpoint) protocol(want purpose, session *mtls.Conn) (Protocol, error) {
	demanded, chosen := e.cluster.options.Protocol, ""
	if session != nil {
		chosen = session.ALPN()
	}
	switch {
	case want.byteStream:
		return HTTP1, nil // nobody asks
	case demanded == HTTP2 && session != nil && chosen != alpnHTTP2:
		return HTTP2, fmt.Errorf("the cluster demands HTTP/2 and the server chose %q by ALPN", chosen)
	case demanded == HTTP1 && chosen == alpnHTTP2:
		return HTTP1, fmt.Errorf("the cluster demands HTTP/1 and the server chose %q by ALPN", chosen)
	case demanded == HTTP2, chosen == alpnHTTP2:
		return HTTP2, nil
	default:
		return HTTP1, nil
	}
}

// alpnHTTP2 is the name of HTTP/2 over TLS (RFC 9113, Section 3.2).
const alpnHTTP2 = "h2"

// introduce sends what stands before the protocol of the connection.
func introduce(ctx context.Context, raw net.Conn, preamble []byte) error {
	if len(preamble) == 0 {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := raw.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if _, err := raw.Write(preamble); err != nil {
		return fmt.Errorf("send the PROXY header: %w", err)
	}
	return raw.SetWriteDeadline(time.Time{})
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
