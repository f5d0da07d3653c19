package mtls

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// pair returns both ends of a connection, with the options of the server and client that a test changes.
func pair(t testing.TB) (server, client *Conn) {
	t.Helper()
	s := newScene(t)
	s.server.Mutual = false
	server, client, serverErr, clientErr := newVenue(t).meet(NewServer(s.server), NewClient(s.client), "orders.test")
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	return server, client
}

// counting counts the calls that reach the socket.
type counting struct {
	net.Conn
	reads, writes atomic.Int64
	fail          atomic.Bool
}

func (c *counting) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.fail.Load() {
		return 0, errors.New("broken")
	}
	return c.Conn.Write(p)
}

func random(n int) []byte {
	out := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(out)
	return out
}

func TestBytesArriveWholeWithAndWithoutBulk(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		server, client := pair(t)
		if bulk {
			server.Bulk()
			client.Bulk()
		}
		want := random(3 << 20)
		for _, way := range []struct{ from, to *Conn }{{server, client}, {client, server}} {
			go func() {
				for rest, sizes := want, []int{1, 100, maxPlaintext, maxPlaintext + 1, 50_000, 300_000, 1 << 20}; len(rest) > 0; {
					n := min(sizes[len(rest)%len(sizes)], len(rest))
					if _, err := way.from.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				_ = way.from.CloseWrite()
			}()
			_ = way.to.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := readBy(way.to, []int{1, 7, 4096, 200_000, maxPlaintext})
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("bulk %v: %d bytes of %d, %v", bulk, len(got), len(want), err)
			}
		}
		holdsNothing(t, server)
		holdsNothing(t, client)
	}
}

func readBy(conn *Conn, sizes []int) (got []byte, err error) {
	buf := make([]byte, 200_000)
	for i := 0; ; i++ {
		n, err := conn.Read(buf[:sizes[i%len(sizes)]])
		got = append(got, buf[:n]...)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

func holdsNothing(t *testing.T, conn *Conn) {
	t.Helper()
	out := &conn.transport.out
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.large != nil || out.small != nil || out.open != 0 || conn.transport.ahead != nil && conn.transport.ahead.buf != nil {
		t.Error("the connection holds a buffer while nothing is in flight")
	}
}

// A byte stream that waits has no buffer, whatever it read last; also when what it read fits the buffer to the byte.
func TestIdleByteStreamHoldsNoBuffer(t *testing.T) {
	server, client := pair(t)
	server.Bulk()
	for _, size := range []int{1, 5000, 100_000, 1 << 20} {
		go func() { _, _ = client.Write(random(size)) }()
		if _, err := io.ReadFull(server, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := server.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d, %v", n, err)
		}
		_ = server.SetReadDeadline(time.Time{})
		holdsNothing(t, server)
	}
	server.transport.ahead.full = true // as after a read that filled its buffer exactly
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := server.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	holdsNothing(t, server)
}

func TestLargeWriteLeavesInFewPieces(t *testing.T) {
	for name, c := range map[string]struct {
		bulk   bool
		size   int
		writes int64
	}{
		"a record":            {false, maxPlaintext, 1},
		"a message":           {false, 4 * maxPlaintext, 1},
		"a long message":      {false, 16 * maxPlaintext, 4},
		"a byte stream":       {true, 16 * maxPlaintext, 1},
		"a long byte stream":  {true, 32*maxPlaintext + 1000, 3},
		"a byte more":         {false, maxPlaintext + 1, 1},
		"a few bytes at once": {true, 10, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server, client := pair(t)
			if c.bulk {
				server.Bulk()
			}
			socket := &counting{Conn: server.transport.Conn}
			server.transport.Conn = socket
			go func() { _, _ = io.Copy(io.Discard, client) }()
			if n, err := server.Write(make([]byte, c.size)); n != c.size || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			if got := socket.writes.Load(); got != c.writes {
				t.Errorf("%d writes, want %d", got, c.writes)
			}
			holdsNothing(t, server)
		})
	}
}

// After a batch that broke, part of a record may be with the peer: nothing may follow it, not even an alert.
func TestBrokenBatchEndsWriting(t *testing.T) {
	server, _ := pair(t)
	socket := &counting{Conn: server.transport.Conn}
	server.transport.Conn = socket
	socket.fail.Store(true)
	if n, err := server.Write(make([]byte, 3*maxPlaintext)); n != 0 || err == nil || !strings.Contains(err.Error(), "broken") {
		t.Fatalf("%d, %v", n, err)
	}
	holdsNothing(t, server)
	socket.fail.Store(false)
	before := socket.writes.Load()
	if _, err := server.Write([]byte("x")); err == nil {
		t.Error("a write follows")
	}
	_ = server.Close()
	if socket.writes.Load() != before {
		t.Error("something was sent after a broken batch")
	}
}

// What is read ahead is a record and not a stream yet: the end of the transport without close_notify stays an error.
func TestOnlyCloseNotifyEndsAByteStream(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		server, client := pair(t)
		server.Bulk()
		want := random(1 << 20)
		go func() {
			_, _ = client.Write(want)
			if orderly {
				_ = client.CloseWrite()
			} else {
				_ = client.transport.Conn.(*net.TCPConn).CloseWrite()
			}
		}()
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(server)
		if !bytes.Equal(got, want) || (err == nil) != orderly || !orderly && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("orderly %v: %d bytes, %v", orderly, len(got), err)
		}
	}
}

