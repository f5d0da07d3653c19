package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// Call is what a caller says of one request besides the message. The zero value is good.
type Call struct {
	// OnInformational is called with every 1xx response but 100 and 101; its header is valid during the call. It may be nil.
	OnInformational func(status int, header *l7.Header)
	// RetryOn are statuses for which an idempotent request without a body is tried again, as long as it may be; 502, 503 and 504
	// make sense.
	RetryOn []int
}

// RoundTrip sends the request and returns the head of the response, whose body must be closed. The context bounds everything up to
// the end of the response's body. The error is an *l7.Error.
func (c *Cluster) RoundTrip(ctx context.Context, permit authz.Permit, req *l7.Request, call Call) (*Response, error) {
	if !permit.Valid() {
		return nil, errNoPermit()
	}
	if n := c.underWay.Add(1); c.options.MaxRequests > 0 && n > int64(c.options.MaxRequests) {
		c.underWay.Add(-1)
		c.metrics.overloaded.Inc()
		return nil, c.failed(observe.UpstreamOverloaded, errors.New("as many requests are under way as there may be"))
	}
	resp, err := c.roundTrip(ctx, req, &call)
	if err != nil {
		c.underWay.Add(-1)
		return nil, err
	}
	resp.counted = true
	return resp, nil
}

// roundTrip tries until there is an answer, or no more may be tried.
func (c *Cluster) roundTrip(ctx context.Context, req *l7.Request, call *Call) (*Response, error) {
	c.budget.request(time.Now())
	var avoid *endpoint
	fresh := false
	for n := (tries{}); ; {
		t, err := c.try(ctx, avoid, fresh, req, call)
		if err != nil { // there is no connection to be had; reach has tried what may be tried
			return nil, err
		}
		if !c.again(ctx, req, call, &t, &n) {
			return t.resp, t.err
		}
		avoid, fresh = t.conn.endpoint, fresh || t.closed()
	}
}

// try sends the request once. The error says that there was no connection.
func (c *Cluster) try(ctx context.Context, avoid *endpoint, fresh bool, req *l7.Request, call *Call) (trial, error) {
	conn, failure := c.reach(ctx, avoid, func(e *endpoint, patient bool) (*Conn, *l7.Error) { return e.acquire(ctx, fresh, patient) })
	if failure != nil {
		return trial{}, failure
	}
	t := trial{conn: conn, reused: conn.multi == nil && conn.requests.Load() > 0}
	t.resp, t.err = c.exchange(ctx, &t, req, call)
	return t, nil
}

func (c *Cluster) exchange(ctx context.Context, t *trial, req *l7.Request, call *Call) (*Response, error) {
	conn := t.conn
	r := &Response{conn: conn, over: ctx.Done()}
	conn.begin()
	if req.Upgrade != "" && conn.multi == nil {
		conn.retired.Store(true) // whatever the answer is: what comes after it may be another protocol
	}
	resp, err := c.send(ctx, r, req, call)
	if err != nil {
		failure := conn.explain(err)
		closed := t.reused && failure.Reason == observe.UpstreamReset && !failure.Responded // unused, which is its server's right
		if !closed && !errors.Is(ctx.Err(), context.Canceled) {
			r.judge(failure)
		}
		r.finish(false)
		return nil, failure
	}
	r.Response = resp
	r.body = responseBody{Body: resp.Body, response: r}
	resp.Body = &r.body
	return r, nil
}

// send has the engine send the request, and bounds the wait for the head of the response if the cluster does.
func (c *Cluster) send(ctx context.Context, r *Response, req *l7.Request, call *Call) (*l7.Response, error) {
	if c.options.ResponseTimeout <= 0 {
		return r.conn.roundTrip(ctx, req, call)
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	patience := newPatience(c.options.ResponseTimeout, r.cancel)
	body := req.Body
	req.Body = patience.watch(body)
	resp, err := r.conn.roundTrip(ctx, req, call)
	req.Body = body
	patience.stop()
	return resp, err
}

// roundTrip has the engine send the request, with the scheme of this connection: HTTP/2 sends it, and a strict server, such as
// another postern, refuses one that is not true (RFC 9113, Section 8.3.1).
func (c *Conn) roundTrip(ctx context.Context, req *l7.Request, call *Call) (*l7.Response, error) {
	came := req.Scheme
	req.Scheme = c.scheme()
	defer func() { req.Scheme = came }()
	if c.multi != nil {
		return c.multi.RoundTrip(ctx, req, call.OnInformational)
	}
	return c.http.RoundTrip(ctx, req, call.OnInformational)
}

func (c *Conn) scheme() string {
	if c.session != nil {
		return "https"
	}
	return "http"
}

// explain gives the failure of an exchange the reason that its cause has.
func (c *Conn) explain(err error) *l7.Error {
	e, ok := errors.AsType[*l7.Error](err)
	if !ok {
		e = &l7.Error{Reason: observe.UpstreamReset, Status: l7.StatusOf(observe.UpstreamReset), Side: l7.Upstream, Sent: true, Err: err}
	}
	if e.Side != l7.Upstream {
		return e
	}
	explained := *e
	switch ended := c.entry.Reason(); {
	case c.isEnded() && (ended == observe.Revoked || ended == observe.CredentialExpired):
		explained.Reason, explained.Status = ended, l7.StatusOf(observe.UpstreamTLS)
	case mtls.IsAlert(err):
		explained.Reason, explained.Status = observe.UpstreamTLS, l7.StatusOf(observe.UpstreamTLS)
		c.endpoint.cluster.metrics.refused()
	}
	return &explained
}
