package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/limit"
	"github.com/postern-proxy/postern/proxy/listener"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// connection is one accepted connection whose handshake is done. Except for cut and drain it belongs to its goroutine.
type connection struct {
	server *Server
	state  *listenerState
	raw    *listener.Conn
	tls    *mtls.Conn // nil for plaintext
	stream *stream
	entry  *registry.Entry
	cancel context.CancelCauseFunc
	caller *limit.Caller // nil until the connection is counted
	// http is the engine that drain asks; nil before it runs, and for byte streams.
	http atomic.Pointer[engine]

	// late: its listener had ended or changed before the connection was known.
	late bool

	source  string // address and port of the client, or "unix"
	xfcc    string // X-Forwarded-Client-Cert; empty without a verified peer
	serial  string
	records connectionRecords
	guessed bool // that it is TCP, from what the client sent or did not send
	// streamEnded is why the tunnel that the connection became has ended; zero if it became none.
	streamEnded observe.Reason
}

// engine is the HTTP engine of one connection. Drain may be called from anywhere.
type engine interface {
	Serve(ctx context.Context) observe.Reason
	Drain()
}

// connectionRecords is what the Flow tells beyond the connection itself.
type connectionRecords struct {
	requests atomic.Int64
	cluster  string
	decision string
	cause    string
}

// serveConn takes one connection from accept to close.
func (s *Server) serveConn(ctx context.Context, state *listenerState, raw *listener.Conn) {
	defer s.recovered(state, raw)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &connection{server: s, state: state, raw: raw, cancel: cancel}
	stop := context.AfterFunc(ctx, func() { _ = raw.Abort() })
	err := raw.ReadProxyHeader(state.spec.declared.Timeouts.Handshake)
	stop()
	c.source = sourceOf(raw)
	if err == nil {
		err = c.handshake(ctx)
	}
	if err != nil {
		c.refused(err)
		return
	}
	if !c.register(ctx) {
		return
	}
	defer c.entry.Remove()
	if !c.count() {
		c.ended(observe.TooManyConnections)
		return
	}
	defer func() { c.caller.Leave(time.Now()) }()
	if limit := state.spec.declared.Timeouts.MaxConnection; limit > 0 {
		timer := time.AfterFunc(limit, func() { c.entry.Drain(observe.MaxTime) })
		defer timer.Stop()
	}
	reason := observe.Internal // unless serve returns
	defer func() { c.ended(reason) }()
	reason = c.serve(ctx)
}

// handshake terminates TLS where the listener says so. On an error the connection is closed.
func (c *connection) handshake(ctx context.Context) error {
	if c.state.tls == nil {
		c.stream = newStream(c.raw, c.raw)
		return nil
	}
	began := time.Now()
	session, err := c.state.tls.Handshake(ctx, c.raw)
	if err != nil {
		return err
	}
	c.state.metrics.handshake.Observe(time.Since(began).Seconds())
	c.tls = session
	c.stream = newStream(session, session)
	c.serial = session.Peer().Serial()
	c.xfcc = forwardedClientCert(session)
	return nil
}

// register makes the connection known, and then looks once more at what may have changed meanwhile: what is in the registry is
// told, what was not yet has to look.
func (c *connection) register(ctx context.Context) bool {
	known := registry.Conn{Direction: registry.Accepted, Owner: c.state.lineage, Drain: c.drain, Close: c.cut}
	if c.tls != nil {
		known.Subjects, known.NotAfter = c.tls.Subjects(), c.tls.NotAfter()
	}
	c.entry = c.server.registry.New(known)
	c.entry.Add()
	if c.tls != nil {
		if err := c.tls.Recheck(c.server.options.Revocations(), c.server.options.Now()); err != nil {
			c.entry.Close(observe.Revoked)
			c.refused(err)
			return false
		}
	}
	c.state.metrics.began("")
	now := c.server.active.Load().states[c.state.spec.declared.Name]
	if c.server.draining.Load() || now == nil || now.lineage != c.state.lineage {
		c.late = true
		c.entry.Drain(observe.Drained)
	}
	if ctx.Err() != nil { // too late for whoever closed everything that was known
		c.entry.Close(observe.Drained)
	}
	return true
}

