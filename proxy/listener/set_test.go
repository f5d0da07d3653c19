package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func testSet() *Set { return NewSet(slog.New(slog.DiscardHandler)) }

func loopback() Address { return TCP(netip.MustParseAddrPort("127.0.0.1:0")) }

// serve runs Serve and returns the channel of accepted connections and a function that ends it and waits.
func serve(t *testing.T, s *Socket, events Events) (<-chan *Conn, func()) {
	t.Helper()
	conns := make(chan *Conn, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, func(c *Conn) { conns <- c }, events) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	return conns, stop
}

func dial(t *testing.T, at net.Addr) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(at.Network(), at.String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func receive(t *testing.T, conns <-chan *Conn) *Conn {
	t.Helper()
	select {
	case c := <-conns:
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(5 * time.Second):
		t.Fatal("no connection was accepted")
		return nil
	}
}

func TestSocketOutlivesAReloadThatStillWantsIt(t *testing.T) {
	set := testSet()
	first, err := set.Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	conns, stop := serve(t, first, Events{})
	receiveOne := func() { dial(t, first.Bound()); receive(t, conns) }
	receiveOne()

	second, err := set.Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	if second != first {
		t.Fatal("the same address was bound twice")
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	receiveOne()
	stop()

	// Nobody accepts now: the connection waits in the queue and is served by the next Serve.
	dial(t, second.Bound())
	conns, stop = serve(t, second, Events{})
	receive(t, conns)
	stop()
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", first.Bound().String(), time.Second); err == nil {
		t.Fatal("the last release left the socket open")
	}
}

func TestSocketAtItsLimitRefusesAndRecovers(t *testing.T) {
	s, err := testSet().Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Release() }()
	s.SetLimit(1)
	var refused atomic.Int32
	conns, stop := serve(t, s, Events{Refused: func() { refused.Add(1) }})
	defer stop()
	dial(t, s.Bound())
	held := receive(t, conns)

	over, err := net.DialTimeout("tcp", s.Bound().String(), 5*time.Second)
	if err == nil { // the reset may be faster than the dialler
		_ = over.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = over.Read(make([]byte, 1))
		_ = over.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a refused connection ends with %v, want a reset", err)
	}
	if refused.Load() != 1 {
		t.Fatalf("refused = %d, want 1", refused.Load())
	}
	_ = held.Close()
	_ = held.Close() // gives its place back once
	if s.Active() != 0 {
		t.Fatalf("active = %d after close, want 0", s.Active())
	}
	dial(t, s.Bound())
	receive(t, conns)
}

func TestReleaseEndsServe(t *testing.T) {
	s, err := testSet().Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), func(c *Conn) { _ = c.Close() }, Events{}) }()
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Serve goes on after the release")
	}
}

// failing is a listener that is out of descriptors for a number of accepts.
type failing struct {
	net.Listener
	left atomic.Int32
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestExhaustedDescriptorsPauseAcceptingWithoutEndingIt(t *testing.T) {
	s, err := testSet().Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Release() }()
	broken := &failing{Listener: s.bound}
	broken.left.Store(4)
	s.bound = broken
	var failed atomic.Int32
	start := time.Now()
	conns, _ := serve(t, s, Events{Failed: func(error) { failed.Add(1) }})
	dial(t, s.Bound())
	receive(t, conns)
	if failed.Load() != 4 {
		t.Fatalf("failures = %d, want 4", failed.Load())
	}
	if spent := time.Since(start); spent < 75*time.Millisecond { // 5+10+20+40
		t.Fatalf("accepted again after %v: four failures must wait 75 ms in all", spent)
	}
	_ = s.Release()
}

func TestUnixSocketReplacesAStaleOneAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testSet().Acquire(t.Context(), Unix(path)); err == nil {
		t.Fatal("took over a socket on which another listens")
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	s, err := testSet().Acquire(t.Context(), Unix(path))
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	_ = s.Release()

	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := testSet().Acquire(t.Context(), Unix(file)); err == nil {
		t.Fatal("listened in place of a file")
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("the file is gone: %v", err)
	}
}
