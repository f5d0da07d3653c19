package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestConnectionServesRequestsOneAfterTheOther(t *testing.T) {
	s := echoServer(t)
	c := s.dial()
	for i := range 3 {
		c.send(head(fmt.Sprintf("GET /%d HTTP/1.1", i), "Host: a"))
		c.want("GET", 200, fmt.Sprintf("GET a /%d", i))
	}
	_ = c.conn.Close()
	s.wantReason(observe.PeerClosed)
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	c := echoServer(t).dial()
	c.send(head("POST /1 HTTP/1.1", "Host: a", "Content-Length: 3") + "one" +
		head("POST /2 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "3\r\ntwo\r\n0\r\nT: x\r\n\r\n" +
		head("GET /3 HTTP/1.1", "Host: a", "Connection: close") + head("GET /4 HTTP/1.1", "Host: a"))
	c.want("POST", 200, "POST a /1 one")
	c.want("POST", 200, "POST a /2 two t=x")
	if resp := c.want("GET", 200, "GET a /3"); !resp.closes {
		t.Error("the last response does not say that the connection closes")
	}
	c.wantEnd()
}

func TestHeadAndBodyMayArriveByteByByte(t *testing.T) {
	c := echoServer(t).dial()
	for _, b := range []byte(head("POST /x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "2\r\nhi\r\n0\r\n\r\n") {
		c.send(string(b))
	}
	c.want("POST", 200, "POST a /x hi")
}

func TestMalformedRequestIsAnsweredAndTheConnectionEnds(t *testing.T) {
	rows := []struct {
		name, raw string
		status    int
		reason    observe.Reason
	}{
		{"smuggling", head("POST / HTTP/1.1", "Host: a", "Content-Length: 6", "Transfer-Encoding: chunked") + "0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, observe.BadRequest},
		{"no Host", head("GET / HTTP/1.1"), 400, observe.BadRequest},
		{"bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400, observe.BadRequest},
		{"too long", "GET /" + strings.Repeat("a", 20000), 414, observe.URITooLong},
		{"too large", "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 20000), 431, observe.HeadTooLarge},
		{"other coding", head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: zstd"), 501, observe.NotImplemented},
		{"other version", head("GET / HTTP/2.0", "Host: a"), 505, observe.UnsupportedVersion},
		{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400, observe.BadRequest},
		{"other scheme", head("GET https://a/ HTTP/1.1", "Host: a"), 400, observe.BadRequest},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var refused []observe.Reason
			handled := 0
			s := startServer(t, ServerOptions{
				Handler: l7.HandlerFunc(func(context.Context, l7.Exchange) { handled++ }),
				Refused: func(_ context.Context, err *l7.Error) *l7.Response {
					refused = append(refused, err.Reason)
					text := err.Reason.String() + "\n"
					resp := &l7.Response{Status: err.Status, Body: l7.NewStringBody(text), ContentLength: int64(len(text))}
					resp.Header.Add("x-request-id", "id-1")
					return resp
				},
			})
			c := s.dial()
			_, _ = io.WriteString(c.conn, row.raw)
			resp := c.want("GET", row.status, row.reason.String()+"\n")
			if !resp.closes || resp.header.Get("X-Request-Id") != "id-1" {
				t.Errorf("head %v, close %v", resp.header, resp.closes)
			}
			c.wantEnd()
			s.wantReason(row.reason)
			if handled != 0 || len(refused) != 1 || refused[0] != row.reason {
				t.Errorf("handled %d, refused %v", handled, refused)
			}
		})
	}
}

func TestRefusalWithoutACallbackIsABareStatus(t *testing.T) {
	c := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo)}).dial()
	c.send(head("GET / HTTP/1.1"))
	if resp := c.want("GET", 400, ""); !resp.closes {
		t.Errorf("head %v", resp.header)
	}
	c.wantEnd()
}

func TestHandlerMayEndTheConnection(t *testing.T) {
	c := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		ex.Request().Close = true
		echo(ctx, ex)
	})}).dial()
	c.send(head("GET /1 HTTP/1.1", "Host: a") + head("GET /2 HTTP/1.1", "Host: a"))
	if resp := c.want("GET", 200, "GET a /1"); !resp.closes {
		t.Errorf("head %v", resp.header)
	}
	c.wantEnd()
}

