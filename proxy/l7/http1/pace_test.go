package http1

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// bubbleClient is the other end of a connection in fake time; what it begins with beside is waited for.
type bubbleClient struct {
	net.Conn
	beside sync.WaitGroup
}

// inBubble serves one connection in fake time. It returns why the connection ended, and when.
func inBubble(t *testing.T, options ServerOptions, client func(t *testing.T, c *bubbleClient)) (reason observe.Reason, after time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		local, remote := net.Pipe()
		done := make(chan observe.Reason, 1)
		began := time.Now()
		go func() {
			done <- NewServer(options).NewConn(pipeStream{remote}).Serve(t.Context())
			after = time.Since(began)
		}()
		c := &bubbleClient{Conn: local}
		client(t, c)
		_ = local.Close()
		c.beside.Wait()
		reason = <-done
		synctest.Wait()
	})
	return reason, after
}

// trickle sends pieces of that size, one each interval, until it is told to stop by an error.
func trickle(conn net.Conn, size, count int, interval time.Duration) {
	for range count {
		if _, err := io.WriteString(conn, strings.Repeat("x", size)); err != nil {
			return
		}
		time.Sleep(interval)
	}
}

func TestRequestBodyHasAMinimumRate(t *testing.T) {
	rows := []struct {
		name           string
		rate           int
		pieces         func(conn net.Conn)
		cut            bool
		earliest, last time.Duration
	}{
		// 5 s of grace, of which each second takes one and gives 100/240 back.
		{"a little in every second", 0, func(c net.Conn) { trickle(c, 100, 1000, time.Second) }, true, 8 * time.Second, 10 * time.Second},
		{"one byte in every second", 0, func(c net.Conn) { trickle(c, 1, 1000, time.Second) }, true, 5 * time.Second, 6 * time.Second},
		{"one byte at a time after a fast beginning", 0, func(c net.Conn) {
			trickle(c, 50_000, 1, 0)
			trickle(c, 1, 1000, 10*time.Second)
		}, true, 25 * time.Second, 31 * time.Second},
		{"a rate of its own", 10, func(c net.Conn) { trickle(c, 100, 1000, time.Second) }, false, 0, 0},
		{"no rate", -1, func(c net.Conn) { trickle(c, 1, 100_000, time.Second) }, false, 0, 0},
		{"fast enough", 0, func(c net.Conn) { trickle(c, 250, 400, time.Second) }, false, 0, 0},
		{"in bursts with pauses", 0, func(c net.Conn) { trickle(c, 10_000, 10, 25*time.Second) }, false, 0, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			options := ServerOptions{Handler: l7.HandlerFunc(echo), Limits: Limits{MinBodyRate: row.rate}}
			var answer string
			reason, after := inBubble(t, options, func(_ *testing.T, conn *bubbleClient) {
				conn.beside.Go(func() {
					_, _ = io.WriteString(conn, head("POST / HTTP/1.1", "Host: a", "Content-Length: 100000"))
					row.pieces(conn)
				})
				buf := make([]byte, 4096)
				n, _ := conn.Read(buf)
				answer = string(buf[:n])
			})
			if !row.cut {
				if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
					t.Errorf("answer %.60q, ended for %q after %v", answer, reason, after)
				}
				return
			}
			if !strings.HasPrefix(answer, "HTTP/1.1 408 ") || reason != observe.RequestTimeout || after < row.earliest || after > row.last {
				t.Errorf("answer %.60q, ended for %q after %v", answer, reason, after)
			}
		})
	}
}

