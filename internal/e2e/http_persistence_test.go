package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestPipelinedRequestsAreAnsweredInTheirOrder(t *testing.T) {
	app := startRecorder(t, nil)
	_, port, _ := guardedGateway(t, app)
	conn := dialRaw(t, port)
	var all strings.Builder
	for i := range 20 {
		switch i % 4 {
		case 1:
			_, _ = fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\n\r\nabc", i)
		case 2:
			_, _ = fmt.Fprintf(&all, "GET /admin/%d HTTP/1.1\r\nHost: app\r\n\r\n", i)
		case 3:
			_, _ = fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", i)
		default:
			_, _ = fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: app\r\n\r\n", i)
		}
	}
	conn.send(t, all.String())
	for i := range 20 {
		resp, body := conn.answer(t, http.MethodGet)
		if i%4 == 2 {
			if resp.StatusCode != http.StatusForbidden {
				t.Fatalf("request %d: %s %q", i, resp.Status, body)
			}
			continue
		}
		if resp.StatusCode != http.StatusOK || body != fmt.Sprintf("/%d", i) {
			t.Fatalf("request %d: %s %q", i, resp.Status, body)
		}
	}
	_, requests := app.taken()
	for _, r := range requests {
		if strings.HasPrefix(r.target, "/admin") {
			t.Errorf("a denied one reached the app: %+v", r)
		}
	}
}

func TestAChunkedRequestWithTrailersArrives(t *testing.T) {
	app := startRecorder(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "42")
	})
	_, port, _ := guardedGateway(t, app)
	conn := dialRaw(t, port)
	conn.send(t, "POST /t HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"5;ext=\"1\"\r\nhello\r\n6\r\n world\r\n0\r\nX-Check: sum\r\n\r\n")
	resp, err := http.ReadResponse(conn.in, &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "hello world" {
		t.Errorf("%s %q %v", resp.Status, body, err)
	}
	if resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailers of the answer: %v", resp.Trailer)
	}
	text, requests := app.taken()
	if len(requests) != 1 || requests[0].body != "hello world" || requests[0].trailer.Get("X-Check") != "sum" {
		t.Errorf("the app got %+v", requests)
	}
	if strings.Contains(text, "ext=") {
		t.Errorf("a chunk extension was forwarded: %q", text)
	}
	conn.send(t, "GET /next HTTP/1.1\r\nHost: app\r\n\r\n")
	if resp, _ := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK {
		t.Errorf("the next request: %s", resp.Status)
	}
}

