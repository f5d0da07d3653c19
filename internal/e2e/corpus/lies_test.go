package corpus

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// lie is an answer of an upstream that cannot be trusted.
type lie struct {
	name   string
	raw    string // HTTP/1.1: the bytes
	frames []part // HTTP/2
	then   string // what the upstream does behind it: keep, close, hang (silent), reset; on a stream that does not end it is silent too
	want   told
}

// part is one frame of an answer over HTTP/2.
type part struct {
	fields []string
	data   string
	raw    string // a frame of which only the stream is filled in: type and flags, then the payload
	end    bool
}

// told is what a client may be told.
type told struct {
	status []int  // of a whole answer: 502, 504, or the lie's own where it is none
	body   string // of an answer that is right
	half   bool   // the answer may begin, but then has to end visibly cut
	fields []string
	why    string
}

func gone(status ...int) told {
	if len(status) == 0 {
		status = []int{502}
	}
	return told{status: status}
}

// broken is gone for what is found in the body.
func broken() told { return told{status: []int{502, 504}, half: true} }

// right is an answer that reaches the client, with these fields as in seen.fields.
func right(fields ...string) told { return told{status: []int{200}, body: "LIE", fields: fields} }

func (w told) or(why string, status ...int) told {
	w.status, w.why = append(slices.Clone(w.status), status...), why
	return w
}

// tell answers over HTTP/1.1 and reports whether the connection goes on.
func (l lie) tell(conn net.Conn) bool {
	_, _ = io.WriteString(conn, l.raw)
	switch l.then {
	case "close":
		return false
	case "reset":
		_ = conn.(*net.TCPConn).SetLinger(0)
		return false
	case "hang":
		_, _ = io.Copy(io.Discard, conn)
		return false
	}
	return true
}

// tellFrames answers on a stream.
func (l lie) tellFrames(s *h2Upstream, id uint32) bool {
	for _, f := range l.frames {
		switch {
		case f.raw != "":
			_ = s.framer.WriteRawFrame(http2.FrameType(f.raw[0]), http2.Flags(f.raw[1]), id, []byte(f.raw[2:]))
		case f.fields != nil:
			s.respond(id, f.end, f.fields...)
		default:
			_ = s.framer.WriteData(id, f.end, []byte(f.data))
		}
	}
	return l.then != "close"
}

// lies are the answers. Every body has the word LIE, so that it is known when somebody else gets it.
var lies = sync.OnceValue(makeLies)

