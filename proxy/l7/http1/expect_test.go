package http1

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

var expectRequests = []refusal{
	{"unknown expectation", head("POST / HTTP/1.1", hostLine, "Content-Length: 1", "Expect: 200-ok"), 417},
	{"two expectations", head("POST / HTTP/1.1", hostLine, "Expect: 100-continue", "Expect: 100-continue"), 417},
}

var expectResponses = []refusal{}

func TestContinueIsSentWhenTheBodyIsRead(t *testing.T) {
	c := echoServer(t).dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"))
	if line := c.line(); line != "HTTP/1.1 100 Continue" {
		t.Fatalf("got %q", line)
	}
	c.line()
	c.send("hi")
	c.want("POST", 200, "POST a / hi")
	c.send(head("GET /next HTTP/1.1", "Host: a"))
	c.want("GET", 200, "GET a /next")
}

func TestContinueIsNotSentWhenTheAnswerIsNo(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(stringResponse(403, "no"))
	})})
	c := s.dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"))
	if resp := c.want("POST", 403, "no"); !resp.closes {
		t.Error("a client may or may not send the body now: the connection has to end")
	}
	c.wantEnd()
}

func TestBodyWaitsForContinue(t *testing.T) {
	answers := map[string]struct {
		first, body, second string
		timeout             time.Duration
		reusable            bool
	}{
		"100":          {head("HTTP/1.1 100 Continue"), "hello", "", patience, true},
		"100 later":    {"", "hello", head("HTTP/1.1 100 Continue"), 20 * time.Millisecond, true},
		"silence":      {"", "hello", "", 20 * time.Millisecond, false}, // it may not have meant to read the body
		"final answer": {head("HTTP/1.1 417 No", "Content-Length: 0"), "", "", patience, false},
	}
	for name, row := range answers {
		t.Run(name, func(t *testing.T) {
			c := scripted(t, ClientOptions{Timeouts: Timeouts{Continue: row.timeout}}, func(conn *net.TCPConn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil || req.Header.Get("Expect") != "100-continue" {
					t.Errorf("expect %v, %v", req, err)
					return
				}
				if r.Buffered() > 0 {
					t.Error("the body came with the head")
				}
				_, _ = io.WriteString(conn, row.first)
				if row.body != "" {
					body, _ := io.ReadAll(req.Body)
					if string(body) != row.body {
						t.Errorf("body %q", body)
					}
					_, _ = io.WriteString(conn, row.second+head("HTTP/1.1 200 OK", "Content-Length: 0"))
				}
				_, _ = r.ReadByte()
			})
			req := post("hello")
			req.ExpectContinue = true
			if _, _, err := roundTrip(t, c, req); err != nil {
				t.Fatal(err)
			}
			if c.Reusable() != row.reusable {
				t.Errorf("reusable %v", c.Reusable())
			}
		})
	}
}
