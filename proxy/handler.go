package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/canonical"
	"github.com/postern-proxy/postern/proxy/upstream"
)

// call is one HTTP request on its way.
type call struct {
	server *Server
	conn   *connection
	ex     l7.Exchange
	req    *l7.Request
	now    *active
	state  *listenerState
	route  int // place in state.spec.routes, -1 for none
	log    observe.Access
	sent   *countedBody // of the response
	body   *limitedBody // of the request; nil without one
}

// ServeExchange takes one request from its head to the end of its response. It is the l7.Handler of every engine.
func (s *Server) ServeExchange(ctx context.Context, ex l7.Exchange) {
	conn := connectionFrom(ctx)
	now := s.active.Load()
	c := &call{server: s, conn: conn, ex: ex, req: ex.Request(), now: now, state: conn.current(now), route: -1}
	conn.records.requests.Add(1)
	c.begin()
	defer c.end()
	defer func() {
		if cause := recover(); cause != nil {
			s.panicked(c.log.Listener, cause)
			c.log.Reason = observe.Internal
			ex.Abort()
		}
	}()
	if err := c.admit(ctx); err != nil {
		c.refuse(err)
	}
}

// admit counts the request as one of its caller's and serves it.
func (c *call) admit(ctx context.Context) error {
	if !c.conn.caller.Begin(c.log.Started) {
		return l7.NewError(observe.TooManyRequests, "the caller or the listener has as many requests as it may")
	}
	defer c.conn.caller.End()
	return c.serve(ctx)
}

// serve is the way of a request. An error that it returns has not been answered yet.
func (c *call) serve(ctx context.Context) error {
	used, err := canonical.Request(c.req, c.state.spec.relax)
	if err != nil {
		return err
	}
	c.log.Method, c.log.Host, c.log.Path = c.req.Method, c.req.Host, c.req.Path
	c.forwardedHeaders() // before it is routed and judged: what is judged is what is forwarded
	spec, err := c.find()
	if err != nil {
		return err
	}
	if !spec.relax.Allows(used) {
		return l7.NewError(observe.AmbiguousPath, "the path has a form that its route does not take: "+(used&^spec.relax).String())
	}
	permit, j, err := c.permit(spec)
	if err != nil {
		return err
	}
	if c.req.Upgrade != "" && (c.req.Upgrade != "websocket" || !spec.websocket) {
		return l7.NewError(observe.UpgradeRefused, "the route does not allow the upgrade")
	}
	if err := c.limitBody(); err != nil {
		return err
	}
	cluster := c.now.clusters[spec.cluster]
	if cluster == nil { // of a listener that drains, whose cluster is gone
		return l7.NewError(observe.UpstreamNone, "the cluster is no longer configured")
	}
	if spec.timeout > 0 && c.req.Upgrade == "" {
		bounded, cancel := context.WithTimeout(ctx, spec.timeout)
		defer cancel()
		ctx = bounded
	}
	defer c.followMessage(j, c.req.Body)()
	resp, err := cluster.RoundTrip(ctx, permit, c.req, upstream.Call{OnInformational: c.informational, RetryOn: spec.retryOn})
	if err != nil {
		return err
	}
	c.log.Endpoint, c.log.Status = resp.Endpoint(), resp.Status
	if resp.Status == 101 {
		return c.tunnel(ctx, resp, j)
	}
	defer c.followMessage(j, resp.Body)()
	c.answer(ctx, resp)
	return nil
}

// find routes the request.
func (c *call) find() (*routeSpec, error) {
	place, ok := c.state.spec.table.Match(c.req.Host, c.req.Path, c.req.Method, &c.req.Header)
	if !ok {
		return nil, l7.NewError(observe.NoRoute, "no route matches")
	}
	spec := &c.state.spec.routes[place]
	c.route, c.log.Route, c.log.Cluster = place, spec.name, spec.cluster
	return spec, nil
}

// permit has the request judged.
func (c *call) permit(spec *routeSpec) (authz.Permit, *judgement, error) {
	l := &c.state.spec.declared
	principal := c.conn.principal()
	c.log.Principal = principal.String()
	j := c.server.judge(c.now, callerOf(l), authz.Request{
		Service: l.Service, Principal: principal, Protocol: authz.HTTP, Source: c.conn.raw.Source(),
		Method: c.req.Method, Host: c.req.Host, Path: c.req.Path,
	}, c.req.Header.Values)
	c.server.record(&j, l.Name, spec.name)
	d := &j.decision
	c.log.Effect, c.log.Decision, c.log.Policy, c.log.Rule = d.Effect.String(), d.ID.String(), d.Policy, d.Rule
	for _, shadow := range d.Shadow {
		c.log.Shadow = append(c.log.Shadow, shadow.Policy+"/"+shadow.Rule+": "+shadow.Would.String())
	}
	permit, allowed := d.Permit()
	if allowed {
		return permit, &j, nil
	}
	reason := d.Reason
	if reason == "" {
		reason = observe.PolicyError
	}
	return authz.Permit{}, nil, l7.NewError(reason, "the policies do not allow it")
}

