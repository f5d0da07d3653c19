package upstream

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// Response is what an endpoint answered. Its body must be closed, which gives the connection back.
type Response struct {
	*l7.Response
	conn *Conn
	done *finish
}

// Endpoint is the address that answered.
func (r *Response) Endpoint() string { return r.conn.Endpoint() }

// Conn is the connection on which the response comes.
func (r *Response) Conn() *Conn { return r.conn }

// Tunnel returns the byte stream after a 101, beginning with what the endpoint sent behind it; closing the stream closes the
// connection. The body is not to be closed then, except after an error.
func (r *Response) Tunnel() (l7.Stream, error) {
	stream, err := r.conn.http.Tunnel()
	if err != nil {
		return nil, &l7.Error{Reason: observe.UpstreamProtocol, Status: 502, Side: l7.Upstream, Err: err}
	}
	return &tunnel{Stream: stream, done: r.done}, nil
}

// RoundTrip sends the request and returns the head of the response. Informational responses go to onInformational, which may be
// nil. The context bounds everything up to the end of the response's body. The error is an *l7.Error.
func (c *Cluster) RoundTrip(ctx context.Context, permit authz.Permit, req *l7.Request, onInformational func(status int, header *l7.Header)) (*Response, error) {
	if !permit.Valid() {
		return nil, errNoPermit()
	}
	conn, err := c.acquire(ctx, false)
	if err != nil {
		return nil, err
	}
	used := conn.requests.Load() > 0
	resp, err := c.exchange(ctx, conn, req, onInformational)
	if err == nil || !used || !mayRetry(ctx, req, err) {
		return resp, err
	}
	c.metrics.retries.Inc()
	if conn, err = c.acquire(ctx, true); err != nil {
		return nil, err
	}
	return c.exchange(ctx, conn, req, onInformational)
}

// acquire returns a connection for one request.
func (c *Cluster) acquire(ctx context.Context, fresh bool) (*Conn, error) {
	conn, err := c.connection(func(e *endpoint) (*Conn, *l7.Error) { return e.acquire(ctx, fresh) }, ctx.Err)
	return conn, timeoutOf(ctx, err)
}

// mayRetry says whether a request that failed on a pooled connection may be sent on a fresh one.
func mayRetry(ctx context.Context, req *l7.Request, err error) bool {
	e, ok := errors.AsType[*l7.Error](err)
	if !ok || e.Side != l7.Upstream || ctx.Err() != nil || e.Reason == observe.UpstreamTimeout || e.Reason == observe.UpstreamTLS {
		return false
	}
	if !e.Sent {
		return true
	}
	return !e.Responded && req.Body == nil && req.Upgrade == "" && idempotent(req.Method)
}

// idempotent names the methods of RFC 9110, Section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	default:
		return false
	}
}

func (c *Cluster) exchange(ctx context.Context, conn *Conn, req *l7.Request, onInformational func(int, *l7.Header)) (*Response, error) {
	done := &finish{conn: conn}
	conn.requests.Add(1)
	if req.Upgrade != "" {
		conn.retired.Store(true) // whatever the answer is: what comes after it may be another protocol
	}
	resp, err := c.roundTrip(ctx, done, req, onInformational)
	if err != nil {
		failure := c.explain(ctx, conn, err)
		done.finish(false)
		return nil, failure
	}
	resp.Body = &responseBody{Body: resp.Body, done: done}
	return &Response{Response: resp, conn: conn, done: done}, nil
}

// roundTrip bounds the wait for the head of the response, if the cluster does.
func (c *Cluster) roundTrip(ctx context.Context, done *finish, req *l7.Request, onInformational func(int, *l7.Header)) (*l7.Response, error) {
	if c.options.ResponseTimeout <= 0 {
		return done.conn.http.RoundTrip(ctx, req, onInformational)
	}
	ctx, done.cancel = context.WithCancelCause(ctx)
	patience := newPatience(c.options.ResponseTimeout, done.cancel)
	body := req.Body
	req.Body = patience.watch(body)
	resp, err := done.conn.http.RoundTrip(ctx, req, onInformational)
	req.Body = body
	patience.stop()
	return resp, err
}

