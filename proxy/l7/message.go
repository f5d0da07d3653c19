package l7

import "io"

// Protocol is the version of HTTP in which a message arrived.
type Protocol uint8

// Protocols. The zero value is none.
const (
	NoProtocol Protocol = iota
	HTTP10
	HTTP11
	HTTP2
	HTTP3
)

// String returns the name of the protocol as in an HTTP/1 start line.
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	case HTTP3:
		return "HTTP/3"
	default:
		return "none"
	}
}

// Request is a request as it is judged and forwarded. An engine fills it, canonical.Canonicalise brings it into its one form.
type Request struct {
	Protocol Protocol
	Method   string
	// Scheme is "http" or "https": that of the connection on which the request came.
	Scheme string
	// Authority is host[:port], from the Host field, the absolute form or :authority, which never disagree. The Header has no
	// host field.
	Authority string
	// Host is the canonical host without port; empty until the request is canonical.
	Host string
	// Path starts with "/" or is "*"; it is empty for CONNECT. RawQuery is what follows the "?".
	Path     string
	RawQuery string
	Header   Header
	// Body is nil when there is none.
	Body Body
	// ContentLength is the length of the body, 0 for none, -1 when it is unknown until its end.
	ContentLength int64
	// Upgrade is the protocol that the client asks to switch to, in lower case; empty when it does not. On every version of HTTP
	// the request then looks as on HTTP/1: GET with the fields of RFC 6455 for "websocket"; engines translate from and to the
	// extended CONNECT of RFC 8441.
	Upgrade string
	// ExpectContinue: the client waits for 100 (Continue) before it sends the body. The engine sends it when Body is first read.
	ExpectContinue bool
	// AcceptsTrailers: the client sent "TE: trailers".
	AcceptsTrailers bool
	// Close: the client said that this is its last request on the connection. A handler sets it to end the connection after the
	// response.
	Close bool
}

// Reset empties the request and keeps the buffer of its header.
func (r *Request) Reset() {
	header := r.Header
	header.Reset()
	*r = Request{Header: header}
}

// Response is a response head with the stream of its body.
type Response struct {
	Protocol Protocol
	// Status is 200 to 999 for a final response; 101 for the answer to an upgrade.
	Status int
	// Reason is the phrase of an HTTP/1 status line; the engine writes the usual one when it is empty.
	Reason string
	Header Header
	// Body is never nil in a response from RoundTrip and must be closed; of a 101 it is what Tunnel asks for the stream. In one that a handler makes, nil is an empty body.
	Body Body
	// ContentLength is the length of the body, -1 when it is unknown until its end. In a response to HEAD and in 304 it is what
	// the head said, -1 for nothing.
	ContentLength int64
	// Upgrade is the protocol that a 101 switches to, in lower case.
	Upgrade string
	// Close: the sender said that it closes the connection after this message.
	Close bool
}

// Reset empties the response and keeps the buffer of its header.
func (r *Response) Reset() {
	header := r.Header
	header.Reset()
	*r = Response{Header: header}
}

// HasBody reports whether a response with that status to a request with that method has a body at all
// (RFC 9112, Section 6.3, rule 1).
func HasBody(method string, status int) bool {
	return method != "HEAD" && status >= 200 && status != 204 && status != 304
}

// Body is the stream of a message's content. One goroutine reads; Close may be called while it does and then ends its Read.
type Body interface {
	// Read returns io.EOF once the body is complete, its trailers included; any other error means that it is not. A body that
	// ends early is never reported as io.EOF.
	io.Reader
	// Trailer returns the trailer fields after io.EOF; nil when there are none.
	Trailer() *Header
	// Close gives up the rest. It may be called more than once.
	io.Closer
}

// Ready is what a Body may also say: how many bytes Read returns without waiting, and whether they are all that remain. Engines
// use it to send a head and a small body at once, and to do without a goroutine.
type Ready interface {
	Ready() (n int, whole bool)
}

// Starter is a Body whose sender may have to be asked for it (100-continue). Start is called from the exchange's goroutine before
// another one begins to read; a Read from the exchange's goroutine starts by itself.
type Starter interface {
	Start() error
}

// Start asks for the body, if that is needed.
func Start(body Body) error {
	if s, ok := body.(Starter); ok {
		return s.Start()
	}
	return nil
}

// ReadyOf asks the body, if it can say. A nil body is whole.
func ReadyOf(body Body) (n int, whole bool) {
	if body == nil {
		return 0, true
	}
	if r, ok := body.(Ready); ok {
		return r.Ready()
	}
	return 0, false
}

// StringBody is a body that is at hand. The zero value is empty.
type StringBody struct{ rest string }

// NewStringBody returns a body of those bytes.
func NewStringBody(s string) *StringBody { return &StringBody{rest: s} }

// Read implements Body.
func (b *StringBody) Read(p []byte) (int, error) {
	if b.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Trailer implements Body: there are none.
func (b *StringBody) Trailer() *Header { return nil }

// Close implements Body.
func (b *StringBody) Close() error { return nil }

// Ready implements Ready: all of it.
func (b *StringBody) Ready() (int, bool) { return len(b.rest), true }