// informational passes a response before the final one on; a decision belongs to the final one only.
func (c *call) informational(status int, header *l7.Header) {
	cleanResponse(header, c.log.RequestID, false)
	_ = c.ex.Informational(status, header) // a client that is gone shows with the final response
}

// answer streams the response back.
func (c *call) answer(ctx context.Context, resp *upstream.Response) {
	cleanResponse(&resp.Header, c.log.RequestID, resp.Conn().Peer() != nil)
	c.sent = &countedBody{Body: resp.Body}
	resp.Body = c.sent
	if err := c.ex.WriteResponse(resp.Response); err != nil {
		c.failed(ctx, err)
	}
	_ = c.sent.Close()
}

// failed records an error of a response that has begun.
func (c *call) failed(ctx context.Context, err error) {
	c.log.Reason, c.log.Cause = l7.ReasonOf(context.Cause(ctx), l7.ReasonOf(err, observe.IOError)), err.Error()
	if why := c.conn.entry.Reason(); why == observe.Revoked || why == observe.CredentialExpired {
		c.log.Reason = why
	}
}

// tunnel answers an upgrade and runs the byte stream to its end.
func (c *call) tunnel(ctx context.Context, resp *upstream.Response, j *judgement) error {
	up, err := resp.Tunnel()
	if err != nil {
		_ = resp.Body.Close()
		return err
	}
	cleanResponse(&resp.Header, c.log.RequestID, resp.Conn().Peer() != nil)
	down, err := c.ex.Tunnel(resp.Response)
	if err != nil {
		_ = up.Close()
		c.failed(ctx, err)
		return nil
	}
	l := &c.state.spec.declared
	if c.req.Protocol < l7.HTTP2 {
		c.conn.raw.AllowStall()
	}
	result := c.server.splice(ctx, c.long(j), down, up, c.server.streamOptions(l))
	c.log.BytesIn, c.log.BytesOut = result.Sent, result.Received
	c.log.Reason = result.Reason
	if why := resp.Conn().Ended(); why == observe.Revoked || why == observe.CredentialExpired {
		c.log.Reason = why
	}
	if result.Err != nil {
		c.log.Cause = result.Err.Error()
	}
	if c.req.Protocol < l7.HTTP2 { // on HTTP/2 the connection goes on
		c.conn.streamEnded = c.log.Reason
	}
	return nil
}

// begin takes down what is known before the request has been looked at.
func (c *call) begin() {
	l := &c.state.spec.declared
	c.log = observe.Access{
		Started: time.Now(), Listener: l.Name, Service: l.Service, Source: c.conn.source, Serial: c.conn.serial,
		Method: c.req.Method, Protocol: c.req.Protocol.String(), Generation: c.now.snapshot.generation,
	}
	c.log.RequestID = c.requestID()
}

// end writes the record of the request.
func (c *call) end() {
	if c.sent != nil {
		c.log.BytesOut = c.sent.n
	}
	if c.body != nil {
		c.log.BytesIn = c.body.n.Load()
	}
	c.log.Duration = time.Since(c.log.Started)
	c.state.metrics.request(c.route, c.log.Status, c.log.Duration)
	c.server.options.AccessLog.Request(&c.log)
}

// refuse answers a request that goes no further.
func (c *call) refuse(err error) {
	e, ok := errors.AsType[*l7.Error](err)
	if !ok {
		e = &l7.Error{Reason: observe.Internal, Status: 500, Err: err}
	}
	if e.Status == 0 {
		e.Status = l7.StatusOf(e.Reason)
	}
	c.log.Status, c.log.Reason, c.log.Cause = e.Status, e.Reason, e.Error()
	if c.log.Principal == "" { // it was not judged
		c.log.Principal = c.conn.principal().String()
	}
	c.state.metrics.refused(e.Reason)
	if e.Side == l7.Downstream && e.Reason == observe.IOError { // nobody is there to read an answer
		c.ex.Abort()
		return
	}
	if malformed(e.Reason) {
		c.req.Close = true
	}
	resp := refusal(e, c.log.RequestID, c.log.Decision)
	if err := c.ex.WriteResponse(resp); err != nil {
		c.log.Cause += "; " + err.Error()
	}
}

// refusedByEngine records a request that the engine did not accept, and returns the answer.
func (s *Server) refusedByEngine(conn *connection, state *listenerState, err *l7.Error) *l7.Response {
	id := newID()
	state.metrics.refused(err.Reason)
	state.metrics.request(-1, err.Status, 0)
	s.options.AccessLog.Request(&observe.Access{
		Started: time.Now(), RequestID: id, Listener: state.spec.declared.Name, Service: state.spec.declared.Service,
		Principal: conn.principal().String(), Serial: conn.serial, Source: conn.source, Status: err.Status, Reason: err.Reason, Cause: err.Error(), Generation: s.Generation(),
	})
	return refusal(err, id, "")
}
