package l4

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// inUse is what heap and stacks take, in bytes, when nothing is left to collect.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // the first leaves what pools hold for the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// descriptors is how many file descriptors the process has; zero where that is not to be known.
func descriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

func TestIdleTunnelHoldsNeitherBufferNorPipe(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		const tunnels = 1000
		memory, before := inUse(), descriptors()
		var clients, servers []*net.TCPConn
		var results []<-chan Result
		for range tunnels {
			client, server, result := spliced(t, t.Context(), plain, Options{Idle: time.Hour})
			clients, servers, results = append(clients, client), append(servers, server), append(results, result)
		}
		message := make([]byte, 100_000) // each has moved bytes, so that it has had a buffer
		for i := range tunnels {
			for _, way := range []struct{ from, to *net.TCPConn }{{clients[i], servers[i]}, {servers[i], clients[i]}} {
				go func() { _, _ = way.from.Write(message) }()
				if _, err := io.CopyN(io.Discard, way.to, int64(len(message))); err != nil {
					t.Fatal(err)
				}
			}
		}
		each := (inUse() - memory) / tunnels
		for begin := time.Now(); each > 24<<10 && time.Since(begin) < 5*time.Second; { // a stream lingers with its buffer
			each = (inUse() - memory) / tunnels
		}
		t.Logf("%d bytes for an idle tunnel, with its four ends", each)
		if each > 24<<10 {
			t.Errorf("an idle tunnel takes %d bytes", each)
		}
		if after := descriptors(); before > 0 && after-before > 4*tunnels+40 {
			t.Errorf("%d descriptors for %d tunnels", after-before, tunnels)
		}
		for i := range tunnels {
			_, _ = clients[i].Close(), servers[i].Close()
			await(t, results[i])
		}
	})
}

func TestReaderThatStallsPinsOneBuffer(t *testing.T) {
	const tunnels = 10
	memory := inUse()
	var clients, servers []*net.TCPConn
	var results []<-chan Result
	for range tunnels {
		client, server, result := spliced(t, t.Context(), false, Options{Idle: time.Hour})
		clients, servers, results = append(clients, client), append(servers, server), append(results, result)
		chunk := make([]byte, 1<<20)
		var err error
		for err == nil { // until everything between the two is full
			_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, err = client.Write(chunk)
		}
	}
	if each := (inUse() - memory) / tunnels; each > bufferSize+32<<10 {
		t.Errorf("a stalled tunnel pins %d bytes", each)
	}
	for i := range tunnels {
		_ = clients[i].SetLinger(0)
		_, _ = clients[i].Close(), servers[i].Close()
		await(t, results[i])
	}
}

// account is a Pipes with as many as it is given.
type account struct{ left, taken atomic.Int64 }

func (a *account) Acquire() bool {
	if a.left.Add(-1) < 0 {
		a.left.Add(1)
		return false
	}
	a.taken.Add(1)
	return true
}

func (a *account) Release() { a.left.Add(1) }

func TestPipesAreTakenFromTheAccountAndBytesPassWithoutThem(t *testing.T) {
	for _, pipes := range []int64{0, 2} {
		have := &account{}
		have.left.Store(pipes)
		client, server, result := spliced(t, t.Context(), true, Options{Idle: time.Minute, Pipes: have})
		sent := make([]byte, 3<<20)
		go func() { _, _ = client.Write(sent); _ = client.CloseWrite() }()
		if got, err := io.ReadAll(server); err != nil || len(got) != len(sent) {
			t.Fatalf("with %d pipes %d bytes arrive, %v", pipes, len(got), err)
		}
		_ = server.Close()
		if r := await(t, result); r.Reason != observe.PeerClosed || r.Sent != int64(len(sent)) {
			t.Fatalf("result %+v", r)
		}
		if have.left.Load() != pipes || runtime.GOOS == "linux" && (have.taken.Load() > 0) != (pipes > 0) {
			t.Errorf("%d of %d pipes are left, taken %d times", have.left.Load(), pipes, have.taken.Load())
		}
	}
}

// One direction alone keeps a tunnel open, and its last byte is when idleness begins.
func TestIdlenessIsCountedFromTheLastByteOfEitherDirection(t *testing.T) {
	each(t, func(t *testing.T, plain bool) {
		const idle = 400 * time.Millisecond
		client, server, result := spliced(t, t.Context(), plain, Options{Idle: idle})
		go func() { _, _ = io.Copy(io.Discard, server) }()
		for begin := time.Now(); time.Since(begin) < idle*3/2; {
			if _, err := client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
		last := time.Now()
		r := await(t, result)
		if quiet := time.Since(last); r.Reason != observe.IdleTimeout || quiet < idle*9/10 || quiet > idle*7/4 {
			t.Fatalf("ended with %s %v after the last byte", r.Reason, quiet)
		}
	})
}

func TestFlowWithoutAPauseIsNotIdle(t *testing.T) {
	flow := func(t *testing.T, client, server net.Conn, result <-chan Result) {
		go func() {
			chunk := make([]byte, 256<<10)
			var err error
			for begin := time.Now(); err == nil && time.Since(begin) < 500*time.Millisecond; {
				_, err = client.Write(chunk)
			}
			_ = client.Close()
		}()
		if _, err := io.Copy(io.Discard, server); err != nil {
			t.Fatal(err)
		}
		_ = server.Close()
		if r := await(t, result); r.Reason != observe.PeerClosed {
			t.Fatalf("result %+v", r)
		}
	}
	each(t, func(t *testing.T, plain bool) {
		client, server, result := spliced(t, t.Context(), plain, Options{Idle: 100 * time.Millisecond})
		flow(t, client, server, result)
	})
	t.Run("from TLS to TLS", func(t *testing.T) {
		down, client := session(t)
		up, server := session(t)
		flow(t, client, server, start(t, down, up, Options{Idle: 100 * time.Millisecond}))
	})
}
