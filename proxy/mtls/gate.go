package mtls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// Gate bounds how many handshakes compute at once. A handshake that waits for its peer holds no place, so that thousands of
// half-done ones keep nobody out; they are bounded by the limit of connections and by the deadline.
type Gate struct {
	places chan struct{}
}

// NewGate returns a gate with that many places, at least one. Twice the processors is a good number: a handshake costs about
// 0.4 ms of CPU, and more of them at once only make each later.
func NewGate(places int) *Gate {
	return &Gate{places: make(chan struct{}, max(places, 1))}
}

// handshakeConn takes a place in the gate whenever the handshake computes, and gives it back while it waits to read. After the
// handshake gate is nil, and what remains is to tell TLS that the end of the transport is not the end of the stream.
type handshakeConn struct {
	net.Conn
	gate    *Gate
	given   <-chan struct{} // closed when the handshake's time is over
	holding bool
}

var errGateFull = errors.New("too many handshakes at once")

// errCut is the end of the transport. crypto/tls takes io.EOF from beneath it for the end of the stream when it comes between two
// records, and io.ErrUnexpectedEOF likewise, though only close_notify is one (RFC 8446, Section 6.1); any other error it passes on.
var errCut = fmt.Errorf("the connection ended without close_notify: %w", io.ErrUnexpectedEOF)

func (c *handshakeConn) enter(ctx context.Context) error {
	if c.gate == nil {
		return nil
	}
	c.given = ctx.Done()
	return c.take()
}

func (c *handshakeConn) take() error {
	select {
	case c.gate.places <- struct{}{}:
		c.holding = true
		return nil
	case <-c.given:
		return errGateFull
	}
}

func (c *handshakeConn) release() {
	if c.holding {
		c.holding = false
		<-c.gate.places
	}
}

// leave ends the handshake.
func (c *handshakeConn) leave() {
	c.release()
	c.gate = nil
}

// Read implements net.Conn, but never returns io.EOF.
func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.gate == nil {
		return c.read(p)
	}
	c.release()
	n, err := c.read(p)
	if takeErr := c.take(); err == nil {
		err = takeErr
	}
	return n, err
}

func (c *handshakeConn) read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}
