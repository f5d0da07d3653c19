package http1

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// The engine between a client and a server that are not ours: net/http on both sides, over sockets.

// proxied starts a net/http server with that handler and the engine in front of it.
func proxied(t *testing.T, handler http.HandlerFunc) (client *http.Client, url string, p *proxyTo) {
	t.Helper()
	backend := httptest.NewServer(handler)
	t.Cleanup(backend.Close)
	p = newProxy(t, strings.TrimPrefix(backend.URL, "http://"), ClientOptions{})
	s := startServer(t, ServerOptions{Handler: p})
	transport := &http.Transport{ExpectContinueTimeout: time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}, "http://" + s.address, p
}

// answer is what a client saw.
type answer struct {
	status          int
	header, trailer http.Header
	body            string
	length          int64
	closes, chunked bool
}

func answerOf(resp *http.Response, body string) answer {
	return answer{resp.StatusCode, resp.Header, resp.Trailer, body, resp.ContentLength, resp.Close, len(resp.TransferEncoding) > 0}
}

func do(t *testing.T, client *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answerOf(resp, string(body))
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestForeignPeersExchangeMethodsAndBodies(t *testing.T) {
	client, url, p := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Method+" "+r.URL.RequestURI()+" "+r.Host+" "+r.Header.Get("X-Ask"))
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		default:
			_, _ = w.Write(body)
		}
	})
	host := strings.TrimPrefix(url, "http://")
	for _, row := range []struct {
		method, path, body string
		chunked            bool
		status             int
	}{
		{"GET", "/a?b=c", "", false, 200},
		{"HEAD", "/a", "", false, 200},
		{"POST", "/p", "hello", false, 200},
		{"POST", "/p", "", false, 200},
		{"PUT", "/p", "hello", true, 200},
		{"DELETE", "/p", "", false, 200},
		{"PATCH", "/p", strings.Repeat("x", 100000), true, 200},
		{"POST", "/p", strings.Repeat("y", 100000), false, 200},
		{"GET", "/204", "", false, 204},
		{"GET", "/304", "", false, 304},
		{"OPTIONS", "/o", "", false, 200},
	} {
		var body io.Reader
		if row.body != "" {
			body = strings.NewReader(row.body)
		}
		req := request(t, row.method, url+row.path, body)
		if row.chunked {
			req.ContentLength = -1
			req.Body = io.NopCloser(struct{ io.Reader }{body})
		}
		req.Header.Set("X-Ask", "me")
		got := do(t, client, req)
		if got.status != row.status || got.body != row.body {
			t.Errorf("%s %s: %d with %d bytes", row.method, row.path, got.status, len(got.body))
		}
		if seen := got.header.Get("X-Seen"); seen != row.method+" "+row.path+" "+host+" me" {
			t.Errorf("%s %s: seen as %q", row.method, row.path, seen)
		}
	}
	if p.dials != 1 {
		t.Errorf("%d upstream connections for requests in sequence", p.dials)
	}
}

func TestForeignPeersExchangeTrailers(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "content")
		w.Header().Set("X-Sum", "got "+r.Trailer.Get("X-Count"))
	})
	req := request(t, "POST", url, io.NopCloser(strings.NewReader("body")))
	req.ContentLength = -1
	req.Trailer = http.Header{"X-Count": {"4"}}
	got := do(t, client, req)
	if got.body != "content" || got.trailer.Get("X-Sum") != "got 4" {
		t.Errorf("body %q, trailer %v", got.body, got.trailer)
	}
}

func TestForeignClientWaitsForContinue(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(403)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	for path, status := range map[string]int{"/yes": 200, "/no": 403} {
		continued := false
		trace := &httptrace.ClientTrace{Got100Continue: func() { continued = true }}
		req := request(t, "POST", url+path, strings.NewReader("body")).WithContext(httptrace.WithClientTrace(t.Context(), trace))
		req.Header.Set("Expect", "100-continue")
		got := do(t, client, req)
		if got.status != status || continued != (status == 200) {
			t.Errorf("%s: %d, continued %v", path, got.status, continued)
		}
	}
}

func TestForeignPeersSeeEarlyHints(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "done")
	})
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, h.Get("Link"))
		return nil
	}}
	req := request(t, "GET", url, nil).WithContext(httptrace.WithClientTrace(t.Context(), trace))
	if got := do(t, client, req); got.body != "done" || len(hints) != 1 || hints[0] != "</style.css>" {
		t.Errorf("body %q, hints %q", got.body, hints)
	}
}

func TestStreamingResponseArrivesPieceByPiece(t *testing.T) {
	next := make(chan struct{})
	client, url, _ := proxied(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "piece\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	resp, err := client.Do(request(t, "GET", url, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, len("piece\n"))
	for range 3 {
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			t.Fatal(err)
		}
		next <- struct{}{}
	}
}

func TestFullDuplexBodies(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})
	pr, pw := io.Pipe()
	resp, err := client.Do(request(t, "POST", url, pr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for _, word := range []string{"one", "two"} {
		_, _ = io.WriteString(pw, word)
		buf := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != strings.ToUpper(word) {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestLargeBodiesPassUnchangedBothWays(t *testing.T) {
	content := make([]byte, 8<<20)
	_, _ = rand.Read(content)
	client, url, p := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, content) {
			t.Errorf("upstream got %d bytes, %v", len(body), err)
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "8388608")
		}
		_, _ = w.Write(body)
	})
	for _, path := range []string{"/length", "/chunked"} {
		req := request(t, "POST", url+path, bytes.NewReader(content))
		if path == "/chunked" {
			req.ContentLength = -1
		}
		if got := do(t, client, req); got.body != string(content) {
			t.Errorf("%s: client got %d bytes", path, len(got.body))
		}
	}
	if p.dials != 1 {
		t.Errorf("%d upstream connections", p.dials)
	}
}

func TestUploadThatBreaksOffIsNotAWholeRequest(t *testing.T) {
	broken := make(chan error, 1)
	_, url, _ := proxied(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		broken <- err
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")+"5\r\nhello\r\n")
	_ = conn.Close()
	select {
	case err := <-broken:
		if err == nil {
			t.Error("the upstream took half a request for a whole one")
		}
	case <-time.After(patience):
		t.Fatal("the upstream still waits")
	}
}

func TestUpstreamThatAnswersEarlyIsHeard(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(413)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pr, pw := io.Pipe()
	go func() {
		piece := make([]byte, 1000)
		for {
			if _, err := pw.Write(piece); err != nil {
				return
			}
		}
	}()
	req := request(t, "POST", url, pr).WithContext(ctx)
	resp, err := client.Do(req)
	_ = pr.Close()
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