func TestMalformedBodyEndsTheConnection(t *testing.T) {
	c := echoServer(t).dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "5\nhello\r\n0\r\n\r\n" + head("GET /x HTTP/1.1", "Host: a"))
	c.want("POST", 400, "bad_request")
	c.wantEnd()
}

func TestBodyThatNobodyReadIsDroppedToKeepTheConnection(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(stringResponse(200, ex.Request().Path))
	})})
	c := s.dial()
	c.send(head("POST /1 HTTP/1.1", "Host: a", "Content-Length: 40000") + strings.Repeat("x", 40000) +
		head("POST /2 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n" + head("GET /3 HTTP/1.1", "Host: a"))
	c.want("POST", 200, "/1")
	c.want("POST", 200, "/2")
	c.want("GET", 200, "/3")
}

func TestEarlyResponseToALargeBodyReachesTheClient(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(stringResponse(413, "too much"))
	})})
	c := s.dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 10000000") + strings.Repeat("x", 100000))
	c.want("POST", 413, "too much")
	c.wantEnd()
}

func TestHalfClosedClientGetsItsResponse(t *testing.T) {
	release := make(chan struct{})
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		<-release
		echo(ctx, ex)
	})})
	c := s.dial()
	c.send(head("GET /late HTTP/1.1", "Host: a"))
	_ = c.conn.CloseWrite()
	close(release)
	c.want("GET", 200, "GET a /late")
	s.wantReason(observe.PeerClosed)
}

func TestHTTP10(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		resp := stringResponse(200, "hello")
		if ex.Request().Path == "/stream" {
			resp.ContentLength = -1
		}
		_ = ex.WriteResponse(resp)
	})})
	t.Run("closes", func(t *testing.T) {
		c := s.dial()
		c.send(head("GET / HTTP/1.0"))
		c.want("GET", 200, "hello")
		c.wantEnd()
	})
	t.Run("is kept alive when asked", func(t *testing.T) {
		c := s.dial()
		for range 2 {
			c.send(head("GET / HTTP/1.0", "Connection: keep-alive"))
			if resp := c.want("GET", 200, "hello"); resp.header.Get("Connection") != "keep-alive" {
				t.Errorf("connection: %v", resp.header)
			}
		}
	})
	t.Run("gets no chunks", func(t *testing.T) {
		c := s.dial()
		c.send(head("GET /stream HTTP/1.0", "Connection: keep-alive"))
		if resp := c.want("GET", 200, "hello"); resp.chunked {
			t.Error("chunked")
		}
		c.wantEnd()
	})
}

// failingBody breaks off after some content.
type failingBody struct {
	content *l7.StringBody
}

func (b failingBody) Read(p []byte) (int, error) {
	n, err := b.content.Read(p)
	if err != nil {
		err = errors.New("the upstream is gone")
	}
	return n, err
}
func (b failingBody) Trailer() *l7.Header { return nil }
func (b failingBody) Close() error        { return nil }

func TestHalfAMessageIsNeverTakenForAWholeOne(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
		for _, length := range []int64{-1, 100} {
			t.Run(fmt.Sprintf("%s length %d", version, length), func(t *testing.T) {
				s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
					err := ex.WriteResponse(&l7.Response{Status: 200, ContentLength: length, Body: failingBody{l7.NewStringBody("half")}})
					if e, ok := errors.AsType[*l7.Error](err); !ok || e.Side != l7.Upstream {
						t.Errorf("error %v", err)
					}
				})})
				// A reset is what an HTTP/1.0 client can tell from an end, so the stream has to be able to do it.
				c := s.dial()
				c.send(head("GET / "+version, "Host: a"))
				raw, err := io.ReadAll(c.r)
				whole := strings.HasSuffix(string(raw), "0\r\n\r\n") || version == "HTTP/1.0" && length < 0 && err == nil && strings.Contains(string(raw), "half")
				if whole {
					t.Errorf("client reads %q, %v", raw, err)
				}
				s.wantReason(observe.UpstreamReset)
			})
		}
	}
}

