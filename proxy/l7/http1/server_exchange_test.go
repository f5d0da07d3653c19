package http1

import (
	"context"
	"io"
	"strings"
	"testing"

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
