package corpus

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// sequence is more than one request in the same bytes.
type sequence struct {
	name string
	send string
	want [][]int // statuses of the answers, in their order; the connection ends behind the last
	tail string  // sent when the first answer has come
	why  string
}

// sequences are requests behind requests. What the proxy makes of the first must not change what the second is.
func sequences() []sequence {
	get, denied := h1("GET", "/ok"), h1("GET", "/admin")
	post := h1("POST", "/ok", "Content-Length: 5") + "hello"
	chunked := h1("POST", "/ok", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"
	bad := h1("GET", "/ok", "X-A : 1")
	last := h1("GET", "/ok", "Connection: close")
	upgrade := h1("GET", "/ws/refuse", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
	const none = 0
	return []sequence{
		{name: "good ones", send: get + post + chunked + get + last, want: [][]int{{200}, {200}, {200}, {200}, {200}}},
		{name: "a denied one between", send: get + denied + last, want: [][]int{{200}, {403}, {200}}},
		{name: "a denied one behind a body", send: post + denied + last, want: [][]int{{200}, {403}, {200}}},
		{name: "a denied one behind chunks", send: chunked + denied + last, want: [][]int{{200}, {403}, {200}}},
		{name: "a malformed one behind a good one", send: get + bad + smuggled, want: [][]int{{200}, {400}}},
		{name: "a malformed one behind chunks", send: chunked + bad + smuggled, want: [][]int{{200}, {400}}},
		{name: "two lengths behind a good one", send: post + h1("POST", "/ok", "Content-Length: 5", "Content-Length: 0") + smuggled, want: [][]int{{200}, {400}}},
		{name: "something behind the last", send: last + smuggled, want: [][]int{{200}}},
		{name: "something behind the last, later", send: last, tail: smuggled, want: [][]int{{200}}},
		{name: "something behind the last of HTTP/1.0", send: message("GET /ok HTTP/1.0", "Host: "+app) + smuggled, want: [][]int{{200}}},
		{name: "something behind a denied one that closes", send: h1("GET", "/admin", "Connection: close") + smuggled, want: [][]int{{403}}},
		{name: "something behind Connection: x, close", send: h1("GET", "/ok", "Connection: x, close") + smuggled, want: [][]int{{200}}},
		{name: "something behind Connection: CLOSE in a second field", send: h1("GET", "/ok", "Connection: keep-alive", "Connection: CLOSE") + smuggled, want: [][]int{{200}}},
		{name: "a body that is a request, and a good one", send: h1("POST", "/ok", "Content-Length: 38") + "GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n" + last, want: [][]int{{200}, {200}}},
		{name: "a body that ends one byte before its request does", send: h1("POST", "/ok", "Content-Length: 37") + "GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n" + smuggled, want: [][]int{{200}, {400}},
			why: "the next message begins with a bare LF"},
		{name: "a denied body that is a request", send: h1("DELETE", "/ok", "Content-Length: 38") + "GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n" + last, want: [][]int{{403}, {200, none}}},
		{name: "a denied chunked body that is a request", send: h1("DELETE", "/ok", "Transfer-Encoding: chunked") + "26\r\nGET /inside HTTP/1.1\r\nHost: inside\r\n\r\n\r\n0\r\n\r\n" + last, want: [][]int{{403}, {200, none}}},
		{name: "a denied request that announces a body, and another instead", send: h1("DELETE", "/ok", "Expect: 100-continue", "Content-Length: 5"), tail: "hello" + last, want: [][]int{{403}, {200, none}},
			why: "RFC 9110 section 10.1.1: the body may come or not, so the connection ends, or the body is read"},
		{name: "an upgrade that is refused, a denied one behind it", send: upgrade + denied + last, want: [][]int{{200, 403, 400}, {403, none}, {200, none}}},
		{name: "an upgrade that is refused, frames behind it", send: upgrade + "\x81\x85\x00\x00\x00\x00hello" + smuggled, want: [][]int{{200, 403, 400}, {400, none}}},
		{name: "h2c that is not taken, its preface behind it", send: h1("GET", "/ok", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, want: [][]int{{200, 400, 403}, {400, 505, none}},
			why: "the preface has its place only at the beginning of a connection"},
		{name: "the preface of HTTP/2 behind a good one", send: get + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, want: [][]int{{200}, {400, 505}}},
		{name: "CONNECT, a request behind it", send: message("CONNECT "+app+":80 HTTP/1.1", "Host: "+app+":80") + smuggled, want: [][]int{{400, 403, 405, 501}}},
		{name: "HEAD and GET", send: h1("HEAD", "/ok") + last, want: [][]int{{200}, {200}}},
		{name: "a hundred of them", send: strings.Repeat(get+denied, 50) + last, want: append(slices.Repeat([][]int{{200}, {403}}, 50), []int{200})},
	}
}

// Pipelined requests are judged one by one, and answered in their order.
func TestWhatStandsBehindARequestIsARequestOfItsOwnOrNothing(t *testing.T) {
	w := startWorld(t)
	type told struct {
		sequence
		kind   string
		number int
		codes  []int
		err    string
	}
	var all []*told
	for _, s := range sequences() {
		for _, kind := range kinds {
			all = append(all, &told{sequence: s, kind: kind.suffix, number: len(all)})
		}
	}
	atOnce(all, func(s *told) {
		conn, err := w.dial(open+s.kind, s.number)(false)
		if err != nil {
			s.err = err.Error()
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		go func() { _, _ = io.WriteString(conn, s.send) }()
		in, out := &input{conn: conn}, outcome{}
		for range len(s.want) + 1 {
			var a answer
			method, _, _ := strings.Cut(s.send, " ")
			if len(s.codes) > 0 {
				method = "GET"
			}
			if in.answer(&out, &a, method); !a.whole {
				break
			}
			s.codes = append(s.codes, a.code)
			if id := a.value("x-request-id"); a.code == 200 && method != "HEAD" && !strings.HasPrefix(a.body, id+" ") {
				s.err = fmt.Sprintf("the answer %s has the body %q", id, a.body)
			}
			if len(s.codes) == 1 && s.tail != "" {
				_, _ = io.WriteString(conn, s.tail)
			}
		}
		if out.err != "" {
			s.err = out.err
		}
	})
	b := w.book()
	for _, s := range all {
		t.Run(s.name+" to"+s.kind, func(t *testing.T) {
			fits := s.err == "" && len(s.codes) <= len(s.want)
			for i, want := range s.want {
				got := 0
				if i < len(s.codes) {
					got = s.codes[i]
				}
				fits = fits && slices.Contains(want, got)
			}
			if !fits {
				t.Errorf("answered with %v %s, want %v. %s", s.codes, s.err, s.want, s.why)
			}
		})
	}
	b.judge(t)
}

// A client of HTTP/1.0 knows the end of an answer without length by the end of the connection: a cut answer must end in a reset.
func TestHalfAnAnswerIsNoWholeOneToAClientOfHTTP10(t *testing.T) {
	w := startWorld(t)
	for i, l := range lies() {
		if !l.want.half || l.then == "hang" || len(l.raw) == 0 && len(l.frames) == 0 {
			continue
		}
		kind := kinds[0].suffix
		if l.frames != nil {
			kind = kinds[1].suffix
		}
		t.Run(l.name+" of"+kind, func(t *testing.T) {
			conn, err := w.dial(open+kind, i)(false)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, message(fmt.Sprintf("GET /lie/%d/lie HTTP/1.0", i), "Host: "+app))
			got, err := io.ReadAll(conn)
			head, body, _ := strings.Cut(string(got), "\r\n\r\n")
			switch {
			case timedOut(err):
				t.Errorf("the answer %q does not end", got)
			case strings.Contains(strings.ToLower(head), "transfer-encoding"):
				t.Errorf("HTTP/1.0 knows no chunks: %q", got)
			case err != nil || !strings.HasPrefix(head, "HTTP/1.1 200"):
			case len(body) < announced(head):
			default:
				t.Errorf("half an answer ends like a whole one: %q", got)
			}
		})
	}
}

// announced is the length that a head announces; 0 for none.
func announced(head string) (n int) {
	_, text, _ := strings.Cut(strings.ToLower(head), "content-length: ")
	_, _ = fmt.Sscanf(text, "%d", &n)
	return n
}
