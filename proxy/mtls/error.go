package mtls

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/observe"
)

// Error is a handshake that did not succeed.
type Error struct {
	// Reason is the code for logs and metrics; it is what the operator looks up.
	Reason observe.Reason
	Err    error
}

// Error names the reason and describes the cause. It has no control characters, whatever the peer sent, and is bounded.
func (e *Error) Error() string {
	return "TLS handshake: " + e.Reason.String() + ": " + printable(e.Err.Error())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// IsAlert reports that the peer ended the connection with a TLS alert. In TLS 1.3 a server judges the client's certificate after
// the client's handshake is done, so this is how a client learns of its refusal, on its first read (RFC 8446, Section 4.4.2.4).
func IsAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// handshakeError gives the failure of a handshake its reason. The verdict, when verification made one, is what counts: crypto/tls
// may report a consequence of it.
func handshakeError(ctx context.Context, err, verdict error) *Error {
	if verdict != nil {
		err = verdict
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Reason: handshakeReason(ctx, err), Err: err}
}

func handshakeReason(ctx context.Context, err error) observe.Reason {
	if e, ok := errors.AsType[*svid.Error](err); ok {
		return e.Reason
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return observe.HandshakeTimeout
	case strings.Contains(err.Error(), missingCertificate):
		return observe.PeerNoCertificate
	}
	return observe.HandshakeFailed
}

// missingCertificate is the only sign that crypto/tls gives of a client without certificate; a test holds it.
const missingCertificate = "client didn't provide a certificate"

// printable bounds the text and escapes everything that a terminal or a line-based log could take for more than text.
func printable(s string) string {
	const most = 1024
	if len(s) > most {
		s = s[:most] + "…"
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	quoted := strconv.QuoteToASCII(s)
	return quoted[1 : len(quoted)-1]
}
