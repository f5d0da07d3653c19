package http1

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// The engine and the reference of reference_test.go must think the same of all bytes: verdict, end, fields and framing.

func FuzzRequestHeadAgainstReference(f *testing.F) {
	for _, rows := range refusedRequests {
		for _, row := range rows {
			f.Add([]byte(row.raw))
		}
	}
	for _, seed := range []string{
		head(getLine, hostLine), head("POST /a?b?c HTTP/1.1", "Host:a:80 ", "Content-Length: 003") + "abc", head("GET HTTP://A?b HTTP/1.0", "Host: a"),
		head("OPTIONS https://a HTTP/1.1", "Host: A"), head("OPTIONS * HTTP/1.1", hostLine), head("CONNECT a:1 HTTP/1.0"), head("GET / HTTP/1.0"),
		head("PUT /a HTTP/1.1", hostLine, "Transfer-Encoding: CHUNKED", "TE: trailers", "Connection: te, x,,Keep-Alive", "X: 1", "x:\t2 3\t", "Y:"),
		head(getLine, hostLine, "Connection: upgrade", "Upgrade: A/b", "Expect: 100-continue"), head("POST / HTTP/1.1", hostLine, "Content-Length: 1", "Expect: 100-Continue"),
		head(getLine, hostLine, "Connection: upgrade, close, HTTP2-Settings", "Upgrade: H2c", "HTTP2-Settings: x", "Proxy-Connection: y", "X: \xff"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(agreeOnRequest)
}

func agreeOnRequest(t *testing.T, raw []byte) {
	want, wantLength, verdict := readRequestHead(string(raw))
	var r l7.Request
	length, err := ParseRequestHead(raw, &r, Limits{})
	checkVerdict(t, raw, verdict, wantLength, length, err)
	if verdict != accepts {
		return
	}
	got := referenceMessage{
		method: r.Method, scheme: r.Scheme, authority: r.Authority, path: r.Path, query: r.RawQuery, minor: minorOf(r.Protocol),
		length: r.ContentLength, kind: want.kind, close: r.Close, expect: r.ExpectContinue, upgrade: r.Upgrade,
	}
	checkMessage(t, raw, want, got, &r.Header)
}

func FuzzResponseHeadAgainstReference(f *testing.F) {
	for _, rows := range refusedResponses {
		for _, row := range rows {
			f.Add([]byte(row.raw), uint8(0))
		}
	}
	for i, seed := range []string{
		head(okLine, "Content-Length: 3") + "abc", head(okLine, "Transfer-Encoding: Chunked", "Trailer: x"), head("HTTP/1.0 404", "Connection: keep-alive"),
		head("HTTP/1.1 204 ", "Content-Length: 0"), head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"),
		head("HTTP/1.1 304 Not Modified", "Content-Length: 5", "Set-Cookie: a", "Set-Cookie: b"), head("HTTP/1.1 999 \xff", "A_B: c"), head(okLine),
		head("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked"), head(okLine, "Host: x", "Expect: y", "TE: z", "Connection: close, a", "A: b"),
	} {
		f.Add([]byte(seed), uint8(i%2))
		f.Add([]byte(seed), uint8((i+1)%2))
	}
	f.Fuzz(agreeOnResponse)
}

func agreeOnResponse(t *testing.T, raw []byte, ofHead uint8) {
	method := [...]string{"GET", "HEAD"}[ofHead%2]
	want, wantLength, verdict := readResponseHead(string(raw), method)
	var r l7.Response
	length, err := ParseResponseHead(raw, &r, method, Limits{})
	checkVerdict(t, raw, verdict, wantLength, length, err)
	if verdict != accepts {
		return
	}
	limits := Limits{}.withDefaults()
	kind, _ := parseResponse(raw[:length], &r, method, &limits)
	got := referenceMessage{
		status: r.Status, phrase: r.Reason, minor: minorOf(r.Protocol), length: r.ContentLength, kind: kind, close: r.Close, upgrade: r.Upgrade,
	}
	checkMessage(t, raw, want, got, &r.Header)
}

func minorOf(p l7.Protocol) string {
	if p == l7.HTTP10 {
		return "0"
	}
	return "1"
}

func checkVerdict(t *testing.T, raw []byte, want referenceVerdict, wantLength, length int, err *l7.Error) {
	t.Helper()
	got := accepts
	switch {
	case err != nil:
		got = refuses
	case length == 0:
		got = wants
	}
	if got != want || got == accepts && length != wantLength {
		t.Fatalf("%q: the engine %s %d bytes, %v; the reference %s %d", raw, got, length, err, want, wantLength)
	}
}

func checkMessage(t *testing.T, raw []byte, want, got referenceMessage, h *l7.Header) {
	t.Helper()
	for name, value := range h.All() {
		got.fields = append(got.fields, referenceField{name, value})
	}
	if !slices.Equal(got.fields, want.fields) {
		t.Fatalf("%q: the engine has fields %q, the reference %q", raw, got.fields, want.fields)
	}
	got.fields, want.fields = nil, nil
	if !sameMessage(got, want) {
		t.Fatalf("%q is understood as %+v, by the reference as %+v", raw, got, want)
	}
}

func sameMessage(a, b referenceMessage) bool {
	return a.method == b.method && a.scheme == b.scheme && a.authority == b.authority && a.path == b.path && a.query == b.query && a.status == b.status &&
		a.phrase == b.phrase && a.minor == b.minor && a.kind == b.kind && a.length == b.length && a.close == b.close && a.expect == b.expect && a.upgrade == b.upgrade
}

func FuzzChunkedAgainstReference(f *testing.F) {
	for _, rows := range [][]chunkedRow{chunkedBodies, malformedChunks} {
		for _, row := range rows {
			f.Add([]byte(row.raw), uint8(0))
			f.Add([]byte(row.raw+"GET"), uint8(1))
		}
	}
	for _, seed := range []string{"5\r\nhel", "5\r\nhello\r", "1;" + strings.Repeat("a", 2000) + "\r\nx\r\n", "ff\r\n", "0\r\nA: b\r\n", "0\r\n\r"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(agreeOnChunks)
}

func agreeOnChunks(t *testing.T, raw []byte, step uint8) {
	want, verdict := readChunkedBody(string(raw))
	content, trailer, rest, err := readChunked(string(raw), int(step))
	got := accepts
	if err != nil {
		got = refuses
		if e, ok := errors.AsType[*l7.Error](err); !ok || e.Reason == observe.IOError {
			got = wants
		}
	}
	// The engine may refuse a line before its end has come.
	if got != verdict && (got != refuses || verdict != wants) {
		t.Fatalf("%q in steps of %d: the engine %s it, %v; the reference %s it", raw, step, got, err, verdict)
	}
	if !strings.HasPrefix(content, want.content) {
		t.Fatalf("%q in steps of %d: the engine reads %q, the reference %q", raw, step, content, want.content)
	}
	if verdict != accepts {
		return
	}
	var fields []referenceField
	for name, value := range trailer.All() {
		fields = append(fields, referenceField{name, value})
	}
	if content != want.content || rest != string(raw[want.length:]) || !slices.Equal(fields, want.trailer) {
		t.Fatalf("%q in steps of %d: the engine reads %q with %q, and leaves %q; the reference %+v", raw, step, content, fields, rest, want)
	}
}

// draw puts messages together from pieces that are each suspect in their own way: mutations of bytes rarely get past the start line.
type draw struct{ random *rand.Rand }

func (d draw) of(pieces ...string) string { return pieces[d.random.IntN(len(pieces))] }

// mostly returns the first piece nine times of ten.
func (d draw) mostly(usual string, others ...string) string {
	if d.random.IntN(10) > 0 {
		return usual
	}
	return d.of(others...)
}

func (d draw) lineEnd() string {
	if d.random.IntN(60) > 0 {
		return "\r\n"
	}
	return d.of("\n", "\r", "\r\r\n", "\r\n ", "\r\n\t", "", "\x00\r\n", "\v\r\n")
}

func (d draw) fields(most int) string {
	var out strings.Builder
	for range d.random.IntN(most + 1) {
		out.WriteString(d.of("Host", "host", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Expect", "X", "x-a", "Trailer",
			"Keep-Alive", "Cookie", "A_B", "X-Forwarded-For", "Proxy-Connection", d.mostly("y", "", "y ", "\xff", "a:b", "(", "\x00", "chun\u212aed")))
		out.WriteString(d.mostly(":", " :", "\t:", "", "::"))
		out.WriteString(d.mostly(" ", "", "\t", "  ", "\v", "\xa0"))
		out.WriteString(d.of("a", "A:80", "5", "05", "1", "chunked", "CHUNKED", "gzip, chunked", "close", "keep-alive", "upgrade", "upgrade, x", "x, x-a", "100-continue",
			"websocket", "h2c", "te", "trailers", d.mostly("b", "", "+5", "5,5", "chunked,", "chun\u212aed", "cookie", "a b", "a\x00", "\xff\xfe", "999999999999999999", "1000000000000000000")))
		out.WriteString(d.mostly("", " ", "\t ", "\v"))
		out.WriteString(d.lineEnd())
	}
	return out.String()
}

func TestEngineAndReferenceAgreeOnSuspectMessages(t *testing.T) {
	d := draw{rand.New(rand.NewPCG(9112, 9110))}
	for range 5000 {
		request := d.mostly(d.of("GET", "POST", "OPTIONS", "CONNECT"), "get", "G(T", "", strings.Repeat("M", 33)) + d.mostly(" ", "", "  ", "\t") +
			d.mostly(d.of("/", "/a?b", "*", "http://a/x", "HTTP://A:80", "https://a?q"), "", "a", "/#", "ftp://a", "http://u@a", "http:///", "/\x00", "/\xff", "//", "/?#") +
			d.mostly(" ", "", "  ", "\t") + d.mostly("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", "HTTP/11", "") + d.lineEnd() +
			d.mostly("Host: a\r\n", "") + d.fields(4) + d.lineEnd() + d.of("", "GET / HTTP/1.1\r\n\r\n", "\n")
		agreeOnRequest(t, []byte(request))
		response := d.mostly("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", "") + d.mostly(" ", "", "  ", "\t") +
			d.mostly(d.of("200", "204", "304", "101", "100", "999"), "20", "2000", "000", "+20", "") + d.of(" OK", " ", "", " \xff", d.mostly(" x", "\tOK", " \x00")) + d.lineEnd() +
			d.fields(4) + d.lineEnd() + d.of("", "x", "\n")
		agreeOnResponse(t, []byte(response), uint8(d.random.IntN(2)))
		var chunked strings.Builder
		for range d.random.IntN(4) {
			chunked.WriteString(d.mostly(d.of("5", "005", "5;a", "5;a=\"b\"", "5;"), "5 ", " 5", "0x5", "+5", "6", "4", "5\t;a", "", "g", "8000000000000005", "100000000000005") +
				d.lineEnd() + "hello" + d.lineEnd())
		}
		chunked.WriteString(d.mostly("0", "00", "0;x", "", "-0") + d.lineEnd() + d.of("", d.fields(2)) + d.lineEnd() + "rest")
		agreeOnChunks(t, []byte(chunked.String()), uint8(d.random.IntN(5)))
	}
}
