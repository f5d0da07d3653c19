package http1

import (
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestResponsesAreAsSuspectAsRequests(t *testing.T) {
	const ok = "HTTP/1.1 200 OK"
	rows := []struct{ name, raw string }{
		{"length and transfer coding", head(ok, "Content-Length: 1", "Transfer-Encoding: chunked")},
		{"two lengths", head(ok, "Content-Length: 1", "Content-Length: 1")},
		{"list of lengths", head(ok, "Content-Length: 1,1")},
		{"signed length", head(ok, "Content-Length: +1")},
		{"unknown transfer coding", head(ok, "Transfer-Encoding: gzip")},
		{"transfer coding in HTTP/1.0", head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")},
		{"folded line", head(ok, "X: 1", " 2")},
		{"space before the colon", head(ok, "X : 1")},
		{"LF ends a field", "HTTP/1.1 200 OK\r\nX: 1\n\r\n"},
		{"bare CR", head(ok, "X: a\rb")},
		{"NUL", head(ok, "X: a\x00b")},
		{"empty name", head(ok, ": x")},
		{"control in the phrase", head("HTTP/1.1 200 O\x01K")},
		{"status with two digits", head("HTTP/1.1 20 OK")},
		{"status with four digits", head("HTTP/1.1 2000 OK")},
		{"status zero", head("HTTP/1.1 000 OK")},
		{"signed status", head("HTTP/1.1 +20 OK")},
		{"no status", head("HTTP/1.1")},
		{"other version", head("HTTP/2.0 200 OK")},
		{"no HTTP", head("ICY 200 OK")},
		{"empty line first", "\r\n" + head(ok)},
		{"head too large", head(ok, "X: "+strings.Repeat("a", 64<<10))},
		{"too many fields", head(ok, strings.Repeat("X: 1\r\n", 100)+"X: 1")},
		// RFC 9110, Section 8.6: "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
		// or 204", RFC 9112, Section 6.1: nor Transfer-Encoding.
		{"204 with a length", head("HTTP/1.1 204 No Content", "Content-Length: 1")},
		{"204 with a transfer coding", head("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked")},
		{"103 with a length", head("HTTP/1.1 103 Early Hints", "Content-Length: 5")},
		{"Connection nominates Set-Cookie", head(ok, "Connection: set-cookie")},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var r l7.Response
			_, err := ParseResponseHead([]byte(row.raw), &r, "GET", Limits{})
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Reason != observe.UpstreamProtocol || err.Status != 502 {
				t.Errorf("%v with status %d", err, err.Status)
			}
		})
	}
}

func TestResponseFraming(t *testing.T) {
	rows := []struct {
		name, method, raw string
		kind              bodyKind
		length            int64
		close             bool
	}{
		{"length", "GET", head("HTTP/1.1 200 OK", "Content-Length: 5"), lengthBody, 5, false},
		{"length zero", "GET", head("HTTP/1.1 200 OK", "Content-Length: 0"), lengthBody, 0, false},
		{"chunked", "GET", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), chunkedBody, -1, false},
		{"until the end", "GET", head("HTTP/1.1 200 OK"), closeBody, -1, true},
		{"HEAD with length", "HEAD", head("HTTP/1.1 200 OK", "Content-Length: 5"), noBody, 5, false},
		{"HEAD without", "HEAD", head("HTTP/1.1 200 OK"), noBody, -1, false},
		{"204", "GET", head("HTTP/1.1 204 No Content"), noBody, -1, false},
		{"304 with length", "GET", head("HTTP/1.1 304 Not Modified", "Content-Length: 5"), noBody, 5, false},
		{"closing", "GET", head("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: close"), lengthBody, 5, true},
		{"HTTP/1.0", "GET", head("HTTP/1.0 200 OK", "Content-Length: 5"), lengthBody, 5, true},
		{"HTTP/1.0 kept alive", "GET", head("HTTP/1.0 200 OK", "Content-Length: 5", "Connection: keep-alive"), lengthBody, 5, false},
		{"no phrase", "GET", head("HTTP/1.1 200", "Content-Length: 5"), lengthBody, 5, false},
		{"underscore", "GET", head("HTTP/1.1 200 OK", "Content-Length: 5", "a_b: c"), lengthBody, 5, false},
	}
	limits := Limits{}.withDefaults()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var r l7.Response
			kind, err := parseResponse([]byte(row.raw), &r, row.method, &limits)
			if err != nil {
				t.Fatal(err)
			}
			if kind != row.kind || r.ContentLength != row.length || r.Close != row.close {
				t.Errorf("kind %d, length %d, close %v; want %d, %d, %v", kind, r.ContentLength, r.Close, row.kind, row.length, row.close)
			}
		})
	}
}
