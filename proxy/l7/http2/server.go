package http2

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Server is what the downstream connections of one listener have in common.
type Server struct {
	options   ServerOptions
	limits    Limits
	timeouts  Timeouts
	driver    l7.Driver
	exchanges sync.Pool
}

// NewServer returns a server with those options, defaults filled in. Handler must be set.
func NewServer(options ServerOptions) *Server {
	if options.Scheme == "" {
		options.Scheme = "http"
	}
	return &Server{options: options, limits: options.Limits.withDefaults(), timeouts: options.Timeouts.withDefaults(),
		driver: driverOr(options.Driver)}
}

// ServerConn is one downstream connection. Serve runs in one goroutine; Drain may be called from any other.
type ServerConn struct {
	conn
	server *Server
	// begin starts the handler of an exchange; set by Serve, which has the context.
	begin func(x *serverExchange)
}

// NewConn returns a connection over the stream, which it owns from now on. Nothing runs before Serve.
func (s *Server) NewConn(stream l7.Stream) *ServerConn {
	c := &ServerConn{server: s}
	c.init(stream, s.driver, &s.limits, &s.timeouts, c)
	c.recv.left = s.limits.ConnectionWindow
	c.out.add(appendServerSettings(nil, &s.limits))
	return c
}

// Serve answers requests until the connection ends and every handler has returned; it closes the stream and says why. Cancelling
// the context aborts the connection at once; the reason is then that of an *l7.Error given as the cause, or Drained.
func (c *ServerConn) Serve(ctx context.Context) observe.Reason {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	stop := context.AfterFunc(ctx, func() { c.abort(ctx) })
	defer stop()
	c.begin = func(x *serverExchange) {
		exchange, cancel := context.WithCancelCause(ctx)
		c.open(x, cancel)
		c.driver.Go(func() {
			defer c.stopped()
			x.run(exchange)
		})
	}
	e := c.run(c.readRequests)
	reason := e.reason
	if ctx.Err() != nil {
		reason = l7.ReasonOf(context.Cause(ctx), observe.Drained)
	}
	cut(c.lost(e))
	c.waitFor(c.quiet, time.Time{})
	return reason
}

// Drain ends the connection without losing a request: what has begun goes on, and so does what the client begins before it can
// know. It may be called concurrently and more than once.
func (c *ServerConn) Drain() { c.leave(drainTime) }

// drainTime is how long a client may take to answer that it has read the announcement of the end.
const drainTime = time.Second

// abort ends the connection at once, because the context of Serve did.
func (c *ServerConn) abort(ctx context.Context) {
	c.mu.Lock()
	over, writing := c.life.ended != nil, c.out.writing
	c.out.closed = true
	c.endLocked(&ending{reason: observe.Drained, silent: true, cause: context.Cause(ctx)})
	last := c.lastPeer
	c.mu.Unlock()
	if !over && !writing {
		// A courtesy that may not take time: what a client did not see served it can send elsewhere.
		_ = c.stream.SetWriteDeadline(time.Now().Add(courtesy))
		_, _ = c.stream.Write(appendGoAway(nil, last, codeNo))
	}
	_ = l7.Abort(c.stream)
}

const courtesy = 5 * time.Millisecond

// readRequests is the reading function of the connection.
func (c *ServerConn) readRequests() error {
	c.flushSoon()
	for {
		got := c.inbound.reader.buffered()
		n := min(len(got), len(preface))
		if string(got[:n]) != preface[:n] {
			return protocolError("the connection preface is not that of HTTP/2")
		}
		if n == len(preface) {
			c.inbound.reader.consume(n)
			return c.read()
		}
		if err := c.await(len(preface)); err != nil {
			return err
		}
	}
}

func (c *ServerConn) isServer() bool { return true }

// settled implements role: whoever waits for a window has been woken.
func (c *ServerConn) settled() {}

