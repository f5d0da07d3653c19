package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// What the tables of refused heads mean on a connection: nothing that follows one is taken for a message.

func TestNothingBehindARefusedRequestIsTakenForAnother(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for concern, rows := range refusedRequests {
		for _, row := range rows {
			t.Run(concern+": "+row.name, func(t *testing.T) {
				handled := 0
				server := NewServer(ServerOptions{Handler: l7.HandlerFunc(func(context.Context, l7.Exchange) { handled++ })})
				local, remote := net.Pipe()
				ended := make(chan observe.Reason, 1)
				go func() { ended <- server.NewConn(pipeStream{remote}).Serve(t.Context()) }()
				go func() { _, _ = io.WriteString(local, row.raw+"0\r\n\r\n"+smuggled+smuggled) }()
				_ = local.SetDeadline(time.Now().Add(patience))
				answer, _ := io.ReadAll(local)
				if !strings.HasPrefix(string(answer), fmt.Sprintf("HTTP/1.1 %d ", row.status)) || strings.Count(string(answer), "HTTP/1.1") != 1 ||
					!strings.Contains(string(answer), "\r\nconnection: close\r\n") {
					t.Errorf("answered with %q", answer)
				}
				if reason := <-ended; handled > 0 || reason == "" {
					t.Errorf("handled %d, ended for %q", handled, reason)
				}
			})
		}
	}
}

func TestRefusedResponseSpendsItsConnection(t *testing.T) {
	for concern, rows := range refusedResponses {
		for _, row := range rows {
			t.Run(concern+": "+row.name, func(t *testing.T) {
				local, remote := net.Pipe()
				defer func() { _ = local.Close() }()
				var running sync.WaitGroup
				defer running.Wait()
				defer func() { _ = remote.Close() }()
				running.Go(func() {
					_, _ = http.ReadRequest(bufio.NewReader(remote))
					_, _ = io.WriteString(remote, row.raw+head(okLine, "Content-Length: 0"))
				})
				c := NewClient(ClientOptions{}).NewConn(pipeStream{local})
				resp, err := c.RoundTrip(t.Context(), get("/"), nil)
				if e, ok := errors.AsType[*l7.Error](err); !ok || e.Reason != observe.UpstreamProtocol || !e.Sent || !e.Responded {
					t.Errorf("%+v, %v", resp, err)
				}
				if c.Reusable() {
					t.Error("reusable")
				}
			})
		}
	}
}

func TestRequestBodyThatIsNotAsLongAsItSays(t *testing.T) {
	rows := []struct {
		name, raw string
		answers   []int // those that the client gets before the connection ends
	}{
		{"shorter", head("POST / HTTP/1.1", hostLine, "Content-Length: 10") + "hello", []int{500}},
		{"shorter in a chunk", head("POST / HTTP/1.1", hostLine, "Transfer-Encoding: chunked") + "a\r\nhello", []int{500}},
		{"without its last chunk", head("POST / HTTP/1.1", hostLine, "Transfer-Encoding: chunked") + "5\r\nhello\r\n", []int{500}},
		{"longer", head("POST / HTTP/1.1", hostLine, "Content-Length: 2") + "hello\r\n\r\n", []int{200, 400}},
		{"longer by an empty line", head("POST / HTTP/1.1", hostLine, "Content-Length: 5") + "hello\r\n" + head(getLine, hostLine), []int{200, 400}},
		{"longer after its last chunk", head("POST / HTTP/1.1", hostLine, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n\r\n", []int{200, 400}},
		{"none, and something comes", head("GET / HTTP/1.1", hostLine) + "hello\r\n\r\n", []int{200, 400}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Timeouts: Timeouts{Linger: 10 * time.Millisecond}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				if body := ex.Request().Body; body != nil {
					if _, err := io.ReadAll(body); err != nil {
						_ = ex.WriteResponse(stringResponse(500, ""))
						return
					}
				}
				_ = ex.WriteResponse(stringResponse(200, ""))
			})})
			c := s.dial()
			c.send(row.raw)
			_ = c.conn.CloseWrite()
			for _, status := range row.answers {
				c.want("GET", status, "")
			}
			c.wantEnd()
		})
	}
}

// A handler that does not look at the body lets the client wait; it does not make the engine collect.
func TestBodyThatIsNotReadIsNotBuffered(t *testing.T) {
	release := make(chan struct{})
	server := NewServer(ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		<-release
		_ = ex.WriteResponse(stringResponse(200, ""))
	})})
	local, remote := net.Pipe()
	ended := make(chan observe.Reason, 1)
	go func() { ended <- server.NewConn(pipeStream{remote}).Serve(t.Context()) }()
	var taken atomic.Int64
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		_, _ = io.WriteString(local, head("POST / HTTP/1.1", hostLine, "Content-Length: 1000000000"))
		for {
			n, err := local.Write(make([]byte, 1000))
			taken.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	for range 100 {
		runtime.Gosched()
	}
	if n := taken.Load(); n > largeBuffer {
		t.Errorf("%d bytes were taken", n)
	}
	close(release)
	_ = local.SetDeadline(time.Now().Add(patience))
	if answer, _ := io.ReadAll(local); !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
		t.Errorf("answered with %q", answer)
	}
	<-ended
	<-writing
	if n := taken.Load(); n > largeBuffer {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestUnsolicitedBytesPoisonTheConnection(t *testing.T) {
	rows := []struct{ name, answer string }{
		{"a second response", head(okLine, "Content-Length: 2") + "ok" + head(okLine, "Content-Length: 0")},
		{"one byte", head(okLine, "Content-Length: 2") + "okx"},
		{"a line end", head(okLine, "Content-Length: 2") + "ok\r\n"},
		{"behind the last chunk", head(okLine, "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n0\r\n\r\n"},
		{"content of 204", head("HTTP/1.1 204 No Content") + "ok"},
		{"content of 304", head("HTTP/1.1 304 Not Modified", "Content-Length: 2") + "ok"},
		{"chunks of 304", head("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			stream := &fakeStream{rest: row.answer}
			c := NewClient(ClientOptions{}).NewConn(stream)
			if _, _, err := roundTrip(t, c, get("/")); err != nil {
				t.Fatal(err)
			}
			if c.Reusable() {
				t.Error("reusable")
			}
		})
	}
	t.Run("content of HEAD", func(t *testing.T) {
		c := NewClient(ClientOptions{}).NewConn(&fakeStream{rest: head(okLine, "Content-Length: 2") + "ok"})
		req := get("/")
		req.Method = "HEAD"
		if _, body, err := roundTrip(t, c, req); body != "" || err != nil || c.Reusable() {
			t.Errorf("%q, %v, reusable %v", body, err, c.Reusable())
		}
	})
}
