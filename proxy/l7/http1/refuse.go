package http1

import (
	"context"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// refuse answers a request that the engine does not accept and ends the connection. A client that is gone, or sent nothing that
// can be answered, gets nothing.
func (x *serverExchange) refuse(ctx context.Context, err *l7.Error) observe.Reason {
	c := x.conn
	var resp *l7.Response
	if c.server.options.Refused != nil {
		resp = c.server.options.Refused(ctx, err)
	}
	if err.Reason == observe.IOError {
		return err.Reason
	}
	if resp == nil {
		resp = &l7.Response{Status: err.Status}
	}
	x.last = true
	x.status = unanswered
	if x.WriteResponse(resp) == nil {
		c.linger()
	}
	return err.Reason
}

// linger ends the writing side and goes on reading for a moment: closing with unread input resets the connection, and the reset
// can destroy the response before the client has read it (RFC 9112, Section 9.6).
func (c *ServerConn) linger() {
	if c.stream.CloseWrite() != nil {
		return
	}
	end := time.Now().Add(c.server.timeouts.Linger)
	buf := borrow(smallBuffer)
	defer giveBack(buf)
	// Bounded by time alone: a client that still uploads fast must get the moment, too.
	for {
		if _, err := c.reader.read(buf, end); err != nil || time.Now().After(end) {
			return
		}
	}
}
