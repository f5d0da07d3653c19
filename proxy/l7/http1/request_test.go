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
	const first, host = "GET / HTTP/1.1", "Host: a"
	rows := []struct {
		name, raw string
		status    int
	}{
		// RFC 9112, Section 6.1: "A server MAY reject a request that contains both Content-Length and Transfer-Encoding".
		{"length and transfer coding", head("POST / HTTP/1.1", host, "Content-Length: 4", "Transfer-Encoding: chunked"), 400},
		{"transfer coding and length", head("POST / HTTP/1.1", host, "Transfer-Encoding: chunked", "Content-Length: 0"), 400},
		{"two lengths that differ", head(first, host, "Content-Length: 1", "Content-Length: 2"), 400},
		{"two lengths that agree", head(first, host, "Content-Length: 1", "Content-Length: 1"), 400},
		{"list of lengths", head(first, host, "Content-Length: 1, 1"), 400},
		{"signed length", head(first, host, "Content-Length: +1"), 400},
		{"negative length", head(first, host, "Content-Length: -1"), 400},
		{"hexadecimal length", head(first, host, "Content-Length: 0x1"), 400},
		{"empty length", head(first, host, "Content-Length:"), 400},
		{"length with a space inside", head(first, host, "Content-Length: 1 0"), 400},
		{"length that overflows", head(first, host, "Content-Length: 18446744073709551617"), 400},
		{"unknown transfer coding", head(first, host, "Transfer-Encoding: gzip"), 501},
		{"identity transfer coding", head(first, host, "Transfer-Encoding: identity"), 501},
		{"unknown transfer codings before chunked", head(first, host, "Transfer-Encoding: gzip, br ,\tChunked"), 501},
		{"a list without chunked at its end", head(first, host, "Transfer-Encoding: gzip, br"), 400},
		{"a list with an empty element", head(first, host, "Transfer-Encoding: gzip,, chunked"), 400},
		{"a list with nearly chunked", head(first, host, "Transfer-Encoding: xchunked, chunked"), 400},
		{"a coding with a parameter", head(first, host, "Transfer-Encoding: gzip;q=1, chunked"), 400},
		{"chunked not last", head(first, host, "Transfer-Encoding: chunked, gzip"), 400},
		{"chunked twice", head(first, host, "Transfer-Encoding: chunked, chunked"), 400},
		{"chunked on two lines", head(first, host, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400},
		{"chunked with a parameter", head(first, host, "Transfer-Encoding: chunked;q=1"), 400},
		{"chunked with a vertical tab", head(first, host, "Transfer-Encoding: \vchunked"), 400},
		{"nearly chunked", head(first, host, "Transfer-Encoding: xchunked"), 400},
		{"empty transfer coding", head(first, host, "Transfer-Encoding:"), 400},
		{"quoted chunked", head(first, host, `Transfer-Encoding: "chunked"`), 400},
		{"chunked on HTTP/1.0", head("POST / HTTP/1.0", host, "Transfer-Encoding: chunked"), 400},
		// RFC 9112, Section 5.1: "No whitespace is allowed between the field name and colon ... MUST reject".
		{"space before the colon", head(first, host, "Content-Length : 1"), 400},
		{"tab before the colon", head(first, host, "X\t: 1"), 400},
		{"folded line", head(first, host, "X: 1", " Content-Length: 5"), 400},
		{"line folded with a tab", head(first, host, "X: 1", "\tmore"), 400},
		{"space before the first field", head(first, " "+host), 400},
		{"empty name", head(first, host, ": x"), 400},
		{"no colon", head(first, host, "nonsense"), 400},
		{"name with a control", head(first, host, "X\x00Y: 1"), 400},
		{"name above ASCII", head(first, host, "X\xff: 1"), 400},
		{"name with parentheses", head(first, host, "X(Y): 1"), 400},
		{"underscore in a name", head(first, host, "X_Forwarded_For: 1"), 400},
		{"bare CR in a value", head(first, host, "X: a\rb"), 400},
		{"CR before CR LF", head(first, host, "X: a\r"), 400},
		{"NUL in a value", head(first, host, "X: a\x00b"), 400},
		{"escape in a value", head(first, host, "X: a\x1bb"), 400},
		{"delete in a value", head(first, host, "X: a\x7fb"), 400},
		{"LF ends the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
		{"LF ends a field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400},
		{"LF ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"LF only, no end in sight", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		// RFC 9112, Section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
		// lacks a Host header field and to any request message that contains more than one".
		{"no Host", head(first, "X: 1"), 400},
		{"two Hosts", head(first, host, host), 400},
		{"two Hosts in one", head(first, "Host: a,b"), 400},
		{"empty Host", head(first, "Host:"), 400},
		{"Host with user information", head(first, "Host: x@a"), 400},
		{"Host with a path", head(first, "Host: a/b"), 400},
		{"Host with a space", head(first, "Host: a b"), 400},
		{"Host against absolute form", head("GET http://b/ HTTP/1.1", host), 400},
		{"port against absolute form", head("GET http://a:81/ HTTP/1.1", host), 400},
		{"absolute form with user information", head("GET http://x@a/ HTTP/1.1", "Host: x@a"), 400},
		{"absolute form without host", head("GET http:///x HTTP/1.1", host), 400},
		{"absolute form of another scheme", head("GET ftp://a/ HTTP/1.1", host), 400},
		{"target without slash", head("GET a/b HTTP/1.1", host), 400},
		{"asterisk of GET", head("GET * HTTP/1.1", host), 400},
		{"asterisk and more", head("OPTIONS *x HTTP/1.1", host), 400},
		{"fragment", head("GET /a#b HTTP/1.1", host), 400},
		{"tab in target", head("GET /a\tb HTTP/1.1", host), 400},
		{"space in target", head("GET /a b HTTP/1.1", host), 400},
		{"NUL in target", head("GET /a\x00b HTTP/1.1", host), 400},
		{"byte above ASCII in target", head("GET /\xc3\xa9 HTTP/1.1", host), 400},
		{"two spaces", head("GET  / HTTP/1.1", host), 400},
		{"two spaces before the version", head("GET /  HTTP/1.1", host), 400},
		{"tab for a space", head("GET\t/ HTTP/1.1", host), 400},
		{"space first", head(" GET / HTTP/1.1", host), 400},
		{"space last", head("GET / HTTP/1.1 ", host), 400},
		{"no version", head("GET /", host), 400},
		{"no target", head("GET HTTP/1.1", host), 400},
		{"method that is no token", head("G{T / HTTP/1.1", host), 400},
		{"method too long", head(strings.Repeat("G", 33)+" / HTTP/1.1", host), 400},
		{"version in lower case", head("GET / http/1.1", host), 400},
		{"version with two digits", head("GET / HTTP/1.10", host), 400},
		{"HTTP/2.0", head("GET / HTTP/2.0", host), 505},
		{"HTTP/1.2", head("GET / HTTP/1.2", host), 505},
		{"HTTP/0.9", head("GET / HTTP/0.9", host), 505},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"target too long", head("GET /"+strings.Repeat("a", 16<<10)+" HTTP/1.1", host), 414},
		{"target too long and no end in sight", "GET /" + strings.Repeat("a", 17<<10), 414},
		{"head too large", head(first, host, "X: "+strings.Repeat("a", 64<<10)), 431},
		{"head too large and no end in sight", "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10), 431},
		{"too many fields", head(first, host, strings.Repeat("X: 1\r\n", 99)+"X: 1"), 431},
		{"unknown expectation", head("POST / HTTP/1.1", host, "Content-Length: 1", "Expect: 200-ok"), 417},
		{"two expectations", head("POST / HTTP/1.1", host, "Expect: 100-continue", "Expect: 100-continue"), 417},
		{"Connection nominates Host", head(first, host, "Connection: close, Host"), 400},
		{"Connection nominates the length", head(first, host, "Content-Length: 1", "Connection: Content-Length"), 400},
		{"Connection nominates an identity", head(first, host, "Connection: x-forwarded-client-cert"), 400},
		{"Connection nominates an identity with underscores", head(first, host, "Connection: X_Forwarded_For"), 400},
		{"Connection nominates Authorization", head(first, host, "Connection: Authorization"), 400},
		{"Connection is no list of tokens", head(first, host, "Connection: a b"), 400},
		{"Connection nominates without end", head(first, host, "Connection: "+strings.Repeat("a,", 17)), 400},
		{"upgrade with a body", head(first, host, "Connection: upgrade", "Upgrade: websocket", "Content-Length: 1"), 400},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
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
