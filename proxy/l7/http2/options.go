package http2

import (
	"context"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Limits bounds what one message and one connection may cost. A zero value stands for the default of its line.
type Limits struct {
	// MaxHead is the size of a head as RFC 9113, Section 10.5.1 counts it: names, values and 32 bytes per field, decoded. It is
	// announced to the peer. Default 64 KiB.
	MaxHead int
	// MaxFields is the number of fields of a head, and of a trailer section; every crumb of a cookie is one. Default 100.
	MaxFields int
	// MaxURI is the length of a :path in bytes; default 16 KiB.
	MaxURI int
	// MaxTrailer is the size of a trailer section, counted like a head; default 8 KiB.
	MaxTrailer int
	// MaxStreams is the number of requests under way on a connection; default 100. A ClientConn takes the peer's limit if that is
	// lower.
	MaxStreams int
	// StreamWindow is how many bytes of a body may arrive before anybody reads them; default 256 KiB, at least 65,535.
	StreamWindow int
	// ConnectionWindow is the same for all streams of a connection together; default 1 MiB, at least 65,535.
	ConnectionWindow int
	// MaxInformational is the number of 1xx responses before a final one; default 8.
	MaxInformational int
}

// Timeouts bounds how long a connection waits. A zero value stands for the default of its line.
type Timeouts struct {
	// Head is the time for the connection preface with its SETTINGS, and for a field block from its first frame to its last.
	// Default 10 s.
	Head time.Duration
	// Idle is how long a connection without a stream stays open; default 60 s.
	Idle time.Duration
	// Body is the longest wait for the next bytes of a request's body with a content-length while no response has begun, and of a
	// response's body with a content-length; default 30 s.
	Body time.Duration
	// StreamIdle is the longest wait for the next bytes of every other body: calls that stream both ways pause legitimately.
	// Default 1 h.
	StreamIdle time.Duration
	// Write is the longest wait for the peer to take up to 16 KiB of a connection; default 30 s.
	Write time.Duration
	// Response is how long a ClientConn waits for a response head once the request is sent; default 5 min. A shorter limit is
	// the context's.
	Response time.Duration
	// Continue is how long a ClientConn waits for 100 (Continue) before it sends the body anyway; default 1 s.
	Continue time.Duration
	// Ping is how long a ClientConn with requests under way hears nothing before it asks with a PING; default 10 s.
	Ping time.Duration
	// PingAnswer is how long it then waits for anything to arrive; default 10 s.
	PingAnswer time.Duration
	// Linger is how long a connection that ends goes on reading, so that the peer can read the last frames before a reset
	// destroys them; default 500 ms.
	Linger time.Duration
}

// ServerOptions is what all downstream connections of a listener share. It is not changed after the first connection.
type ServerOptions struct {
	Handler  l7.Handler
	Limits   Limits
	Timeouts Timeouts
	// Scheme is that of the connection: "http", or "https" over TLS. Empty is "http".
	Scheme string
	// Refused is told of every request that the engine refused by itself, with a context that derives from Serve's, and makes the
	// answer. When it is nil or returns nil, the answer is the bare status. It may be called concurrently.
	Refused func(ctx context.Context, err *l7.Error) *l7.Response
	// Driver runs handlers and is what they wait with; nil is l7.Goroutines.
	Driver l7.Driver
}

// ClientOptions is what the connections of an upstream share. It is not changed after the first connection.
type ClientOptions struct {
	Limits   Limits
	Timeouts Timeouts
	// Driver runs the reader of each connection and the senders of bodies; nil is l7.Goroutines.
	Driver l7.Driver
}

// ClientEvents tell the owner of a ClientConn what changed. They are called without locks held, from any goroutine; nil ones are
// skipped.
type ClientEvents struct {
	// Room: a place for a request became free, or there are more than before.
	Room func()
	// Ended is called once, when no request can begin any more and none is under way.
	Ended func(reason observe.Reason)
}

func (l Limits) withDefaults() Limits {
	l.MaxHead = positive(l.MaxHead, 64<<10)
	l.MaxFields = positive(l.MaxFields, 100)
	l.MaxURI = positive(l.MaxURI, 16<<10)
	l.MaxTrailer = positive(l.MaxTrailer, 8<<10)
	l.MaxStreams = positive(l.MaxStreams, 100)
	l.StreamWindow = window(l.StreamWindow, 256<<10)
	l.ConnectionWindow = window(l.ConnectionWindow, 1<<20)
	l.MaxInformational = positive(l.MaxInformational, 8)
	return l
}

// window keeps a window between what every peer may assume before it has read our SETTINGS, and what the protocol can say.
func window(value, standard int) int {
	return min(max(positive(value, standard), defaultWindow), maxWindow)
}

func (t Timeouts) withDefaults() Timeouts {
	t.Head = positive(t.Head, 10*time.Second)
	t.Idle = positive(t.Idle, 60*time.Second)
	t.Body = positive(t.Body, 30*time.Second)
	t.StreamIdle = positive(t.StreamIdle, time.Hour)
	t.Write = positive(t.Write, 30*time.Second)
	t.Response = positive(t.Response, 5*time.Minute)
	t.Continue = positive(t.Continue, time.Second)
	t.Ping = positive(t.Ping, 10*time.Second)
	t.PingAnswer = positive(t.PingAnswer, 10*time.Second)
	t.Linger = positive(t.Linger, 500*time.Millisecond)
	return t
}

func positive[T int | time.Duration](value, standard T) T {
	if value > 0 {
		return value
	}
	return standard
}

func driverOr(driver l7.Driver) l7.Driver {
	if driver == nil {
		return l7.Goroutines{}
	}
	return driver
}
