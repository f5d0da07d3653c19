package http1

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// RFC 9112, Section 6.3: only a response to HEAD has a length and no content.
func TestRefusalIsNotFramedLikeTheAnswerBefore(t *testing.T) {
	s := startServer(t, ServerOptions{
		Handler: l7.HandlerFunc(echo),
		Refused: func(context.Context, *l7.Error) *l7.Response { return stringResponse(400, "refused") },
	})
	for range 10 { // exchanges are pooled: not every one is the one before
		c := s.dial()
		c.send(head("HEAD / HTTP/1.1", "Host: a"))
		c.want("HEAD", 200, "")
		c.send("GET / HTTP/1.1\nHost: a\n\n")
		c.want("GET", 400, "refused")
		c.wantEnd()
	}
}

// RFC 9112, Section 9.6: a server that is going to close says so in its last response.
func TestResponseToABodyThatIsNotReadSaysWhetherTheConnectionCloses(t *testing.T) {
	const drain = 1000
	s := startServer(t, ServerOptions{
		Limits: Limits{MaxDrain: drain},
		Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
			if _, err := io.ReadFull(ex.Request().Body, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			_ = ex.WriteResponse(stringResponse(413, "too much"))
		}),
	})
	rows := []struct {
		name, length string
		content      int
		closes       bool
	}{
		{"as much as is dropped", "Content-Length: 1100", 100 + drain, false},
		{"more than is dropped", "Content-Length: 1101", 100 + drain + 1, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := s.dial()
			c.send(head("POST / HTTP/1.1", "Host: a", row.length) + strings.Repeat("x", row.content))
			if resp := c.want("POST", 413, "too much"); resp.closes != row.closes {
				t.Errorf("closes: %v", resp.closes)
			}
			if row.closes {
				c.wantEnd()
				return
			}
			c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 100") + strings.Repeat("x", 100))
			c.want("POST", 413, "too much")
		})
	}
}

// RFC 9112, Section 9.6: after a body that broke off no request can follow, and the response to it says so.
func TestResponseAfterABodyThatFailedSaysThatTheConnectionCloses(t *testing.T) {
	chunked := head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
	rows := []struct {
		name, raw string
		status    int
	}{
		{"stalled", head("POST / HTTP/1.1", "Host: a", "Content-Length: 5") + "he", 408},
		{"a thousand trailers", chunked + "0\r\n" + strings.Repeat("a: b\r\n", 1000) + "\r\n", 431},
		{"malformed chunk", chunked + "x\r\n", 400},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Body: 50 * time.Millisecond}})
			c := s.dial()
			c.send(row.raw)
			if resp := c.response("POST"); resp.status != row.status || !resp.closes {
				t.Errorf("%d, closes: %v", resp.status, resp.closes)
			}
			c.wantEnd()
		})
	}
}

// What the engine finds out when it is asked for what is there, before anything is read, counts as well.
func TestResponseAfterAFailureThatReadyFoundSaysThatTheConnectionCloses(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_, _ = l7.ReadyOf(ex.Request().Body)
		_ = ex.WriteResponse(stringResponse(200, ""))
	})})
	c := s.dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "x\r\n")
	if resp := c.want("POST", 200, ""); !resp.closes {
		t.Error("does not say so")
	}
	c.wantEnd()
}