func TestResponsesThatDoNotFitTheirLengthBreakOff(t *testing.T) {
	for body, length := range map[string]int64{"hello": 3, "hello!": 10, strings.Repeat("x", 1<<20): 5} {
		s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
			if err := ex.WriteResponse(&l7.Response{Status: 200, ContentLength: length, Body: l7.NewStringBody(body)}); err == nil {
				t.Error("no error")
			}
		})})
		c := s.dial()
		c.send(head("GET / HTTP/1.1", "Host: a"))
		if raw, _ := io.ReadAll(c.r); len(raw) > 0 {
			t.Errorf("client reads %q", raw)
		}
	}
}

func TestBodilessResponses(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		switch req := ex.Request(); req.Path {
		case "/204":
			_ = ex.WriteResponse(stringResponse(204, "not to be seen"))
		case "/304":
			_ = ex.WriteResponse(&l7.Response{Status: 304, ContentLength: 7})
		case "/nil":
			_ = ex.WriteResponse(&l7.Response{Status: 200})
		default:
			_ = ex.WriteResponse(stringResponse(200, "hello"))
		}
	})})
	c := s.dial()
	c.send(head("HEAD / HTTP/1.1", "Host: a"))
	if resp := c.want("HEAD", 200, ""); resp.length != 5 {
		t.Errorf("length of HEAD %d", resp.length)
	}
	c.send(head("GET /204 HTTP/1.1", "Host: a"))
	if resp := c.want("GET", 204, ""); resp.header.Get("Content-Length") != "" {
		t.Error("204 with a length")
	}
	c.send(head("GET /304 HTTP/1.1", "Host: a"))
	if resp := c.want("GET", 304, ""); resp.header.Get("Content-Length") != "7" {
		t.Error("304 lost the length of the resource")
	}
	c.send(head("GET /nil HTTP/1.1", "Host: a"))
	c.want("GET", 200, "")
}

func TestHandlerCannotFrameTheMessageByHeader(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		resp := stringResponse(200, "hello")
		resp.Header.Add("Content-Length", "50")
		resp.Header.Add("Transfer-Encoding", "chunked")
		resp.Header.Add("Connection", "x-a")
		resp.Header.Add("X-A\r\nX-B", "1\r\n\r\nHTTP/1.1 200 OK")
		resp.Reason = "Fine\r\nX-C: 1"
		_ = ex.WriteResponse(resp)
	})})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a"))
	resp := c.want("GET", 200, "hello")
	if resp.header.Get("X-B") != "" || resp.header.Get("X-C") != "" || resp.header.Get("Connection") != "" {
		t.Errorf("header %v", resp.header)
	}
}

func TestHandlerThatGivesNoAnswerIsAnInternalError(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(context.Context, l7.Exchange) {})})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a"))
	c.want("GET", 500, "")
	s.wantReason(observe.Internal)
}

func TestSlowHeadIsCutAtOneDeadline(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Head: 100 * time.Millisecond}})
	c := s.dial()
	raw := head("GET / HTTP/1.1", "Host: a", "X: "+strings.Repeat("y", 1000))
	stop := make(chan struct{})
	go func() {
		// One byte every 5 ms: each is progress, and the head is still late.
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := range raw {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = c.conn.Write([]byte{raw[i]})
			}
		}
	}()
	c.want("GET", 408, "")
	close(stop)
	s.wantReason(observe.RequestTimeout)
}

func TestSlowBodyIsCut(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Body: 50 * time.Millisecond}})
	c := s.dial()
	c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 5") + "he")
	c.want("POST", 408, "request_timeout")
	s.wantReason(observe.RequestTimeout)
}

func TestIdleConnectionEnds(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Idle: grace + 100*time.Millisecond}})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a"))
	c.want("GET", 200, "GET a /")
	c.wantEnd()
	s.wantReason(observe.IdleTimeout)
}

func TestConnectionThatWaitsHoldsNoBufferAndStillServes(t *testing.T) {
	s := echoServer(t)
	c := s.dial()
	conn := <-s.conns
	c.send(head("GET /1 HTTP/1.1", "Host: a"))
	c.want("GET", 200, "GET a /1")
	waitFor(t, func() bool { return conn.idle.Load() })
	// Longer than grace: the second wait is the one without a buffer.
	timer := time.NewTimer(grace + 50*time.Millisecond)
	<-timer.C
	c.send(head("GET /2 HTTP/1.1", "Host: a"))
	c.want("GET", 200, "GET a /2")
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("condition did not come true")
		}
		<-time.After(time.Millisecond)
	}
}

