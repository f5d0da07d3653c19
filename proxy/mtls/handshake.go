package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// handshake is one of either side, from the first byte to a Conn or to its reason.
type handshake struct {
	transport *transport
	session   *tls.Conn
	gate      *Gate
	timeout   time.Duration
	check     *verification
	mutual    bool // the peer must be verified
	requirePQ bool
}

// run closes the transport when it fails. The error is an *Error.
func (h *handshake) run(ctx context.Context) (*Conn, error) {
	accepted := h.transport.hello != nil
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	err := h.transport.enter(ctx, h.gate)
	if err == nil {
		err = h.session.HandshakeContext(ctx)
	}
	hello := h.transport.leave()
	if err != nil {
		_ = h.transport.Close()
		return nil, handshakeError(ctx, err, h.verdict(accepted, hello, err))
	}
	conn := newConn(h.session, h.transport, h.check.epoch.credential, h.check.chain)
	if err := h.checkDone(conn); err != nil {
		_ = h.transport.Close()
		return nil, err
	}
	conn.accepted = accepted
	if hello != nil {
		conn.ja4 = hello.ja4()
	}
	// The configuration stays with the connection, and the verification with it: what it knows would stay too.
	h.check.epoch, h.check.chain = nil, nil
	return conn, nil
}

// verdict is our own reason for a failure, nil if it is not ours: crypto/tls may report a consequence of it.
func (h *handshake) verdict(accepted bool, hello *clientHello, failure error) error {
	switch {
	case h.check.err != nil:
		return h.check.err
	case !h.requirePQ:
		return nil
	case accepted:
		return clientLacksHybrid(hello, failure)
	default:
		return serverLacksHybrid(failure)
	}
}

// checkDone holds what a connection must be, whatever way it came about.
func (h *handshake) checkDone(conn *Conn) error {
	if h.mutual && conn.peer == nil {
		return &Error{Reason: observe.Internal, Err: errors.New("the peer was not verified")}
	}
	return checkGroup(h.requirePQ, conn.group)
}