func TestByteStreamReadsWhatHasArrivedAndDoesNotWaitForMore(t *testing.T) {
	server, client := pair(t)
	server.Bulk()
	if _, err := client.Write(random(40_000)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	for got := 0; got < 40_000; {
		_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := server.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
}

// An answer to a key update may be written while a batch is collected or sent: records keep their order.
func TestRecordsKeepTheirOrderWhenWritesOverlap(t *testing.T) {
	server, client := pair(t)
	server.Bulk()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = server.Write([]byte{0})
			}
		}
	}()
	go func() {
		for range 50 {
			_, _ = server.Write(make([]byte, 200_000))
		}
		close(stop)
		<-done
		_ = server.CloseWrite()
	}()
	_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := io.Copy(io.Discard, client) // a record out of order does not decrypt
	if err != nil || n < 50*200_000 {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

func TestAbortBreaksABlockedBatch(t *testing.T) {
	server, _ := pair(t)
	server.Bulk()
	ended := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, 64<<20)) // nobody reads
		ended <- err
	}()
	time.AfterFunc(50*time.Millisecond, func() { _ = server.Abort() })
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the write goes on")
	}
	holdsNothing(t, server)
}

func TestQuietTellsDataFromWhatTLSSendsForItself(t *testing.T) {
	s := newScene(t)
	near, far := newVenue(t).link()
	accepted := make(chan *Conn, 1)
	go func() {
		conn, _ := NewServer(s.server).Handshake(t.Context(), near)
		accepted <- conn
	}()
	client, err := NewClient(s.client).Handshake(t.Context(), far, "orders.test")
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	if server == nil {
		t.Fatal("no connection")
	}
	until := func(want bool, what string) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); client.Quiet() != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: quiet is %v", what, !want)
			}
		}
	}
	// The ticket is on its way or there: neither is unrest, and it is taken in.
	for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		if !client.Quiet() {
			t.Fatal("a session ticket is unrest")
		}
	}
	_, _ = server.Write([]byte("x"))
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	until(true, "after the byte was read")
	_, _ = server.transport.Conn.Write([]byte{23, 3})
	until(false, "half a record")
	if client.Quiet() {
		t.Fatal("quiet again, with half a record")
	}

	other, next := pair(t)
	client = next
	until(true, "new")
	_, _ = other.Write([]byte("unasked"))
	until(false, "data")
	other, client = pair(t)
	_ = other.Close()
	until(false, "the end")
	other, client = pair(t)
	_ = other.Abort()
	until(false, "a reset")
}