// count makes the connection one of its caller's, if that may have another one.
func (c *connection) count() bool {
	var ok bool
	c.caller, ok = c.state.limiter.Caller(c.callerName(), time.Now())
	return ok
}

// callerName is what the limits by identity go by: the SPIFFE ID, or the address of anonymous callers, of whom each has a whole
// /64 of IPv6.
func (c *connection) callerName() string {
	if p := c.principal(); !p.Anonymous() {
		return p.String()
	}
	source := c.raw.Source().Addr()
	if source.Is6() && !source.Is4In6() {
		network, _ := source.Prefix(64)
		return network.String()
	}
	return source.String()
}

// serve runs the protocol of the connection and says why it ended.
func (c *connection) serve(ctx context.Context) observe.Reason {
	if ctx.Err() != nil {
		return l7.ReasonOf(context.Cause(ctx), observe.Drained)
	}
	l := &c.state.spec.declared
	protocol := l.Protocol
	if protocol.HTTP() && c.tls != nil {
		switch c.tls.ALPN() {
		case alpnHTTP2:
			return c.serveHTTP(ctx, c.state.http2.NewConn(c.stream))
		case alpnHTTP1, alpnHTTP10:
			return c.serveHTTP(ctx, c.state.http1.NewConn(c.stream))
		}
	}
	switch {
	case protocol == config.ProtocolTCP:
		return c.serveTCP(ctx)
	case protocol == config.ProtocolHTTP && c.tls != nil: // without ALPN a client speaks HTTP/1.1 (RFC 9113, Section 3.2)
		return c.serveHTTP(ctx, c.state.http1.NewConn(c.stream))
	default:
		return c.serveSniffed(ctx)
	}
}

// serveSniffed lets the first bytes tell the protocol: HTTP/2 with prior knowledge from HTTP/1.1 (RFC 9113, Section 3.3), and on a
// listener of both kinds HTTP from what is not.
func (c *connection) serveSniffed(ctx context.Context) observe.Reason {
	l := &c.state.spec.declared
	within := sniffTime
	if l.Protocol == config.ProtocolHTTP {
		within = l.Timeouts.Head
	}
	kind, ahead, err := listener.Sniff(c.stream.conn, within)
	c.stream.ahead = ahead
	switch {
	case c.entry.Draining() && len(ahead) == 0:
		return observe.Drained
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return observe.PeerClosed
	case err != nil:
		return observe.IOError
	case l.Protocol == config.ProtocolHTTP && kind == listener.Opaque && len(ahead) == 0:
		return observe.IdleTimeout
	case kind == listener.HTTP2:
		return c.serveHTTP(ctx, c.state.http2.NewConn(c.stream))
	case kind == listener.HTTP, l.Protocol == config.ProtocolHTTP:
		return c.serveHTTP(ctx, c.state.http1.NewConn(c.stream))
	default:
		c.guessed = true
		return c.serveTCP(ctx)
	}
}

func (c *connection) serveHTTP(ctx context.Context, conn engine) observe.Reason {
	c.http.Store(&conn)
	if c.entry.Draining() { // before drain could find the engine
		conn.Drain()
	}
	reason := conn.Serve(context.WithValue(ctx, connectionKey{}, c))
	if c.streamEnded != "" {
		return c.streamEnded
	}
	return reason
}

// connectionKey finds the connection in the context that an engine hands to the handler.
type connectionKey struct{}