func TestDrainClosesAnIdleConnectionAtOnce(t *testing.T) {
	for _, wait := range []time.Duration{0, grace + 50*time.Millisecond} {
		s := echoServer(t)
		c := s.dial()
		conn := <-s.conns
		c.send(head("GET / HTTP/1.1", "Host: a"))
		c.want("GET", 200, "GET a /")
		waitFor(t, func() bool { return conn.idle.Load() })
		<-time.After(wait)
		began := time.Now()
		conn.Drain()
		c.wantEnd()
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		s.wantReason(observe.Drained)
	}
}

func TestDrainLetsTheRequestUnderWayFinish(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		close(entered)
		<-release
		echo(ctx, ex)
	})})
	c := s.dial()
	conn := <-s.conns
	c.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 5") + "he")
	<-entered
	conn.Drain()
	close(release)
	c.send("llo")
	if resp := c.want("POST", 200, "POST a / hello"); !resp.closes {
		t.Error("response does not say that the connection closes")
	}
	c.wantEnd()
	s.wantReason(observe.Drained)
}

func TestCancelledContextCutsTheConnection(t *testing.T) {
	local, remote := net.Pipe()
	entered := make(chan struct{})
	server := NewServer(ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		close(entered)
		echo(ctx, ex) // waits for a body that does not come
	})})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan observe.Reason)
	go func() { done <- server.NewConn(pipeStream{remote}).Serve(ctx) }()
	_, _ = io.WriteString(local, head("POST / HTTP/1.1", "Host: a", "Content-Length: 5"))
	<-entered
	cancel(l7.NewError(observe.Revoked, "the credential was revoked"))
	if raw, _ := io.ReadAll(local); len(raw) > 0 {
		t.Errorf("got %q", raw)
	}
	if reason := <-done; reason != observe.Revoked {
		t.Errorf("reason %q", reason)
	}
}

type pipeStream struct{ net.Conn }

func (p pipeStream) CloseWrite() error { return errors.ErrUnsupported }

func TestInformationalResponses(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		var h l7.Header
		h.Add("Link", "</a.css>")
		if err := ex.Informational(103, &h); err != nil {
			t.Error(err)
		}
		if err := ex.Informational(101, nil); err == nil {
			t.Error("101 is not an informational response to pass on")
		}
		echo(ctx, ex)
	})})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a"))
	c.want("GET", 103, "")
	c.want("GET", 200, "GET a /")
	old := s.dial()
	old.send(head("GET / HTTP/1.0", "Host: a"))
	old.want("GET", 200, "GET a /")
}

func TestSlowReaderIsCutAtTheWriteDeadline(t *testing.T) {
	failed := make(chan error, 1)
	s := startServer(t, ServerOptions{
		Timeouts: Timeouts{Write: 100 * time.Millisecond},
		Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
			failed <- ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: endlessBody{}})
		}),
	})
	c := s.dial()
	c.send(head("GET / HTTP/1.1", "Host: a"))
	select {
	case err := <-failed:
		if e, ok := errors.AsType[*l7.Error](err); !ok || e.Side != l7.Downstream {
			t.Errorf("error %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the response goes on without a reader")
	}
}

type endlessBody struct{}

func (endlessBody) Read(p []byte) (int, error) { return len(p), nil }
func (endlessBody) Trailer() *l7.Header        { return nil }
func (endlessBody) Close() error               { return nil }

func TestDrainNeverBreaksARequestThatHasBegun(t *testing.T) {
	s := echoServer(t)
	for i := range 200 {
		c := s.dial()
		conn := <-s.conns
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			conn.Drain()
		}()
		if i%2 == 0 {
			<-drained
		}
		// The drain may come before the request, in which case nothing is answered, or anywhere within it.
		_, _ = io.WriteString(c.conn, head("POST / HTTP/1.1", "Host: a", "Content-Length: 5")+"he")
		_, _ = io.WriteString(c.conn, "llo")
		raw, _ := io.ReadAll(c.r)
		if len(raw) > 0 && !strings.HasSuffix(string(raw), "POST a / hello") {
			t.Fatalf("round %d: %q", i, raw)
		}
		<-drained
		_ = c.conn.Close()
	}
}
