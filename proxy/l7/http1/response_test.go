package http1

import (
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestResponsesAreAsSuspectAsRequests(t *testing.T) {
	for concern, rows := range refusedResponses {
		for _, row := range rows {
			t.Run(concern+": "+row.name, func(t *testing.T) {
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
		{"HEAD with chunks", "HEAD", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), noBody, -1, false},
		{"304 with chunks", "GET", head("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked"), noBody, -1, false},
		{"304 without length", "GET", head("HTTP/1.1 304 Not Modified"), noBody, -1, false},
		{"204 with length zero", "GET", head("HTTP/1.1 204 No Content", "Content-Length: 0"), noBody, 0, false},
		{"205 has a body like others", "GET", head("HTTP/1.1 205 Reset Content", "Content-Length: 5"), lengthBody, 5, false},
		{"HTTP/1.0 kept alive without length", "GET", head("HTTP/1.0 200 OK", "Connection: keep-alive"), closeBody, -1, true},
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