func connectionFrom(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

// drain is the registry's way to ask for the end. Byte streams have no convenient moment: they end when they are cut.
func (c *connection) drain(observe.Reason) {
	switch engine := c.http.Load(); {
	case engine != nil:
		(*engine).Drain()
	case c.tls == nil && c.state.spec.declared.Protocol == config.ProtocolHTTP: // its first byte is waited for
		_ = c.raw.SetReadDeadline(longAgo)
	}
}

// cut is the registry's way to end the connection at once.
func (c *connection) cut(reason observe.Reason) {
	c.cancel(cutFor(reason, "the connection was ended"))
	_ = c.stream.Abort()
}

// principal is as whom the connection is judged, by what the listener says of its callers.
func (c *connection) principal() authz.Principal {
	switch c.state.spec.declared.Caller {
	case config.CallerPeer:
		if c.tls != nil {
			return authz.Principal{ID: c.tls.Peer().ID()}
		}
	case config.CallerSelf:
		if x := c.state.credentials.Get(); x != nil {
			return authz.Principal{ID: x.ID}
		}
	case config.CallerAnonymous:
	}
	return authz.Principal{}
}

// refused records a connection that did not come about.
func (c *connection) refused(err error) {
	_ = c.raw.Close()
	reason := observe.HandshakeFailed
	switch e := err.(type) { //nolint:errorlint // both return it bare
	case *mtls.Error:
		reason = e.Reason
	case *listener.Error:
		reason = e.Reason
	}
	m := c.state.metrics
	m.began(reason)
	m.all.HandshakeFailures.WithLabelValues(observe.Accepted, m.name, reason.String()).Inc()
	c.server.log.Debug("handshake refused", slog.String(observe.KeyListener, m.name), slog.String(observe.KeyReason, reason.String()),
		slog.String("source", c.source), slog.String(observe.KeyError, err.Error()))
	c.records.cause = err.Error()
	c.server.options.AccessLog.Flow(c.flow(reason))
}

// ended closes and records a connection that was served.
func (c *connection) ended(reason observe.Reason) {
	_ = c.stream.Close()
	if why := c.entry.Reason(); why != "" && reason == observe.Drained {
		reason = why // the engine knows that it drained, the registry what for
	}
	c.state.metrics.ended(reason)
	c.server.options.AccessLog.Flow(c.flow(reason))
}

func (c *connection) flow(reason observe.Reason) *observe.Flow {
	f := &observe.Flow{
		Started: c.raw.Accepted(), Duration: time.Since(c.raw.Accepted()), Direction: observe.Accepted,
		Listener: c.state.spec.declared.Name, Service: c.state.spec.declared.Service, Cluster: c.records.cluster,
		Source: c.source, Target: c.raw.LocalAddr().String(), Decision: c.records.decision, Requests: int(c.records.requests.Load()),
		Close: reason, Cause: c.records.cause,
	}
	if hop := c.raw.Hop(); hop.IsValid() && hop != c.raw.Source() {
		f.Via = hop.String()
	}
	if c.stream != nil {
		f.BytesIn, f.BytesOut = c.stream.in.Load(), c.stream.out.Load()
	}
	if c.tls != nil {
		f.TLS = c.tls.Facts()
		f.Own = c.tls.Own().ID.String()
	}
	return f
}

// recovered keeps a programmer's error in one connection from ending the process.
func (s *Server) recovered(state *listenerState, raw *listener.Conn) {
	cause := recover()
	if cause == nil {
		return
	}
	_ = raw.Close()
	s.panicked(state.spec.declared.Name, cause)
}

func (s *Server) panicked(listener string, cause any) {
	s.options.Metrics.Panics.Inc()
	s.log.Error("a connection was ended by a panic", slog.String(observe.KeyListener, listener),
		slog.Any(observe.KeyError, cause), slog.String("stack", string(debug.Stack())))
}

func sourceOf(raw *listener.Conn) string {
	if raw.Source().IsValid() {
		return raw.Source().String()
	}
	return "unix"
}

// sniffTime is how long an auto listener waits for a client to speak first before it takes the connection for a protocol in which
// the server does.
const sniffTime = time.Second

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)