// explain gives the failure of an exchange the reason that its cause has.
func (c *Cluster) explain(ctx context.Context, conn *Conn, err error) *l7.Error {
	e, ok := errors.AsType[*l7.Error](err)
	if !ok {
		e = &l7.Error{Reason: observe.UpstreamReset, Side: l7.Upstream, Sent: true, Err: err}
	}
	if e.Side != l7.Upstream {
		return e
	}
	explained := *e
	switch ended := conn.entry.Reason(); {
	case ended == observe.Revoked, ended == observe.CredentialExpired:
		explained.Reason, explained.Status = ended, l7.StatusOf(observe.UpstreamTLS)
	case mtls.IsAlert(err):
		explained.Reason, explained.Status = observe.UpstreamTLS, l7.StatusOf(observe.UpstreamTLS)
		c.metrics.refused()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		explained.Reason, explained.Status = observe.UpstreamTimeout, l7.StatusOf(observe.UpstreamTimeout)
	}
	return &explained
}

// timeoutOf tells a request that ran out of time while connecting from an endpoint that does not answer.
func timeoutOf(ctx context.Context, err error) error {
	e, ok := errors.AsType[*l7.Error](err)
	if !ok || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	late := *e
	late.Reason, late.Status = observe.UpstreamTimeout, l7.StatusOf(observe.UpstreamTimeout)
	return &late
}

// errResponseTimeout is the cause that the engine takes its reason from.
var errResponseTimeout = &l7.Error{Reason: observe.UpstreamTimeout, Status: 504, Side: l7.Upstream, Err: errors.New("no response in time")}

// finish gives the connection of an exchange back, once.
type finish struct {
	once   sync.Once
	conn   *Conn
	cancel context.CancelCauseFunc // nil when nothing but the caller's context ends the exchange
}

func (f *finish) finish(reusable bool) {
	f.once.Do(func() {
		if f.cancel != nil {
			f.cancel(nil)
		}
		f.conn.release(reusable)
	})
}

// responseBody gives the connection back when it is closed.
type responseBody struct {
	l7.Body
	done   *finish
	closed atomic.Bool
}

// Close implements l7.Body. The engine reuses what is behind the body, so that a second Close must not reach it.
func (b *responseBody) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	err := b.Body.Close()
	b.done.finish(b.done.conn.http.Reusable())
	return err
}

// Ready implements l7.Ready.
func (b *responseBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }

// patience ends an exchange whose response does not come. Its time begins when the request has been read to its end.
type patience struct {
	timeout time.Duration
	cancel  context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	over  bool        // guarded by mu
}

func newPatience(timeout time.Duration, cancel context.CancelCauseFunc) *patience {
	return &patience{timeout: timeout, cancel: cancel}
}

func (p *patience) watch(body l7.Body) l7.Body {
	if body == nil {
		p.start()
		return nil
	}
	return &watchedBody{Body: body, patience: p}
}

func (p *patience) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil && !p.over {
		p.timer = time.AfterFunc(p.timeout, func() { p.cancel(errResponseTimeout) })
	}
}

func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// watchedBody tells when a request's body has been read to its end.
type watchedBody struct {
	l7.Body
	patience *patience
}

// Read implements l7.Body.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if errors.Is(err, io.EOF) {
		b.patience.start()
	}
	return n, err
}

// Start implements l7.Starter.
func (b *watchedBody) Start() error { return l7.Start(b.Body) }

// Ready implements l7.Ready.
func (b *watchedBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }

// tunnel is a stream whose end is the end of its connection.
type tunnel struct {
	l7.Stream
	done *finish
}

// Close implements l7.Stream.
func (t *tunnel) Close() error {
	err := t.Stream.Close()
	t.done.finish(false)
	return err
}

// Abort implements l7.Aborter.
func (t *tunnel) Abort() error {
	err := t.done.conn.Abort()
	t.done.finish(false)
	return err
}
