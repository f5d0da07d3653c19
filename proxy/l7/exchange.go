package l7

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// Stream is the byte stream under an engine; *tls.Conn, *net.TCPConn and *net.UnixConn are such streams. One goroutine may read
// while another writes; deadlines may be set from a third, and a deadline in the past ends an operation that is waiting.
//
// Read returns io.EOF for an orderly end only. crypto/tls does not tell close_notify from a connection that is cut between two
// records, so what stands beneath it has to return another error for its end, one that wraps io.ErrUnexpectedEOF.
//
// A Stream may also be an Aborter and a Watcher.
type Stream interface {
	io.Reader
	io.Writer
	io.Closer
	// CloseWrite says that no more bytes follow; reading goes on.
	CloseWrite() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Aborter is a Stream with a way of its own to end disorderly; see Abort.
type Aborter interface {
	Abort() error
}

// Watcher is a Stream that can say, without waiting, that neither bytes nor an end have arrived. Upstream engines ask it before
// they use a connection again: bytes that nobody asked for would be taken for the next response.
type Watcher interface {
	Quiet() bool
}

// Abort ends the stream so that the peer cannot take it for an orderly end, where the stream can do that: as an Aborter, TLS by
// closing the connection beneath it without close_notify, TCP by a reset.
func Abort(s Stream) error {
	switch s := s.(type) {
	case Aborter:
		return s.Abort()
	case interface{ NetConn() net.Conn }:
		return reset(s.NetConn())
	default:
		return reset(s)
	}
}

func reset(c io.Closer) error {
	if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	return c.Close()
}

// Tunnel returns the byte stream behind a response with status 101 to a request with Upgrade: reads begin with what the upstream
// sent after its head. The body that has it needs no Close then, but for an error; who takes the stream closes it.
func Tunnel(resp *Response) (Stream, error) {
	if body, ok := resp.Body.(interface{ Tunnel() (Stream, error) }); ok && resp.Status == 101 {
		return body.Tunnel()
	}
	return nil, errors.New("no upgrade was answered with 101")
}

// Handler answers requests, whatever the engine. ServeExchange returns when the response has been written or cannot be; nothing
// of the exchange may be used afterwards. The context ends with the connection or the stream.
type Handler interface {
	ServeExchange(ctx context.Context, ex Exchange)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, ex Exchange)

// ServeExchange implements Handler.
func (f HandlerFunc) ServeExchange(ctx context.Context, ex Exchange) { f(ctx, ex) }

// Exchange is one request and the way to answer it. It belongs to the handler's goroutine; only the request's body may be read
// by another one meanwhile, and Cut may be called by anybody.
type Exchange interface {
	// Request is the message as the engine read it; the handler may change it.
	Request() *Request
	// Informational sends a 1xx response other than 100 and 101. It does nothing on a protocol without them (HTTP/1.0).
	Informational(status int, header *Header) error
	// WriteResponse sends the head and then the body to its end, trailers included, reading no faster than the client. It may be
	// called once. Closing the body stays with the caller. An error is an *Error: Side says whether the client failed or the body did, in which
	// case the client sees that the message is incomplete.
	WriteResponse(resp *Response) error
	// Tunnel answers an upgrade with the 101 in resp and hands over the stream, which the handler closes. Reads begin with what
	// the client sent after its request. Not more than one of WriteResponse and Tunnel is called. On HTTP/2 the answer is the 200
	// of an extended CONNECT, and the stream one of the connection's (RFC 8441).
	Tunnel(resp *Response) (Stream, error)
	// Cut ends the exchange at once, whatever is under way, so that the client sees a failure; the handler's context ends with
	// that cause. On HTTP/1 that ends the connection, on HTTP/2 the stream only. It may be called from any goroutine until the
	// handler has returned.
	Cut(cause *Error)
	// Abort ends the exchange without a response, or breaks off the one under way, so that the client sees a failure. On HTTP/1
	// that ends the connection.
	Abort()
}
