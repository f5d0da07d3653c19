package http2

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Requests that are cancelled, abandoned, refused and answered early, all at once through both engines: afterwards nothing may be
// left of any of them, neither places nor windows.
func TestNothingIsLeftOfWhatEndsEarly(t *testing.T) {
	up := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		switch rand.IntN(6) {
		case 0:
			ex.Abort()
		case 1:
			_ = ex.WriteResponse(stringResponse(413, fill(30000)))
		case 2:
			ex.Cut(&l7.Error{Reason: observe.PolicyChanged})
			_ = ex.WriteResponse(stringResponse(200, "late"))
		default:
			echo(ctx, ex)
		}
	})})
	p := newProxy(t, up.address, ClientOptions{})
	s := startServer(t, ServerOptions{Handler: p})
	socket, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan observe.Reason, 1)
	c := NewClient(ClientOptions{}).NewConn(socket.(*net.TCPConn), ClientEvents{Ended: func(reason observe.Reason) { ended <- reason }})
	var running sync.WaitGroup
	for range 30 {
		running.Go(func() {
			for range 30 {
				oneOfMany(t, c)
			}
		})
	}
	running.Wait()
	down := <-s.conns
	whole := func(c *conn) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.active == 0 && c.unanswered == 0 && len(c.streams) == 0 && len(c.waiting) == 0 && c.recv.left+c.recv.read == c.limits.ConnectionWindow
	}
	for what, one := range map[string]*conn{"client": &c.conn, "downstream": &down.conn, "upstream": &p.conn.conn} {
		eventually(t, what+" with nothing left", func() bool { return whole(one) })
		one.mu.Lock()
		e := one.life.ended
		one.mu.Unlock()
		if e != nil {
			t.Errorf("the %s ended for %q: %v", what, e.reason, e.cause)
		}
	}
	_ = c.Close()
	<-ended
}

// oneOfMany is a request, or the beginning of one.
func oneOfMany(t *testing.T, c *ClientConn) {
	if !c.Reserve() {
		t.Error("no place")
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	content := fill(rand.IntN(100000))
	switch rand.IntN(4) {
	case 0:
		time.AfterFunc(time.Duration(rand.IntN(1000))*time.Microsecond, cancel)
	case 1:
		time.AfterFunc(time.Duration(rand.IntN(10))*time.Millisecond, cancel)
	}
	resp, err := c.RoundTrip(ctx, post(&readerBody{r: strings.NewReader(content)}, int64(len(content))), nil)
	if err != nil {
		return
	}
	if rand.IntN(4) > 0 {
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
			t.Errorf("%d bytes of %d told to be whole", n, resp.ContentLength)
		}
	}
	_ = resp.Body.Close()
}