func makeLies() []lie {
	const ok = "HTTP/1.1 200 OK\r\n"
	const second = ok + "Content-Length: 6\r\n\r\nSECOND"
	return []lie{
		{name: "a good answer", raw: ok + "Content-Length: 3\r\n\r\nLIE", then: "keep", want: right()},
		{name: "a good chunked answer", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n", then: "keep", want: right()},
		{name: "to the end of the connection", raw: ok + "\r\nLIE", then: "close", want: right()},
		{name: "to the end, and reset", raw: ok + "\r\nLIE", then: "reset", want: broken()},
		{name: "a length and chunked", raw: ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n", then: "keep", want: gone()},
		{name: "two lengths", raw: ok + "Content-Length: 3\r\nContent-Length: 9\r\n\r\nLIELIELIE", then: "keep", want: gone()},
		{name: "the same length twice", raw: ok + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a list of lengths", raw: ok + "Content-Length: 3, 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a signed length", raw: ok + "Content-Length: +3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a negative length", raw: ok + "Content-Length: -1\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a length that is none", raw: ok + "Content-Length: three\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "an empty length", raw: ok + "Content-Length:\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a length over 64 bits", raw: ok + "Content-Length: 18446744073709551619\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "xchunked", raw: ok + "Transfer-Encoding: xchunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n", then: "keep", want: gone()},
		{name: "chunked twice", raw: ok + "Transfer-Encoding: chunked, chunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n", then: "keep", want: gone()},
		{name: "chunked under HTTP/1.0", raw: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n", then: "close", want: gone()},
		{name: "less than the length", raw: ok + "Content-Length: 9\r\n\r\nLIE", then: "close", want: broken()},
		{name: "less than the length, and reset", raw: ok + "Content-Length: 9\r\n\r\nLIE", then: "reset", want: broken()},
		{name: "no end of chunks", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n", then: "close", want: broken()},
		{name: "half a chunk", raw: ok + "Transfer-Encoding: chunked\r\n\r\n9\r\nLIE", then: "close", want: broken()},
		{name: "the last chunk without end", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n", then: "close", want: broken()},
		{name: "a bad size", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\nx\r\n\r\n", then: "keep", want: broken()},
		{name: "a signed size", raw: ok + "Transfer-Encoding: chunked\r\n\r\n+3\r\nLIE\r\n0\r\n\r\n", then: "keep", want: broken()},
		{name: "a bare LF after a size", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\nLIE\r\n0\r\n\r\n", then: "keep", want: broken()},
		{name: "a chunk longer than its size", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIELIE\r\n0\r\n\r\n", then: "keep", want: broken()},
		{name: "a size over 64 bits", raw: ok + "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nLIE\r\n0\r\n\r\n", then: "keep", want: broken()},
		{name: "a trailer with a bare LF", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\nX-A: 1\n\r\n", then: "keep", want: broken()},
		{name: "trailers without end", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 200) + "\r\n", then: "keep", want: broken()},
		{name: "more than the length", raw: ok + "Content-Length: 3\r\n\r\nLIELIELIE", then: "keep", want: right().or("or nothing of it", 502)},
		{name: "two answers", raw: ok + "Content-Length: 3\r\n\r\nLIE" + second, then: "keep", want: right().or("or nothing of it", 502)},
		{name: "two answers, the first chunked", raw: ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nLIE\r\n0\r\n\r\n" + second, then: "keep", want: right().or("or nothing of it", 502)},
		{name: "an answer after 204", raw: "HTTP/1.1 204 No Content\r\n\r\n" + second, then: "keep", want: told{status: []int{204, 502}}},
		{name: "204 with a body", raw: "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nSECOND", then: "keep", want: told{status: []int{204, 502}}},
		{name: "204 that is chunked", raw: "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nSECOND\r\n0\r\n\r\n", then: "keep", want: told{status: []int{204, 502}}},
		{name: "304 with a body", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nSECOND", then: "keep", want: told{status: []int{304, 502}}},
		{name: "101 that nobody asked for", raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + second, then: "keep", want: gone()},
		{name: "100 that nobody asked for", raw: "HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 3\r\n\r\nLIE", then: "keep", want: right()},
		{name: "early hints", raw: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok + "Content-Length: 3\r\n\r\nLIE", then: "keep", want: right()},
		{name: "1xx without end", raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 2000), then: "keep", want: gone()},
		{name: "1xx and nothing more", raw: "HTTP/1.1 103 Early Hints\r\n\r\n", then: "close", want: gone()},
		{name: "1xx with a length", raw: "HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\nSECOND" + ok + "Content-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "status 099", raw: "HTTP/1.1 099 Low\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "status 600", raw: "HTTP/1.1 600 High\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone().or("RFC 9110 section 15: three digits, to be read as 5xx", 600)},
		{name: "status 20", raw: "HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "status 2000", raw: "HTTP/1.1 2000 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "status +20", raw: "HTTP/1.1 +20 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "no status", raw: "HTTP/1.1 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "two spaces", raw: "HTTP/1.1  200 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "HTTP/2.0", raw: "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "HTTP/0.9", raw: "LIE", then: "close", want: gone()},
		{name: "ICY", raw: "ICY 200 OK\r\n\r\nLIE", then: "close", want: gone()},
		{name: "a request", raw: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", then: "keep", want: gone()},
		{name: "TLS", raw: "\x15\x03\x01\x00\x02\x02\x46", then: "close", want: gone()},
		{name: "frames of HTTP/2", raw: "\x00\x00\x00\x04\x00\x00\x00\x00\x00", then: "close", want: gone()},
		{name: "nothing, and the end", raw: "", then: "close", want: gone()},
		{name: "nothing, and reset", raw: "", then: "reset", want: gone()},
		{name: "nothing at all", raw: "", then: "hang", want: gone(504)},
		{name: "half a status line", raw: "HTTP/1.1 20", then: "close", want: gone()},
		{name: "half a head", raw: ok + "X-A: 1\r\n", then: "close", want: gone()},
		{name: "half a head, and silence", raw: ok + "X-A: 1\r\n", then: "hang", want: gone(502, 504)},
		{name: "half a body, and silence", raw: ok + "Content-Length: 9\r\n\r\nLIE", then: "hang", want: broken()},
		{name: "a bare LF after the status line", raw: "HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a bare LF after a field", raw: ok + "X-A: 1\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a bare CR in a field", raw: ok + "X-A: 1\rX-B: 2\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a bare CR in the reason", raw: "HTTP/1.1 200 OK\rX: 1\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "NUL in a field", raw: ok + "X-A: 1\x002\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a folded field", raw: ok + "X-A: 1\r\n 2\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a space before the colon", raw: ok + "Content-Length : 3\r\n\r\nLIE", then: "close", want: gone()},
		{name: "an empty name", raw: ok + ": 1\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a name that is no token", raw: ok + "X(A: 1\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a name of a pseudo-header", raw: ok + ":status: 500\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a head over 64 KiB", raw: ok + "X-A: " + strings.Repeat("a", 100<<10) + "\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a thousand fields", raw: ok + strings.Repeat("X-A: 1\r\n", 1000) + "Content-Length: 3\r\n\r\nLIE", then: "keep", want: gone()},
		{name: "a head without end", raw: ok + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 1000), then: "keep", want: gone()},
		{name: "fields of one connection", raw: ok + "Connection: close, x-hop\r\nX-Hop: LIE\r\nKeep-Alive: timeout=9\r\nProxy-Connection: close\r\nContent-Length: 3\r\n\r\nLIE", then: "close",
			want: right("!x-hop", "!keep-alive", "!proxy-connection")},
		{name: "an upgrade that nobody asked for", raw: ok + "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: right("!upgrade").or("", 502)},
		{name: "postern's own fields", raw: ok + "X-Request-Id: spoofed\r\nX-Postern-Decision: spoofed\r\nContent-Length: 3\r\n\r\nLIE", then: "keep", want: right("!x-postern-decision")},

		{name: "a good answer", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE", end: true}}, want: right()},
		{name: "the right length", frames: []part{{fields: []string{":status", "200", "content-length", "3"}}, {data: "LIE", end: true}}, want: right()},
		{name: "good trailers", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {fields: []string{"x-t", "1"}, end: true}}, want: right()},
		{name: "early hints", frames: []part{{fields: []string{":status", "103", "link", "</a>"}}, {fields: []string{":status", "200"}}, {data: "LIE", end: true}}, want: right()},
		{name: "a length shorter than the body", frames: []part{{fields: []string{":status", "200", "content-length", "3"}}, {data: "LIELIE", end: true}}, want: broken()},
		{name: "a length longer than the body", frames: []part{{fields: []string{":status", "200", "content-length", "9"}}, {data: "LIE", end: true}}, want: broken()},
		{name: "a length and no body", frames: []part{{fields: []string{":status", "200", "content-length", "9"}, end: true}}, want: broken()},
		{name: "two lengths", frames: []part{{fields: []string{":status", "200", "content-length", "3", "content-length", "6"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "the same length twice", frames: []part{{fields: []string{":status", "200", "content-length", "3", "content-length", "3"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a length that is none", frames: []part{{fields: []string{":status", "200", "content-length", "+3"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "transfer-encoding", frames: []part{{fields: []string{":status", "200", "transfer-encoding", "chunked"}}, {data: "3\r\nLIE\r\n0\r\n\r\n", end: true}}, want: gone()},
		{name: "connection", frames: []part{{fields: []string{":status", "200", "connection", "close"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "upgrade", frames: []part{{fields: []string{":status", "200", "upgrade", "h2c"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "line break in a value", frames: []part{{fields: []string{":status", "200", "x-a", "1\r\nSet-Cookie: LIE"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a second answer in a value", frames: []part{{fields: []string{":status", "200", "x-a", "1\r\nContent-Length: 0\r\n\r\n" + second}}, {data: "LIE", end: true}}, want: gone()},
		{name: "LF in a value", frames: []part{{fields: []string{":status", "200", "x-a", "1\n2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "NUL in a value", frames: []part{{fields: []string{":status", "200", "x-a", "1\x00"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "blanks around a value", frames: []part{{fields: []string{":status", "200", "x-a", " 1 "}}, {data: "LIE", end: true}}, want: gone()},
		{name: "line break in a name", frames: []part{{fields: []string{":status", "200", "x-a: 1\r\nx", "2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a colon in a name", frames: []part{{fields: []string{":status", "200", "x:a", "2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a space in a name", frames: []part{{fields: []string{":status", "200", "x a", "2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "an empty name", frames: []part{{fields: []string{":status", "200", "", "2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "upper case", frames: []part{{fields: []string{":status", "200", "X-A", "2"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "no status", frames: []part{{fields: []string{"x-a", "1"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "two statuses", frames: []part{{fields: []string{":status", "200", ":status", "404"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a status behind a field", frames: []part{{fields: []string{"x-a", "1", ":status", "200"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "status 2000", frames: []part{{fields: []string{":status", "2000"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "status +20", frames: []part{{fields: []string{":status", "+20"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "status 200 OK", frames: []part{{fields: []string{":status", "200 OK"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a status with a line break", frames: []part{{fields: []string{":status", "200\r\nX: LIE"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "status 101", frames: []part{{fields: []string{":status", "101"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "status 099", frames: []part{{fields: []string{":status", "099"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "a pseudo-header of requests", frames: []part{{fields: []string{":status", "200", ":path", "/"}}, {data: "LIE", end: true}}, want: gone()},
		{name: "1xx without end", frames: slices.Repeat([]part{{fields: []string{":status", "103"}}}, 2000), want: gone()},
		{name: "1xx that ends the stream", frames: []part{{fields: []string{":status", "103"}, end: true}}, want: gone()},
		{name: "DATA without a head", frames: []part{{data: "LIE", end: true}}, want: gone()},
		{name: "a second head in the middle", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {fields: []string{":status", "200"}}, {data: "SECOND", end: true}}, want: broken()},
		{name: "trailers with a status", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {fields: []string{":status", "200"}, end: true}}, want: broken()},
		{name: "trailers with a line break", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {fields: []string{"x-t", "1\r\n\r\n" + second}, end: true}}, want: broken()},
		{name: "trailers with framing", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {fields: []string{"transfer-encoding", "chunked"}, end: true}}, want: broken()},
		{name: "reset before the head", frames: []part{{raw: "\x03\x00\x00\x00\x00\x02"}}, want: gone(502, 503)},
		{name: "refused", frames: []part{{raw: "\x03\x00\x00\x00\x00\x07"}}, want: gone(502, 503)},
		{name: "reset in the body", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {raw: "\x03\x00\x00\x00\x00\x02"}}, want: broken()},
		{name: "reset without error in the body", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}, {raw: "\x03\x00\x00\x00\x00\x00"}}, want: broken()},
		{name: "the end of the connection in the body", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}}, then: "close", want: broken()},
		{name: "the end of the connection", then: "close", want: gone(502, 503), frames: []part{}},
		{name: "nothing at all", frames: []part{}, want: gone(504)},
		{name: "half a body, and silence", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE"}}, then: "hang", want: broken()},
		{name: "a block that is no HPACK", frames: []part{{raw: "\x01\x05\xff\xff\xff\xff\xff\xff"}}, want: gone()},
		{name: "a promise", frames: []part{{raw: "\x05\x04\x00\x00\x00\x02\x82\x86\x84"}}, want: gone()},
		{name: "a body behind 204", frames: []part{{fields: []string{":status", "204"}}, {data: "SECOND", end: true}}, want: told{status: []int{204, 502}, half: true}},
		{name: "a head over 64 KiB", frames: []part{{fields: []string{":status", "200", "x-a", strings.Repeat("a", 10<<10), "x-b", strings.Repeat("b", 3<<10)}}, {data: "LIE", end: true}}, want: right()},
		{name: "a thousand fields", frames: []part{{fields: append([]string{":status", "200"}, pairs("x-a", "1", 1000)...)}, {data: "LIE", end: true}}, want: gone()},
		{name: "a frame behind the end", frames: []part{{fields: []string{":status", "200"}}, {data: "LIE", end: true}, {data: "SECOND", end: true}}, want: right().or("or nothing of it", 502)},
		{name: "postern's own fields", frames: []part{{fields: []string{":status", "200", "x-request-id", "spoofed", "x-postern-decision", "spoofed"}}, {data: "LIE", end: true}}, want: right("!x-postern-decision")},
	}
}

// lieOf finds a lie by what follows /lie/ in its path.
func lieOf(rest string) (lie, bool) {
	number, lying := strings.CutSuffix(rest, "/lie")
	n, err := strconv.Atoi(number)
	if err != nil || !lying || n >= len(lies()) {
		return lie{}, false
	}
	return lies()[n], true
}

// telling is a lie told to one client.
type telling struct {
	lie
	number int
	from   int
	method string
	h2     bool
	outcome
	then []outcome // what others on the same upstream got behind it
	took time.Duration
}

// A client gets 502 or 504 for what is no answer, sees that half an answer is half, and never gets bytes of another one.
func TestALyingUpstreamIsFoundOut(t *testing.T) {
	w := startWorld(t)
	var tellings []*telling
	for i, l := range lies() {
		for _, h2 := range []bool{false, true} {
			for _, method := range []string{"GET", "HEAD"} {
				if method == "GET" || strings.HasPrefix(l.name, "a good") || strings.HasPrefix(l.name, "two answers") || strings.HasPrefix(l.name, "less than the length") {
					tellings = append(tellings, &telling{lie: l, number: i, from: len(tellings), method: method, h2: h2})
				}
			}
		}
	}
	byLie := map[int][]*telling{}
	for _, told := range tellings {
		byLie[told.number] = append(byLie[told.number], told)
	}
	atOnce(slices.Collect(maps.Keys(byLie)), func(number int) {
		for _, told := range byLie[number] { // one after the other: each lie has a pool of its own, and what it left there is what the next one gets
			told.tell(w)
		}
	})
	for _, told := range tellings {
		client := map[bool]string{false: "h1", true: "h2"}[told.h2]
		upstream := map[bool]string{false: "h1", true: "h2"}[told.frames != nil]
		t.Run(fmt.Sprintf("%s of %s to %s client/%s", told.method, upstream, client, told.name), told.judge)
	}
	t.Logf("%d lies, told %d times", len(lies()), len(tellings))
}

// tell asks for the lie, and three times for an honest answer of the same upstream.
func (l *telling) tell(w *world) {
	listener, target := open+"-h1", fmt.Sprintf("/lie/%d/", l.number)
	if l.frames != nil {
		listener = open + "-h2"
	}
	start := time.Now()
	l.outcome = ask(w.dial(listener, l.from), l.h2, l.method, target+"lie")
	l.took = time.Since(start)
	for range 3 {
		l.then = append(l.then, ask(w.dial(listener, l.from), l.h2, "GET", target+"honest"))
	}
}

// ask sends one request.
func ask(dial dialer, overHTTP2 bool, method, target string) outcome {
	if overHTTP2 {
		return runHTTP2(dial, &testCase{frames: h2(method, target), want: to(method, target)})
	}
	return runHTTP1(dial, &testCase{send: h1(method, target), want: to(method, target)}, false)
}

func (l *telling) judge(t *testing.T) {
	a := &l.first
	cut := l.want.half && a.given
	if l.err != "" && !cut {
		t.Errorf("client: %s", l.err)
	}
	switch body := l.want.body; {
	case l.method == "HEAD" && a.body != "":
		t.Errorf("HEAD was answered with a body: %q", a.body)
	case l.method == "HEAD": // bytes behind the head are the upstream's fault, and poison its connection
	case !a.given && a.reset || a.given && !a.whole:
		if !l.want.half {
			t.Errorf("the answer is cut: %+v", *a)
		}
		if a.body != "" && !strings.HasPrefix("LIELIELIE", a.body) {
			t.Errorf("half an answer has %q", a.body)
		}
	case !slices.Contains(l.want.status, a.code):
		t.Errorf("answered with %d %q, want %v", a.code, abbreviate([]byte(a.body)), l.want.status)
	case a.code == 200 && a.body != body:
		t.Errorf("the body is %q, want %q", a.body, body)
	case a.code >= 500 && a.code < 600 && !strings.Contains(a.body, `"error":"upstream_`):
		t.Errorf("%d without a reason: %q", a.code, a.body)
	case (a.code == 204 || a.code == 304) && a.body != "":
		t.Errorf("%d with the body %q", a.code, a.body)
	}
	if a.code == 200 {
		for _, fault := range unlikeFields(a.fields, l.want.fields) {
			t.Error(fault)
		}
	}
	for _, f := range append(slices.Clone(a.fields), a.trailers...) {
		if strings.Contains(f.name+f.value, "spoofed") || strings.Contains(strings.ToLower(f.name), "set-cookie") || strings.ContainsAny(f.value, "\r\n\x00") || f.value != strings.Trim(f.value, " \t") {
			t.Errorf("field %q: %q", f.name, f.value)
		}
	}
	if len(a.infos) > 100 {
		t.Errorf("%d informational answers", len(a.infos))
	}
	if l.extra != "" {
		t.Errorf("the client got bytes that it did not ask for: %q", abbreviate([]byte(l.extra)))
	}
	if l.took > 10*time.Second {
		t.Errorf("the answer took %v", l.took)
	}
	others := l.then
	if l.after.given || l.after.reset {
		others = append(others, outcome{first: l.after})
	}
	for _, other := range others {
		if id := other.first.value("x-request-id"); other.first.code != 200 || !strings.HasPrefix(other.first.body, id+" GET ") {
			t.Errorf("another request got %d %q (%s)", other.first.code, abbreviate([]byte(other.first.body)), other.err)
		}
	}
	if t.Failed() {
		t.Logf("%s\nthe upstream said %q %s\nthe client got %s", l.want.why, abbreviate([]byte(l.raw)), abbreviate([]byte(shown(l.frames))), abbreviate([]byte(shown(l.outcome))))
	}
}
