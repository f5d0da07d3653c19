package http1

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Server is what the downstream connections of one listener have in common.
type Server struct {
	options   ServerOptions
	limits    Limits
	timeouts  Timeouts
	exchanges sync.Pool
}

// NewServer returns a server with those options, defaults filled in. Handler must be set.
func NewServer(options ServerOptions) *Server {
	if options.Scheme == "" {
		options.Scheme = "http"
	}
	return &Server{options: options, limits: options.Limits.withDefaults(), timeouts: options.Timeouts.withDefaults()}
}

// ServerConn is one downstream connection. Serve runs in one goroutine; Drain may be called from any other.
type ServerConn struct {
	server *Server
	stream l7.Stream
	reader reader
	writer writer
	// requests counts those that began on this connection.
	requests int
	// cut ends the connection at once; set by Serve.
	cut context.CancelCauseFunc

	draining atomic.Bool
	// idle: nothing of a request has been received, and the connection waits for it.
	idle atomic.Bool
}

// NewConn returns a connection over the stream, which it owns from now on. Nothing runs before Serve.
func (s *Server) NewConn(stream l7.Stream) *ServerConn {
	return &ServerConn{
		server: s, stream: stream,
		reader: reader{stream: stream},
		writer: writer{stream: stream, timeout: s.timeouts.Write},
	}
}

// Serve answers requests, one after the other, until the connection ends; it closes the stream and says why. Cancelling the
// context aborts the connection at once; the reason is then that of an *l7.Error given as the cause, or Drained.
func (c *ServerConn) Serve(ctx context.Context) observe.Reason {
	ctx, c.cut = context.WithCancelCause(ctx)
	defer c.cut(nil)
	stop := context.AfterFunc(ctx, func() { _ = l7.Abort(c.stream) })
	defer stop()
	defer c.close()
	for {
		if reason, ok := c.await(); !ok {
			return endedBy(ctx, reason)
		}
		if reason, ok := c.exchange(ctx); !ok {
			return endedBy(ctx, reason)
		}
		c.reader.release()
	}
}

// Drain ends the connection without losing a request: at once when it is idle, otherwise with the response under way, which then
// says "Connection: close". It may be called concurrently and more than once.
func (c *ServerConn) Drain() {
	c.draining.Store(true)
	if c.idle.Load() {
		c.reader.interrupt()
	}
}

func (c *ServerConn) close() {
	_ = c.stream.Close()
	c.reader.start = c.reader.end
	c.reader.release()
}

// endedBy replaces the reason by that of the context when that is what ended the connection.
func endedBy(ctx context.Context, reason observe.Reason) observe.Reason {
	if ctx.Err() == nil {
		return reason
	}
	return l7.ReasonOf(context.Cause(ctx), observe.Drained)
}

// grace is how long a connection keeps its buffer after a request: clients in a hurry send the next one within it, and all
// others wait without a buffer.
const grace = 100 * time.Millisecond

// await returns when the first bytes of a request are there.
func (c *ServerConn) await() (observe.Reason, bool) {
	if len(c.reader.buffered()) > 0 {
		return "", true
	}
	idle := c.server.timeouts.Idle
	if c.requests == 0 {
		idle = c.server.timeouts.Head
	}
	deadline := time.Now().Add(idle)
	err := c.awaitUntil(deadline)
	switch {
	case err == nil:
		return "", true
	case c.draining.Load():
		return observe.Drained, false
	case errors.Is(err, os.ErrDeadlineExceeded):
		return observe.IdleTimeout, false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// Many clients end an unused connection without close_notify; nothing was under way that this could cut short.
		return observe.PeerClosed, false
	default:
		return observe.IOError, false
	}
}

// awaitUntil reads the first bytes: for a short while into a buffer, then without one.
func (c *ServerConn) awaitUntil(deadline time.Time) error {
	// Drain stores draining and then looks at idle; here idle is stored, and each read then looks at draining. One of the two sees
	// the other, and no connection sleeps through its drain.
	c.idle.Store(true)
	c.reader.halt = &c.draining
	defer func() {
		c.reader.halt = nil
		c.idle.Store(false)
	}()
	if soon := time.Now().Add(grace); soon.Before(deadline) {
		if err := c.reader.fill(soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		c.reader.release()
	}
	return c.reader.first(deadline)
}

// exchange reads one request and has it answered. It reports whether the connection goes on, and otherwise why not.
func (c *ServerConn) exchange(ctx context.Context) (observe.Reason, bool) {
	x := c.server.borrowExchange(c)
	defer x.giveBack()
	c.requests++
	if err := x.readHead(); err != nil {
		return x.refuse(ctx, err), false
	}
	c.server.options.Handler.ServeExchange(ctx, x)
	return x.finish(ctx)
}