func TestExpect100Continue(t *testing.T) {
	app := startRecorder(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	_, port, _ := guardedGateway(t, app)
	conn := dialRaw(t, port)
	for range 2 { // the connection is kept
		conn.send(t, "POST /e HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		if line, err := conn.in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
			t.Fatalf("instead of 100 came %q, %v", line, err)
		}
		for line := "x"; line != "\r\n"; {
			var err error
			if line, err = conn.in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		conn.send(t, "hello")
		if resp, body := conn.answer(t, http.MethodPost); resp.StatusCode != http.StatusOK || body != "hello" {
			t.Fatalf("%s %q", resp.Status, body)
		}
	}
	app.taken()
	// A refusal comes instead of 100.
	conn.send(t, "POST /admin HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if resp, _ := conn.answer(t, http.MethodPost); resp.StatusCode != http.StatusForbidden {
		t.Errorf("denied with %s", resp.Status)
	}
	if text, _ := app.taken(); text != "" {
		t.Errorf("the app was sent %q", text)
	}
	// An expectation that nobody knows is refused, or passed on and answered; it is never left waiting.
	other := dialRaw(t, port)
	other.send(t, "GET /u HTTP/1.1\r\nHost: app\r\nExpect: tea\r\n\r\n")
	if resp, _ := other.answer(t, http.MethodGet); resp.StatusCode != http.StatusExpectationFailed && resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusOK {
		t.Errorf("unknown expectation: %s", resp.Status)
	}
}

func TestAnswersWithoutBodyKeepTheConnection(t *testing.T) {
	app := startRecorder(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("Content-Length", "1234")
			w.Header().Set("ETag", `"v"`)
			w.WriteHeader(http.StatusNotModified)
		case "/head":
			w.Header().Set("Content-Length", "1234")
		default:
			_, _ = io.WriteString(w, r.URL.Path)
		}
	})
	_, port, _ := guardedGateway(t, app)
	conn := dialRaw(t, port)
	for range 2 {
		for _, step := range []struct {
			method, target string
			status         int
			length         string
		}{
			{"HEAD", "/head", 200, "1234"}, {"GET", "/204", 204, ""}, {"GET", "/304", 304, ""}, {"HEAD", "/304", 304, ""},
			{"HEAD", "/204", 204, ""}, {"HEAD", "/admin", 403, ""}, {"GET", "/full", 200, "5"},
		} {
			conn.send(t, step.method+" "+step.target+" HTTP/1.1\r\nHost: app\r\n\r\n")
			resp, body := conn.answer(t, step.method)
			if resp.StatusCode != step.status || resp.Close || step.target == "/full" && body != "/full" || step.target != "/full" && body != "" {
				t.Fatalf("%s %s: %s %q close=%v", step.method, step.target, resp.Status, body, resp.Close)
			}
			if step.length != "" && resp.Header.Get("Content-Length") != step.length {
				t.Errorf("%s %s: Content-Length %q", step.method, step.target, resp.Header.Get("Content-Length"))
			}
			if step.status == 204 && (resp.Header.Get("Content-Length") != "" || len(resp.TransferEncoding) > 0) {
				t.Errorf("204 with framing: %v %v", resp.Header, resp.TransferEncoding)
			}
			if conn.in.Buffered() > 0 {
				rest, _ := conn.in.Peek(conn.in.Buffered())
				t.Fatalf("%s %s: after the answer came %q", step.method, step.target, rest)
			}
		}
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	if app.conns != 1 {
		t.Errorf("the app was dialled %d times for requests one after another, want 1", app.conns)
	}
}

// What a backend says without being asked belongs to no request: the connection is not used again.
func TestUnsolicitedBytesOfTheBackendAreNobodysAnswer(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for name, test := range map[string]struct{ together, after string }{
		"with the answer": {together: poison},
		"after it":        {after: poison},
		"a single byte":   {after: "\r"},
		"a second 304":    {together: "HTTP/1.1 304 Not Modified\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			more, said := make(chan struct{}), make(chan struct{})
			conns := make(chan int, 16) // on which connection each request arrived
			go func() {
				for n := 1; ; n++ {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer func() { _ = conn.Close() }()
						in := bufio.NewReader(conn)
						for {
							req, err := http.ReadRequest(in)
							if err != nil {
								return
							}
							conns <- n
							answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.RequestURI), req.RequestURI)
							if n > 1 {
								_, _ = io.WriteString(conn, answer)
								continue
							}
							_, _ = io.WriteString(conn, answer+test.together)
							<-more
							_, _ = io.WriteString(conn, test.after)
							close(said)
						}
					}()
				}
			}()
			_, port, _ := guardedGateway(t, &recorder{addr: l.Addr().String()})
			client := dialRaw(t, port)
			client.send(t, "GET /first HTTP/1.1\r\nHost: app\r\n\r\n")
			if resp, body := client.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != "/first" {
				t.Fatalf("first: %s %q", resp.Status, body)
			}
			close(more)
			<-said // written to a socket on loopback: the proxy has it
			for i := range 3 {
				client.send(t, fmt.Sprintf("GET /next%d HTTP/1.1\r\nHost: app\r\n\r\n", i))
				if resp, body := client.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != fmt.Sprintf("/next%d", i) {
					t.Fatalf("request %d: %s %q", i, resp.Status, body)
				}
			}
			if first, second := <-conns, <-conns; first != 1 || second == 1 {
				t.Errorf("requests arrived on connections %d and %d, want the second on a fresh one", first, second)
			}
		})
	}
}
