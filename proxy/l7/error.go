package l7

import (
	"errors"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
)

// Side is the end of the proxy at which something failed.
type Side uint8

// Sides.
const (
	Downstream Side = iota
	Upstream
)

// String returns "downstream" or "upstream".
func (s Side) String() string {
	if s == Upstream {
		return "upstream"
	}
	return "downstream"
}

// Error is the failure of one message or exchange. It closes at most the connection on which it happened.
type Error struct {
	Reason observe.Reason
	// Status is what the client is told, if it still can be.
	Status int
	Side   Side
	// Sent and Responded are of a RoundTrip: whether a byte of the request may have reached the upstream, and whether a byte of
	// a response came back. Without Sent any request can be tried again; without Responded an idempotent one whose body has not
	// been read.
	Sent      bool
	Responded bool
	Err       error
}

// NewError returns a failure of the downstream side with the usual status of its reason.
func NewError(reason observe.Reason, text string) *Error {
	return &Error{Reason: reason, Status: StatusOf(reason), Err: errors.New(text)}
}

// Error says the reason and what was wrong.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString(e.Side.String())
	text.WriteString(": ")
	text.WriteString(e.Reason.String())
	if e.Err != nil {
		text.WriteString(": ")
		text.WriteString(e.Err.Error())
	}
	return text.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason that the error carries, or other when it carries none.
func ReasonOf(err error, other observe.Reason) observe.Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return other
}

// StatusOf is the status with which a request is refused for that reason; 500 for reasons that refuse no request.
func StatusOf(reason observe.Reason) int {
	switch reason {
	case observe.BadRequest, observe.AmbiguousPath:
		return 400
	case observe.Unauthenticated:
		return 401
	case observe.Denied, observe.NoPolicy, observe.PolicyError, observe.UpgradeRefused:
		return 403
	case observe.NoRoute:
		return 404
	case observe.RequestTimeout:
		return 408
	case observe.BodyTooLarge:
		return 413
	case observe.URITooLong:
		return 414
	case observe.Misdirected:
		return 421
	case observe.TooManyRequests:
		return 429
	case observe.HeadTooLarge:
		return 431
	case observe.NotImplemented:
		return 501
	case observe.UpstreamProtocol, observe.UpstreamReset:
		return 502
	case observe.UpstreamConnect, observe.UpstreamTLS, observe.UpstreamNone, observe.UpstreamOverloaded, observe.TooManyConnections:
		return 503
	case observe.UpstreamTimeout:
		return 504
	case observe.UnsupportedVersion:
		return 505
	default:
		return 500
	}
}
