package http2

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

// The engine between a client and a server that are not ours: net/http on both sides, over sockets, without TLS.

func proxied(t testing.TB, handler http.HandlerFunc) (client *http.Client, url string, p *proxyTo) {
	t.Helper()
	backend := httptest.NewUnstartedServer(handler)
	backend.Config.Protocols = unencrypted()
	backend.Start()
	t.Cleanup(backend.Close)
	p = newProxy(t, strings.TrimPrefix(backend.URL, "http://"), ClientOptions{})
	s := startServer(t, ServerOptions{Handler: p})
	transport := &http.Transport{Protocols: unencrypted(), ExpectContinueTimeout: time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patienceOfTests}, "http://" + s.address, p
}

func unencrypted() *http.Protocols {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &protocols
}

// seen is what a client saw.
type seen struct {
	status          int
	header, trailer http.Header
	body            string
	length          int64
}

func do(t testing.TB, client *http.Client, req *http.Request) seen {
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
	return seen{resp.StatusCode, resp.Header, resp.Trailer, string(body), resp.ContentLength}
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
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
		sized              bool
		status             int
	}{
		{"GET", "/a?b=c", "", false, 200},
		{"HEAD", "/a", "", false, 200},
		{"POST", "/p", "hello", true, 200},
		{"POST", "/p", "", false, 200},
		{"PUT", "/p", "hello", false, 200},
		{"DELETE", "/p", "", false, 200},
		{"PATCH", "/p", fill(100000), false, 200},
		{"POST", "/p", fill(3000000), true, 200},
		{"GET", "/204", "", false, 204},
		{"GET", "/304", "", false, 304},
		{"OPTIONS", "/o", "", false, 200},
	} {
		var body io.Reader
		if row.body != "" {
			body = strings.NewReader(row.body)
		}
		req := newRequest(t, row.method, url+row.path, body)
		if !row.sized && body != nil {
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

func TestForeignPeersExchangeTrailersAndEarlyHints(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		w.Header().Del("Link")
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "content")
		w.Header().Set("X-Sum", "got "+r.Trailer.Get("X-Count")+" "+r.Header.Get("Te"))
	})
	hinted := ""
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hinted = header.Get("Link")
		return nil
	}}
	req := newRequest(t, "POST", url, io.NopCloser(strings.NewReader("body"))).WithContext(httptrace.WithClientTrace(t.Context(), trace))
	req.ContentLength = -1
	req.Header.Set("Te", "trailers")
	req.Trailer = http.Header{"X-Count": {"4"}}
	got := do(t, client, req)
	if got.body != "content" || got.trailer.Get("X-Sum") != "got 4 trailers" || hinted != "</style.css>" {
		t.Errorf("body %q, trailer %v, hint %q", got.body, got.trailer, hinted)
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
		req := newRequest(t, "POST", url+path, strings.NewReader("body")).WithContext(httptrace.WithClientTrace(t.Context(), trace))
		req.Header.Set("Expect", "100-continue")
		got := do(t, client, req)
		if got.status != status || continued != (status == 200) {
			t.Errorf("%s: status %d, continued %v, body %q", path, got.status, continued, got.body)
		}
	}
}

func TestForeignPeersStreamBothWaysAtOnce(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
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
	in, out := io.Pipe()
	resp, err := client.Do(newRequest(t, "POST", url, in))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, 100)
	for _, word := range []string{"one", "two", "three"} {
		_, _ = io.WriteString(out, word)
		n, err := io.ReadFull(resp.Body, buf[:len(word)])
		if err != nil || string(buf[:n]) != strings.ToUpper(word) {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestForeignPeersExchangeManyAtOnce(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		_, _ = w.Write(body)
	})
	var running sync.WaitGroup
	for i := range 64 {
		running.Go(func() {
			for j := range 8 {
				body := fill(1 + i*j*97)
				got := do(t, client, newRequest(t, "POST", url+"/x", strings.NewReader(body)))
				if got.status != 200 || got.body != body+body {
					t.Errorf("%d: %d bytes for %d", got.status, len(got.body), len(body))
				}
			}
		})
	}
	running.Wait()
}

func TestForeignClientThatCancelsCancelsUpstream(t *testing.T) {
	ended := make(chan struct{})
	client, url, p := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wait" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := client.Do(newRequest(t, "GET", url+"/wait", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(patienceOfTests):
		t.Fatal("the upstream was not told")
	}
	if got := do(t, client, newRequest(t, "GET", url+"/", nil)); got.status != 200 || p.dials != 1 {
		t.Errorf("status %d, %d connections", got.status, p.dials)
	}
}

func TestForeignUpstreamThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := client.Do(newRequest(t, "GET", url, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q taken for whole", body)
	}
}

func TestForeignUpstreamMayAnswerBeforeItHasRead(t *testing.T) {
	client, url, _ := proxied(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(413) })
	for range 20 {
		req := newRequest(t, "POST", url, io.NopCloser(strings.NewReader(fill(1<<20))))
		req.ContentLength = 1 << 20
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
}
