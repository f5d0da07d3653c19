package http1

import (
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// head puts a request together from its lines; every line ends in CR LF, and an empty line follows.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func TestRequestsThatTwoReadersCouldReadInTwoWaysAreRefused(t *testing.T) {
	for concern, rows := range refusedRequests {
		for _, row := range rows {
			t.Run(concern+": "+row.name, func(t *testing.T) {
				var r l7.Request
				_, err := ParseRequestHead([]byte(row.raw), &r, Limits{})
				if err == nil {
					t.Fatalf("accepted as %s %s", r.Method, r.Path)
				}
				if err.Status != row.status {
					t.Errorf("status %d (%v), want %d", err.Status, err, row.status)
				}
			})
		}
	}
}

func TestRequestHeadIsUnderstood(t *testing.T) {
	raw := head("POST http://Example.org:8080/a/b?c=d HTTP/1.1", "Host: example.org:8080", "Content-Type:text/plain  ", "X-A: \t one two ",
		"Transfer-Encoding: Chunked", "Connection: close, X-Hop", "X-Hop: 1", "TE: trailers", "Keep-Alive: 5", "x-a: three", "X-Empty:")
	var r l7.Request
	n, err := ParseRequestHead([]byte(raw+"next"), &r, Limits{})
	if err != nil || n != len(raw) {
		t.Fatalf("n = %d, err = %v, want %d", n, err, len(raw))
	}
	if r.Method != "POST" || r.Scheme != "http" || r.Authority != "example.org:8080" || r.Path != "/a/b" || r.RawQuery != "c=d" {
		t.Errorf("request line: %+v", r)
	}
	if r.ContentLength != -1 || !r.Close || !r.AcceptsTrailers || r.Protocol != l7.HTTP11 {
		t.Errorf("framing: %+v", r)
	}
	var got []string
	for name, value := range r.Header.All() {
		got = append(got, name+"="+value)
	}
	want := "content-type=text/plain|x-a=one two|x-a=three|x-empty="
	if strings.Join(got, "|") != want {
		t.Errorf("fields %q, want %q", strings.Join(got, "|"), want)
	}
}

func TestIncompleteHeadAsksForMore(t *testing.T) {
	raw := head("GET / HTTP/1.1", "Host: a")
	for i := range raw {
		var r l7.Request
		if n, err := ParseRequestHead([]byte(raw[:i]), &r, Limits{}); n != 0 || err != nil {
			t.Fatalf("after %d bytes: n = %d, err = %v", i, n, err)
		}
	}
}

func TestRequestFormsAndVersions(t *testing.T) {
	rows := []struct {
		name, raw string
		check     func(r *l7.Request) bool
	}{
		{"HTTP/1.0 closes", head("GET / HTTP/1.0"), func(r *l7.Request) bool { return r.Close && r.Authority == "" }},
		{"HTTP/1.0 kept alive", head("GET / HTTP/1.0", "Connection: Keep-Alive"), func(r *l7.Request) bool { return !r.Close }},
		{"HTTP/1.0 does not expect", head("POST / HTTP/1.0", "Content-Length: 1", "Expect: 100-continue"), func(r *l7.Request) bool { return !r.ExpectContinue }},
		{"HTTP/1.1 stays", head("GET / HTTP/1.1", "Host: a"), func(r *l7.Request) bool { return !r.Close }},
		{"asterisk", head("OPTIONS * HTTP/1.1", "Host: a"), func(r *l7.Request) bool { return r.Path == "*" }},
		{"absolute asterisk", head("OPTIONS http://a HTTP/1.1", "Host: a"), func(r *l7.Request) bool { return r.Path == "*" }},
		{"absolute without path", head("GET http://a?q HTTP/1.1", "Host: a"), func(r *l7.Request) bool { return r.Path == "/" && r.RawQuery == "q" }},
		{"authority form", head("CONNECT a:443 HTTP/1.1", "Host: a:443"), func(r *l7.Request) bool { return r.Authority == "a:443" && r.Path == "" }},
		{"other method", head("PURGE / HTTP/1.1", "Host: a"), func(r *l7.Request) bool { return r.Method == "PURGE" }},
		{"expectation", head("POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Expect: 100-Continue"), func(r *l7.Request) bool { return r.ExpectContinue }},
		{"expectation without body", head("GET / HTTP/1.1", "Host: a", "Expect: 100-continue"), func(r *l7.Request) bool { return !r.ExpectContinue }},
		{"upgrade", head("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: WebSocket"), func(r *l7.Request) bool { return r.Upgrade == "websocket" }},
		{"upgrade that is not nominated", head("GET / HTTP/1.1", "Host: a", "Upgrade: websocket"), func(r *l7.Request) bool { return r.Upgrade == "" && r.Header.Len() == 0 }},
		{"h2c is not an upgrade", head("GET / HTTP/1.1", "Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
			func(r *l7.Request) bool { return r.Upgrade == "" && r.Header.Len() == 0 }},
		{"list of upgrades", head("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket, h2c"), func(r *l7.Request) bool { return r.Upgrade == "" }},
		{"obs-text in a value", head("GET / HTTP/1.1", "Host: a", "X: \xff"), func(r *l7.Request) bool { v, _ := r.Header.Get("X"); return v == "\xff" }},
		{"length", head("PUT / HTTP/1.1", "Host: a", "Content-Length: 0042"), func(r *l7.Request) bool { return r.ContentLength == 42 && r.Header.Len() == 0 }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var r l7.Request
			if _, err := ParseRequestHead([]byte(row.raw), &r, Limits{}); err != nil {
				t.Fatal(err)
			}
			if !row.check(&r) {
				t.Errorf("understood as %+v", r)
			}
		})
	}
}

func TestRefusalsNameTheirReason(t *testing.T) {
	rows := map[string]observe.Reason{
		head("GET / HTTP/1.1"):                                              observe.BadRequest,
		head("GET / HTTP/3.0", "Host: a"):                                   observe.UnsupportedVersion,
		head("GET / HTTP/1.1", "Host: a", "Transfer-Encoding: br"):          observe.NotImplemented,
		head("GET /"+strings.Repeat("a", 17000)+" HTTP/1.1", "Host: a"):     observe.URITooLong,
		head("GET / HTTP/1.1", "Host: a", "X: "+strings.Repeat("a", 1<<16)): observe.HeadTooLarge,
	}
	for raw, want := range rows {
		var r l7.Request
		_, err := ParseRequestHead([]byte(raw), &r, Limits{})
		if err == nil || err.Reason != want {
			t.Errorf("%.40q: %v, want %s", raw, err, want)
		}
	}
}