// The client is not late while nobody reads what it sends.
func TestBackPressureDoesNotCountAgainstTheClient(t *testing.T) {
	options := ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		buf := make([]byte, 100)
		for {
			time.Sleep(20 * time.Second)                              // as an upstream that takes 5 bytes per second
			if _, err := ex.Request().Body.Read(buf); err == io.EOF { //nolint:errorlint // Body returns it bare
				_ = ex.WriteResponse(stringResponse(200, "whole"))
				return
			} else if err != nil {
				_ = ex.WriteResponse(stringResponse(408, err.Error()))
				return
			}
		}
	})}
	inBubble(t, options, func(t *testing.T, conn *bubbleClient) {
		conn.beside.Go(func() {
			_, _ = io.WriteString(conn, head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"))
			for range 100 {
				_, _ = io.WriteString(conn, "64\r\n"+strings.Repeat("x", 100)+"\r\n")
			}
			_, _ = io.WriteString(conn, "0\r\n\r\n")
		})
		buf := make([]byte, 4096)
		if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 ") {
			t.Errorf("%q, %v", buf[:n], err)
		}
	})
}

// tickingBody has one piece of content per tick, and no end.
type tickingBody struct {
	piece, count int
	tick         time.Duration
}

func (b *tickingBody) Read(p []byte) (int, error) {
	if b.count == 0 {
		return 0, io.EOF
	}
	b.count--
	time.Sleep(b.tick)
	return min(b.piece, len(p)), nil
}
func (b *tickingBody) Trailer() *l7.Header { return nil }
func (b *tickingBody) Close() error        { return nil }

func TestResponseHasAMinimumRate(t *testing.T) {
	rows := []struct {
		name           string
		rate           int
		body           tickingBody
		read           int
		pause          time.Duration
		cut            bool
		earliest, last time.Duration
	}{
		{"reader of small pieces that is slow", 0, tickingBody{100, 1000, 0}, 110, 4 * time.Second, true, 6 * time.Second, 12 * time.Second},
		{"reader of nothing", 0, tickingBody{30_000, 1000, 0}, 1, time.Hour, true, 5 * time.Second, 6 * time.Second},
		{"reader that stops in a large piece", 0, tickingBody{30_000, 1000, 0}, 1000, 50 * time.Second, true, 29 * time.Second, 61 * time.Second},
		{"no rate", -1, tickingBody{100, 100, 0}, 110, 4 * time.Second, false, 0, 0},
		{"reader that is fast enough", 0, tickingBody{1000, 100, 0}, 1100, 4 * time.Second, false, 0, 0},
		{"upstream that is slow", 0, tickingBody{1, 100, 20 * time.Second}, 100, 0, false, 0, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			options := ServerOptions{Limits: Limits{MinWriteRate: row.rate}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: &row.body})
			})}
			var got []byte
			reason, after := inBubble(t, options, func(_ *testing.T, conn *bubbleClient) {
				_, _ = io.WriteString(conn, head("GET / HTTP/1.1", "Host: a", "Connection: close"))
				buf := make([]byte, row.read)
				for {
					n, err := conn.Read(buf)
					if got = append(got, buf[:n]...); err != nil {
						return
					}
					time.Sleep(row.pause)
				}
			})
			whole := strings.HasSuffix(string(got), "0\r\n\r\n")
			if whole == row.cut || row.cut && (reason != observe.IdleTimeout || after < row.earliest || after > row.last) {
				t.Errorf("whole %v, ended for %q after %v", whole, reason, after)
			}
		})
	}
}

// Each message begins with its own grace: what the one before it used up, or earned, is not carried on.
func TestPaceBeginsAnewWithEachMessage(t *testing.T) {
	inBubble(t, ServerOptions{Handler: l7.HandlerFunc(echo)}, func(t *testing.T, conn *bubbleClient) {
		for i := range 5 {
			conn.beside.Go(func() {
				_, _ = io.WriteString(conn, head(fmt.Sprintf("POST /%d HTTP/1.1", i), "Host: a", "Content-Length: 3"))
				trickle(conn, 1, 3, 2*time.Second)
			})
			buf := make([]byte, 4096)
			if n, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 ") {
				t.Fatalf("request %d: %q, %v", i, buf[:n], err)
			}
			time.Sleep(20 * time.Second) // within the idle timeout, which has nothing to do with the pace
		}
	})
}
