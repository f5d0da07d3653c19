package http1

import (
	"context"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// Limits bounds what one message may cost. A zero value stands for the default of its line.
type Limits struct {
	// MaxHead is the size of a head, start line included, in bytes; default 64 KiB.
	MaxHead int
	// MaxFields is the number of field lines of a head, and of a trailer section; default 100.
	MaxFields int
	// MaxURI is the length of a request target in bytes; default 16 KiB.
	MaxURI int
	// MaxTrailer is the size of a trailer section in bytes; default 8 KiB.
	MaxTrailer int
	// MaxChunkOverhead is how many bytes of chunk framing beyond what honest senders need a body may carry; default 16 KiB.
	MaxChunkOverhead int
	// MaxInformational is the number of 1xx responses before a final one; default 8.
	MaxInformational int
	// MaxDrain is how much of an unread request body is read and dropped to keep the connection; default 64 KiB.
	MaxDrain int
	// MinBodyRate is how many bytes per second a client has to send of its request's body, and MinWriteRate how many it has to
	// take of a response, on average and after 5 s of grace; default 240, negative for none. Only the time counts that the
	// connection waits for the client: one that is not read from, since the upstream is slow, is not late. Downstream only.
	MinBodyRate, MinWriteRate int
}

// Timeouts bounds how long a connection waits. A zero value stands for the default of its line.
type Timeouts struct {
	// Head is the time for a whole request head, from its first byte; and for the first byte of a new connection. Default 10 s.
	Head time.Duration
	// Response is how long a ClientConn waits for a response head once the request is sent; default 5 min. A shorter limit is
	// the context's.
	Response time.Duration
	// Idle is the time between requests; default 60 s.
	Idle time.Duration
	// Body is the longest wait for the next bytes of a body; default 30 s.
	Body time.Duration
	// Write is the longest wait for the peer to take up to 32 KiB; default 30 s.
	Write time.Duration
	// Continue is how long a ClientConn waits for 100 (Continue) before it sends the body anyway; default 1 s.
	Continue time.Duration
	// Linger is how long a connection that ends with unread input goes on reading, so that the peer can read the answer before
	// a reset destroys it (RFC 9112, Section 9.6); default 500 ms.
	Linger time.Duration
}

// ServerOptions is what all downstream connections of a listener share. It is not changed after the first connection.
type ServerOptions struct {
	Handler  l7.Handler
	Limits   Limits
	Timeouts Timeouts
	// Scheme is that of the connection: "http", or "https" over TLS. Empty is "http".
	Scheme string
	// Refused is told of every request that the engine refused by itself, with the context of Serve, and makes the answer, after
	// which the connection ends. When it is nil or returns nil, the answer is the bare status. It is called from the connection's
	// goroutine.
	Refused func(ctx context.Context, err *l7.Error) *l7.Response
}

// ClientOptions is what the connections of an upstream share. It is not changed after the first connection.
type ClientOptions struct {
	Limits   Limits
	Timeouts Timeouts
	// Driver runs what sends the body of a request while its response is waited for; nil is l7.Goroutines.
	Driver l7.Driver
}

func (l Limits) withDefaults() Limits {
	l.MaxHead = positive(l.MaxHead, 64<<10)
	l.MaxFields = positive(l.MaxFields, 100)
	l.MaxURI = positive(l.MaxURI, 16<<10)
	l.MaxTrailer = positive(l.MaxTrailer, 8<<10)
	l.MaxChunkOverhead = positive(l.MaxChunkOverhead, 16<<10)
	l.MaxInformational = positive(l.MaxInformational, 8)
	l.MaxDrain = positive(l.MaxDrain, 64<<10)
	l.MinBodyRate = rate(l.MinBodyRate)
	l.MinWriteRate = rate(l.MinWriteRate)
	return l
}

func (t Timeouts) withDefaults() Timeouts {
	t.Head = positive(t.Head, 10*time.Second)
	t.Response = positive(t.Response, 5*time.Minute)
	t.Idle = positive(t.Idle, 60*time.Second)
	t.Body = positive(t.Body, 30*time.Second)
	t.Write = positive(t.Write, 30*time.Second)
	t.Continue = positive(t.Continue, time.Second)
	t.Linger = positive(t.Linger, 500*time.Millisecond)
	return t
}

// rate is bytes per second, 0 for none.
func rate(value int) int {
	if value == 0 {
		return 240 // slower than any modem that still is in use
	}
	return max(value, 0)
}

func positive[T int | time.Duration](value, standard T) T {
	if value > 0 {
		return value
	}
	return standard
}
