package l4

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// pair returns the two ends of a loopback TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan *net.TCPConn, 1)
	go func() { c, _ := l.AcceptTCP(); accepted <- c }()
	far, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	near = <-accepted
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// opaque hides that a stream is a socket, so that bytes go through the buffer.
type opaque struct{ c *net.TCPConn }

func (o opaque) Read(p []byte) (int, error)         { return o.c.Read(p) }
func (o opaque) Write(p []byte) (int, error)        { return o.c.Write(p) }
func (o opaque) Close() error                       { return o.c.Close() }
func (o opaque) SetLinger(seconds int) error        { return o.c.SetLinger(seconds) }
func (o opaque) CloseWrite() error                  { return o.c.CloseWrite() }
func (o opaque) SetReadDeadline(t time.Time) error  { return o.c.SetReadDeadline(t) }
func (o opaque) SetWriteDeadline(t time.Time) error { return o.c.SetWriteDeadline(t) }

// spliced starts a splice between two loopback connections and returns their outer ends.
func spliced(t *testing.T, ctx context.Context, plain bool, options Options) (client, server *net.TCPConn, result <-chan Result) {
	t.Helper()
	down, client := pair(t)
	up, server := pair(t)
	var a, b Stream = down, up
	if !plain {
		b = opaque{up} // one direction reads a socket, the other a stream
	}
	done := make(chan Result, 1)
	go func() { done <- Splice(ctx, a, b, options) }()
	return client, server, done
}

func await(t *testing.T, result <-chan Result) Result {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(5 * time.Second):
		t.Fatal("the splice does not end")
		return Result{}
	}
}

// each runs a test over the kernel's copy and over the buffer.
func each(t *testing.T, f func(t *testing.T, plain bool)) {
	t.Run("between plain sockets", func(t *testing.T) { f(t, true) })
	t.Run("through the buffer", func(t *testing.T) { f(t, false) })
}

func TestHalfCloseEndsOneDirectionOnly(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		client, server, result := spliced(t, t.Context(), plain, Options{Idle: time.Minute})
		question, answer := bytes.Repeat([]byte("q"), 300_000), bytes.Repeat([]byte("a"), 200_000)
		go func() { _, _ = client.Write(question); _ = client.CloseWrite() }()
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, question) {
			t.Fatalf("the server read %d bytes, %v", len(got), err)
		}
		go func() { _, _ = server.Write(answer); _ = server.Close() }()
		got, err = io.ReadAll(client)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("the client read %d bytes, %v, after it had closed its own direction", len(got), err)
		}
		r := await(t, result)
		if r.Sent != 300_000 || r.Received != 200_000 || r.Reason != observe.PeerClosed {
			t.Fatalf("result %+v", r)
		}
	})
}

func TestServerThatClosesFirstIsTheReason(t *testing.T) {
	client, server, result := spliced(t, t.Context(), true, Options{})
	_ = server.CloseWrite()
	if _, err := io.ReadAll(client); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if r := await(t, result); r.Reason != observe.UpstreamClosed {
		t.Fatalf("result %+v", r)
	}
}

func TestIdleStreamsAreClosedAndBusyOnesAreNot(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		const idle = 200 * time.Millisecond
		client, server, result := spliced(t, t.Context(), plain, Options{Idle: idle})
		go func() { _, _ = io.Copy(io.Discard, client) }()
		begin := time.Now()
		// One direction that moves keeps both alive.
		for time.Since(begin) < 2*idle {
			if _, err := server.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			select {
			case r := <-result:
				t.Fatalf("closed while busy: %+v", r)
			case <-time.After(idle / 8):
			}
		}
		if r := await(t, result); r.Reason != observe.IdleTimeout {
			t.Fatalf("result %+v", r)
		}
	})
}

func TestReaderThatStallsEndsTheSplice(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		client, _, result := spliced(t, t.Context(), plain, Options{Idle: 100 * time.Millisecond})
		go func() { // more than the buffers of both sockets take
			chunk := make([]byte, 1<<20)
			for range 64 {
				if _, err := client.Write(chunk); err != nil {
					return
				}
			}
		}()
		if r := await(t, result); r.Reason != observe.IdleTimeout {
			t.Fatalf("result %+v", r)
		}
	})
}

func TestMaxTimeAndContextEndABusySplice(t *testing.T) {
	client, _, result := spliced(t, t.Context(), true, Options{MaxTime: 50 * time.Millisecond})
	if r := await(t, result); r.Reason != observe.MaxTime {
		t.Fatalf("result %+v", r)
	}
	wantReset(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	client, server, result := spliced(t, ctx, false, Options{})
	cancel()
	if r := await(t, result); r.Reason != observe.Drained {
		t.Fatalf("result %+v", r)
	}
	wantReset(t, client)
	wantReset(t, server)
}

// wantReset: what was cut must not look as if it had ended.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %v, want a reset", err)
	}
}

func TestResetIsAnErrorAndNoEndOfTheOtherSide(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		client, server, result := spliced(t, t.Context(), plain, Options{})
		_ = client.SetLinger(0)
		_ = client.Close()
		if r := await(t, result); r.Reason != observe.IOError || r.Err == nil {
			t.Fatalf("result %+v", r)
		}
		wantReset(t, server)
	})
}

// aheadConn has bytes that were read before the splice.
type aheadConn struct {
	*net.TCPConn
	ahead []byte
}

func (a *aheadConn) Unwrap() (net.Conn, []byte) { return a.TCPConn, a.ahead }

func TestBytesReadAheadGoFirst(t *testing.T) {
	down, client := pair(t)
	up, server := pair(t)
	done := make(chan Result, 1)
	go func() { done <- Splice(t.Context(), &aheadConn{down, []byte("first ")}, up, Options{}) }()
	_, _ = io.WriteString(client, "second")
	_ = client.CloseWrite()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != "first second" {
		t.Fatalf("the server read %q, %v", got, err)
	}
	_ = server.Close()
	if r := await(t, done); r.Sent != 12 {
		t.Fatalf("result %+v", r)
	}
}