// look implements role.
func (c *ServerConn) look(now time.Time) (time.Time, *ending) {
	deadline := now.Add(c.timeouts.Idle)
	if c.life.goAway == leaving {
		if !now.Before(c.life.final) {
			c.lastWord()
		} else {
			deadline = earlier(deadline, c.life.final)
		}
	}
	switch {
	case c.inbound.open.stream != 0: // a request has begun whose head is not whole, and the last word has counted it in
		return deadline, nil
	case c.left():
		return deadline, &ending{reason: observe.Drained}
	case c.active > 0:
		return deadline, nil
	case c.life.peerGoes:
		return deadline, &ending{reason: observe.PeerClosed}
	}
	idle := c.life.idleSince.Add(c.timeouts.Idle)
	if !now.Before(idle) {
		return deadline, &ending{reason: observe.IdleTimeout}
	}
	return earlier(deadline, idle), nil
}

// beginBlock implements role: a new request, or the trailers of one.
func (c *ServerConn) beginBlock(id uint32) (blockKind, *connError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		if s.recvEnd {
			return ignoredBlock, brokenRule(codeStreamClosed, "HEADERS after the end of the stream")
		}
		return requestTrailer, nil
	}
	if id%2 == 0 {
		return ignoredBlock, protocolError("a client began a stream of a server")
	}
	if id <= c.lastPeer {
		return c.lateBlock(id)
	}
	if id > c.life.refusedAbove {
		return ignoredBlock, nil // the client has been told, and sends it elsewhere
	}
	c.lastPeer = id
	if c.unanswered < c.limits.MaxStreams && c.active < 2*c.limits.MaxStreams {
		return requestHead, nil
	}
	// A place is kept until the request is answered, or its handler has returned: also when the client has reset the stream.
	c.out.add(appendRSTStream(c.scratch[:0], id, codeRefusedStream))
	c.closed.add(id, true)
	c.budget.streamBegan()
	return ignoredBlock, c.budget.reset(time.Now())
}

// lateBlock judges HEADERS on a stream that has ended, or was passed over.
func (c *ServerConn) lateBlock(id uint32) (blockKind, *connError) {
	switch reset, ok := c.closed.find(id); {
	case reset:
		return ignoredBlock, nil // it crossed our reset on the way
	case ok:
		return ignoredBlock, brokenRule(codeStreamClosed, "HEADERS on a closed stream")
	default:
		return ignoredBlock, protocolError("stream below one that was begun before")
	}
}

// endBlock implements role.
func (c *ServerConn) endBlock(id uint32, endStream bool) *connError {
	switch c.inbound.block.kind {
	case requestHead:
		c.request(id, endStream)
		return nil
	case requestTrailer:
		return c.endTrailer(id, endStream)
	case ignoredBlock, responseHead, responseTrailer:
	}
	return nil
}

// request begins an exchange. What is wrong with the request is found out here, and answered like any other.
func (c *ServerConn) request(id uint32, endStream bool) {
	x := c.server.borrowExchange(c)
	b := &c.inbound.block
	b.request(&x.request, c.server.options.Scheme, endStream)
	x.refusal, x.malformed = b.err, b.malformed
	x.stream.id, x.stream.recvEnd = id, endStream
	if !endStream {
		x.beginBody()
	}
	c.begin(x)
}

// open makes the stream of an exchange known, and takes its place.
func (c *ServerConn) open(x *serverExchange, cancel context.CancelCauseFunc) {
	s := &x.stream
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
	c.unanswered++
	s.unanswered = true
	c.life.running++
	c.budget.streamBegan()
	s.cancel = cancel
	s.send = sendWindow(c.peer.initialWindow)
	s.recv.left = c.limits.StreamWindow
	if c.life.ended != nil {
		s.fail(c.lost(c.life.ended))
		return
	}
	c.streams[s.id] = s
}

// endTrailer ends a request with its trailers (RFC 9113, Section 8.1).
func (c *conn) endTrailer(id uint32, endStream bool) *connError {
	b := &c.inbound.block
	b.finish()
	if b.err == nil {
		b.checkTrailer()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case s == nil: // it ended while the block came
		return nil
	case !endStream:
		return c.violated(s, codeProtocol, "trailers that do not end the stream")
	case b.err != nil:
		return c.violated(s, codeProtocol, b.err.Err.Error())
	}
	s.trailer, b.header = b.header, s.trailer
	return c.endReceived(s)
}

var errAnswered = errors.New("the exchange was answered before")
