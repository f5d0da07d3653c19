package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/proxy/l7"
)

// What is accepted and written anew must mean the same to another reader: net/http.

func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		head("GET / HTTP/1.1", "Host: a"),
		head("POST /a?b HTTP/1.1", "Host: a:80", "Content-Length: 3"),
		head("POST /a HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "TE: trailers", "Connection: te, x", "X: 1"),
		head("GET http://a/b HTTP/1.0", "Host: a", "Connection: keep-alive"),
		head("OPTIONS * HTTP/1.1", "Host: [::1]"),
		head("CONNECT a:1 HTTP/1.1", "Host: a:1"),
		head("GET / HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket", "Expect: 100-continue"),
		"GET / HTTP/1.1\nHost: a\n\n",
		head("GET / HTTP/1.1", "Host: a", " folded"),
		head("POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		given := bytes.Clone(raw)
		var r l7.Request
		n, err := ParseRequestHead(raw, &r, Limits{})
		if !bytes.Equal(raw, given) {
			t.Fatal("the parser changed its input")
		}
		if err != nil {
			if err.Status < 400 || err.Status > 599 || err.Reason == "" {
				t.Fatalf("refused with %+v", err)
			}
			return
		}
		if n == 0 || r.Method == "CONNECT" || checkForwardable(&r) != nil {
			return
		}
		if !bytes.HasSuffix(raw[:n], []byte("\r\n\r\n")) {
			t.Fatalf("%d bytes do not end a head", n)
		}
		compareRequest(t, &r)
	})
}

// FuzzRequestParts puts heads together from parts, so that mutations get past the start line.
func FuzzRequestParts(f *testing.F) {
	f.Add("GET", "/a?b", "Connection", "close, x", "X", "1", "Content-Length", "5")
	f.Add("POST", "http://a/", "Transfer-Encoding", "chunked", "TE", "trailers", "Trailer", "x")
	f.Add("GET", "/", "Upgrade", "websocket", "Connection", "upgrade", "Expect", "100-continue")
	f.Add("PUT", "/%2e", "Content-Length", "5", "Content-Length", "5", "x_y", "\t z \t")
	f.Fuzz(func(t *testing.T, method, target, name1, value1, name2, value2, name3, value3 string) {
		raw := method + " " + target + " HTTP/1.1\r\nHost: a\r\n" + name1 + ": " + value1 + "\r\n" + name2 + ":" + value2 + "\r\n" + name3 + ":" + value3 + "\r\n\r\n"
		var r l7.Request
		n, err := ParseRequestHead([]byte(raw), &r, Limits{})
		if err != nil || n == 0 || r.Method == "CONNECT" || checkForwardable(&r) != nil {
			return
		}
		compareRequest(t, &r)
	})
}

func compareRequest(t *testing.T, r *l7.Request) {
	if r.ContentLength != 0 {
		r.Body = l7.NewStringBody("") // only the head is looked at
	}
	out := appendRequestHead(nil, r)
	seen, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
	if err != nil {
		if isOfURL(err) {
			return // percent-encodings and the like are for package canonical
		}
		t.Fatalf("net/http refuses %q: %v", out, err)
	}
	target := r.Path
	if r.RawQuery != "" {
		target += "?" + r.RawQuery
	}
	if seen.Method != r.Method || seen.RequestURI != target || seen.Host != r.Authority {
		t.Fatalf("%q is read as %s %s %s", out, seen.Method, seen.RequestURI, seen.Host)
	}
	if seen.ContentLength != r.ContentLength || (r.ContentLength < 0) != (len(seen.TransferEncoding) == 1) {
		t.Fatalf("%q has length %d, want %d", out, seen.ContentLength, r.ContentLength)
	}
	for name, value := range r.Header.All() {
		if got := seen.Header.Values(name); name != "trailer" && !containsTrimmed(got, value) {
			t.Fatalf("%q: field %q is read as %q, want %q", out, name, got, value)
		}
	}
}

func isOfURL(err error) bool {
	text := err.Error()
	return strings.Contains(text, "parse ") || strings.Contains(text, "bad trailer key") || strings.Contains(text, "invalid Trailer")
}

func containsTrimmed(values []string, want string) bool {
	for _, value := range values {
		if strings.Trim(value, " \t") == want {
			return true
		}
	}
	return false
}

func FuzzResponseHead(f *testing.F) {
	for _, seed := range []string{
		head("HTTP/1.1 200 OK", "Content-Length: 3"),
		head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: x"),
		head("HTTP/1.0 404 Not Found", "Connection: keep-alive"),
		head("HTTP/1.1 204"),
		head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: websocket"),
		head("HTTP/1.1 304 Not Modified", "Content-Length: 5", "Set-Cookie: a", "Set-Cookie: b"),
		"HTTP/1.1 200 OK\n\n",
	} {
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, ofHead bool) {
		method := "GET"
		if ofHead {
			method = "HEAD"
		}
		var r l7.Response
		n, err := ParseResponseHead(raw, &r, method, Limits{})
		if err != nil || n == 0 {
			return
		}
		out := appendResponseHead(nil, &r, func(out []byte) []byte {
			switch {
			case !l7.HasBody(method, r.Status):
				return out
			case r.ContentLength >= 0:
				return appendLength(out, r.ContentLength)
			default:
				return append(out, "transfer-encoding: chunked\r\n"...)
			}
		})
		seen, readErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), &http.Request{Method: method})
		if readErr != nil {
			if isOfURL(readErr) {
				return
			}
			t.Fatalf("net/http refuses %q: %v", out, readErr)
		}
		if seen.StatusCode != r.Status {
			t.Fatalf("%q is read with status %d", out, seen.StatusCode)
		}
		if l7.HasBody(method, r.Status) && seen.ContentLength != r.ContentLength {
			t.Fatalf("%q is read with length %d, want %d", out, seen.ContentLength, r.ContentLength)
		}
		_ = seen.Body.Close()
	})
}

func FuzzChunkedBody(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\nGET", "a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
		"5\nhello\n0\n\n", "ffffffffffffffff\r\n", "5\r\nhello0\r\n\r\n", "0\r\nContent-Length: 1\r\n\r\n", "05 \r\nhello\r\n",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, raw []byte, step uint8) {
		content, _, rest, err := readChunked(string(raw), int(step))
		whole, _, wholeRest, wholeErr := readChunked(string(raw), 0)
		if content != whole || (err == nil) != (wholeErr == nil) || err == nil && rest != wholeRest {
			t.Fatalf("read in steps of %d: %q, %v; at once: %q, %v", step, content, err, whole, wholeErr)
		}
		if err != nil {
			if _, ok := errors.AsType[*l7.Error](err); !ok {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		// The same content and the same end for another reader.
		message := head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + string(raw)
		buffered := bufio.NewReader(strings.NewReader(message))
		req, readErr := http.ReadRequest(buffered)
		if readErr != nil {
			t.Fatal(readErr)
		}
		other, readErr := io.ReadAll(req.Body)
		if readErr != nil && strings.Contains(readErr.Error(), "suspiciously long trailer") {
			return // net/http takes trailers only as far as its buffer of 4 KiB reaches
		}
		if readErr != nil {
			t.Fatalf("net/http refuses %q: %v", raw, readErr)
		}
		otherRest, _ := io.ReadAll(buffered)
		if string(other) != content || string(otherRest) != rest {
			t.Fatalf("%q is read as %q with rest %q; net/http: %q, %q", raw, content, rest, other, otherRest)
		}
	})
}
