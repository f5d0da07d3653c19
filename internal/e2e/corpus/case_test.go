package corpus

import "strings"

// testCase is something that a client sends, and what has to come of it.
type testCase struct {
	class, name string
	on          string // the listener: see listeners in world_test.go
	send        string // over HTTP/1.1: these bytes
	frames      []frame
	want        want
}

func (c *testCase) protocol() string {
	if c.frames != nil {
		return "h2"
	}
	return "h1"
}

// frame is one frame on stream 1, or bytes that are no frame of a request.
type frame struct {
	fields  []string // HEADERS: names and values by turns
	data    string   // DATA, when fields is nil and raw is empty
	end     bool     // END_STREAM
	split   int      // how many CONTINUATION frames the block is cut into
	padding int
	later   bool   // it comes when what was sent before has had time to be forwarded
	raw     string // instead: bytes put on the connection as they are
}

// want says what has to come of a case.
type want struct {
	status []int // of the answer. A refusal over HTTP/2 may be a reset or the end of the connection too.
	closes bool  // over HTTP/1.1 the connection ends with the answer
	seen   *seen // what reaches the upstream, once; nil: nothing may
	maybe  bool  // what may reach the upstream: refused with one of the statuses is right too
	begun  bool  // the beginning of a message may have reached the upstream before it was found bad, never the end of it
	passed bool  // it may be refused after it has reached the upstream, whole
	silent bool  // the connection may end without an answer
	tunnel bool  // a tunnel to an upstream that echoes
	reset  bool  // over HTTP/2, whatever the status: a reset, or the end of the connection, is right
	why    string
}

// seen is a request as an upstream got it.
type seen struct {
	method, host, target string
	fields               []string // "name: value" for every value of that name in order; "!name" for none
	body                 string
	trailers             []string // as fields
}

// bad is a refusal that ends an HTTP/1.1 connection: with 400, unless it says otherwise. Nothing reaches the upstream.
func bad(status ...int) want {
	if len(status) == 0 {
		status = []int{400}
	}
	return want{status: status, closes: true, reset: true}
}

// cut is bad for what is found in a body: the head may have been forwarded by then, the end of the message may not.
func cut(status ...int) want {
	w := bad(status...)
	w.begun, w.silent = true, true
	return w
}

// denied is the answer of policy.
func denied() want { return want{status: []int{403}} }

// refused is an answer after which the connection may go on.
func refused(status ...int) want { return want{status: status} }

// to is what reaches the upstream, once.
func to(method, target string, fields ...string) want {
	return want{status: []int{200}, seen: &seen{method: method, host: app, target: target, fields: fields}}
}

func (w want) with(body string) want {
	s := *w.seen
	s.body = body
	w.seen = &s
	return w
}

func (w want) at(host string) want {
	s := *w.seen
	s.host = host
	w.seen = &s
	return w
}

func (w want) trailing(fields ...string) want {
	s := *w.seen
	s.trailers = fields
	w.seen = &s
	return w
}

// tunnels says that the connection, or the stream, becomes a tunnel to an upstream that sends everything back.
func (w want) tunnels() want {
	w.status, w.tunnel = []int{101, 200}, true
	return w
}

// even says that the request is right and may have reached the upstream before what is wrong was seen, or before the upstream refused it.
func (w want) even() want {
	w.passed, w.begun = true, true
	return w
}

// or says that a refusal with one of the statuses is right too, and why both are.
func (w want) or(why string, status ...int) want {
	w.status, w.maybe, w.reset, w.why = append(w.status, status...), true, true, why
	return w
}

// because gives the reason for a verdict that could have been another.
func (w want) because(why string) want {
	w.why = why
	return w
}

const (
	app      = "app.example.test"
	internal = "internal.example.test" // which policy denies
)

// smuggled is what every bad message over HTTP/1.1 is followed by. The word never reaches an upstream in a head.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: " + app + "\r\nX-Tier: gold\r\nX-Smuggled: smuggled\r\n\r\n"

// h1 is a request of HTTP/1.1 with a Host and the lines given.
func h1(method, target string, lines ...string) string {
	return message(method+" "+target+" HTTP/1.1", append([]string{"Host: " + app}, lines...)...)
}

// message is a head of these lines.
func message(lines0 string, lines ...string) string {
	return strings.Join(append([]string{lines0}, lines...), "\r\n") + "\r\n\r\n"
}

// h2 is a request without body: a block with the pseudo-headers and the fields given, as names and values by turns.
func h2(method, target string, fields ...string) []frame {
	return []frame{{fields: h2head(method, target, fields...), end: true}}
}

func h2head(method, target string, fields ...string) []string {
	return append([]string{":method", method, ":scheme", "http", ":authority", app, ":path", target}, fields...)
}

// block is a request whose block of fields is given whole.
func block(fields ...string) []frame { return []frame{{fields: fields, end: true}} }
