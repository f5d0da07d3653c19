package mtls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// transport stands between TLS and the connection beneath. During the handshake it goes through the gate and sees the ClientHello
// pass; later it reads ahead and batches writes. It tells TLS that the end of the transport is not the end of the stream.
//
// Reads belong to one goroutine at a time, and so do the settings; writes may come from several.
type transport struct {
	net.Conn
	in      records
	way     *passage   // during the handshake
	hello   *helloTap  // during the handshake of an accepted connection
	ahead   *readAhead // of byte streams
	probe   *probe     // nil until it is needed, and where there is no socket
	instant bool       // the read under way does not wait
	out     batch
}

// errCut is the end of the transport. crypto/tls takes io.EOF from beneath it for the end of the stream when it comes between two
// records, and io.ErrUnexpectedEOF likewise, though only close_notify is one (RFC 8446, Section 6.1); any other error it passes on.
var errCut = fmt.Errorf("the connection ended without close_notify: %w", io.ErrUnexpectedEOF)

// enter begins the handshake.
func (t *transport) enter(ctx context.Context, gate *Gate) (err error) {
	t.way, err = gate.enter(ctx)
	return err
}

// leave ends the handshake and keeps nothing of it. It returns the ClientHello, nil if none was understood.
func (t *transport) leave() *clientHello {
	t.way.release()
	t.way = nil
	if t.hello == nil {
		return nil
	}
	seen := t.hello.seen
	t.hello = nil
	return seen
}

// Read implements net.Conn, but never returns io.EOF.
func (t *transport) Read(p []byte) (int, error) {
	t.way.release()
	n, err := t.read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	t.follow(p[:n])
	if takeErr := t.way.take(); err == nil {
		err = takeErr
	}
	return n, err
}

func (t *transport) read(p []byte) (int, error) {
	switch {
	case t.ahead != nil:
		return t.ahead.read(t, p)
	case t.instant:
		return t.probe.try(p)
	default:
		return t.Conn.Read(p)
	}
}

// follow sees what passes.
func (t *transport) follow(p []byte) {
	for len(p) > 0 {
		n, payload := t.in.step(p)
		if payload && t.hello != nil {
			t.hello.add(t.in.kind(), p[:n])
		}
		p = p[n:]
	}
}

// Write implements net.Conn. During a batch it only collects.
func (t *transport) Write(p []byte) (int, error) { return t.out.write(t.Conn, p) }

// probing prepares for reads that do not wait; false where the transport can do only the others.
func (t *transport) probing() bool {
	if t.probe == nil {
		t.probe = newProbe(t.Conn)
	}
	return t.probe != nil
}

// errNothing is the answer to a read that would have to wait. crypto/tls goes on after it as if the read had not been.
var errNothing = os.ErrDeadlineExceeded

// Quiet reports that nothing has come from the peer that is still to be read, not even in part, and that the peer has not ended
// the connection. It does not wait; what TLS sends for itself, such as a session ticket, is taken in and does not count. No Read
// may be under way, and the read deadline is lifted.
func (c *Conn) Quiet() bool {
	var into [1]byte
	if !c.transport.probing() {
		// A deadline in the past makes TLS look at what it has.
		if c.SetReadDeadline(time.Unix(1, 0)) != nil {
			return false
		}
		n, err := c.Conn.Read(into[:])
		return n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.SetReadDeadline(time.Time{}) == nil
	}
	if c.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	n, err := c.readInstantly(into[:])
	return n == 0 && errors.Is(err, errNothing) && c.transport.in.between()
}

// readInstantly is a Read that fails with errNothing where it would have to wait.
func (c *Conn) readInstantly(p []byte) (int, error) {
	c.transport.instant = true
	defer func() { c.transport.instant = false }()
	return c.Conn.Read(p)
}
