package l4

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/proxy/mtls"
)

func holder(t testing.TB, ca *testkit.CA, path string) *source.Holder {
	t.Helper()
	certificate := ca.Leaf(t, testkit.WithURIs(ca.ID(t, path).String()))
	h := &source.Holder{}
	h.Set(&source.X509{ID: ca.ID(t, path), Certificate: certificate, Roots: ca.Roots(), Generation: 1,
		NotBefore: certificate.Leaf.NotBefore, NotAfter: certificate.Leaf.NotAfter})
	return h
}

func newServer(t testing.TB, ca *testkit.CA) *mtls.Server {
	t.Helper()
	return mtls.NewServer(mtls.ServerOptions{Credentials: holder(t, ca, "/server")})
}

// session returns both ends of a TLS session over loopback.
func session(t *testing.T) (near, far *mtls.Conn) {
	t.Helper()
	ca := testkit.NewCA(t, "example.org")
	rawNear, rawFar := pair(t)
	client := mtls.NewClient(mtls.ClientOptions{Credentials: holder(t, ca, "/client"), Expect: func(spiffeid.ID) bool { return true }})
	var both sync.WaitGroup
	var nearErr, farErr error
	both.Go(func() { near, nearErr = newServer(t, ca).Handshake(t.Context(), rawNear) })
	far, farErr = client.Handshake(t.Context(), rawFar, "server.test")
	both.Wait()
	if err := errors.Join(nearErr, farErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// RFC 8446, Section 6.1: "Each party MUST send a close_notify alert before closing its write side of the connection … This does not
// have any effect on its read side of the connection."
func TestCloseNotifyIsPassedOnAsAHalfClose(t *testing.T) {
	question, answer := bytes.Repeat([]byte("q"), 1<<20), bytes.Repeat([]byte("a"), 1<<20)
	exchange := func(t *testing.T, first, second Stream, want observe.Reason, result <-chan Result) {
		t.Helper()
		go func() { _, _ = first.Write(question); _ = first.CloseWrite() }()
		if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, question) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		go func() { _, _ = second.Write(answer); _ = second.CloseWrite() }()
		if got, err := io.ReadAll(first); err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("read %d bytes, %v, after the own direction was closed", len(got), err)
		}
		if r := await(t, result); r.Reason != want || r.Sent != 1<<20 || r.Received != 1<<20 {
			t.Fatalf("result %+v", r)
		}
	}
	t.Run("from a TLS client to a plain server", func(t *testing.T) {
		down, client := session(t)
		up, server := pair(t)
		exchange(t, client, server, observe.PeerClosed, start(t, down, up, Options{Idle: time.Minute}))
	})
	t.Run("from a plain server to a TLS client", func(t *testing.T) {
		down, client := session(t)
		up, server := pair(t)
		exchange(t, server, client, observe.UpstreamClosed, start(t, down, up, Options{Idle: time.Minute}))
	})
	t.Run("between two sessions", func(t *testing.T) {
		down, client := session(t)
		up, server := session(t)
		exchange(t, client, server, observe.PeerClosed, start(t, down, up, Options{Idle: time.Minute}))
	})
}

func start(t *testing.T, down, up Stream, options Options) <-chan Result {
	t.Helper()
	done := make(chan Result, 1)
	go func() { done <- Splice(t.Context(), down, up, options) }()
	return done
}

// RFC 8446, Section 6.1: without close_notify, what was received may have been cut off by an attacker.
func TestEndWithoutCloseNotifyIsNoEndForTheOtherSide(t *testing.T) {
	down, client := session(t)
	up, server := pair(t)
	result := start(t, down, up, Options{Idle: time.Minute})
	_, _ = io.WriteString(client, "half")
	raw := client.NetConn()
	if w, ok := raw.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	} else {
		_ = raw.Close()
	}
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the server sees %v, want a reset", err)
	}
	if r := await(t, result); r.Reason != observe.IOError {
		t.Fatalf("result %+v", r)
	}
}

func TestPiecesOfEverySizeArriveWholeUnderTLS(t *testing.T) {
	down, client := session(t)
	up, server := session(t)
	result := start(t, down, up, Options{Idle: 200 * time.Millisecond}) // deadlines pass all the time
	for _, size := range []int{1, firstLength - 1, firstLength, firstLength + 1, 16 << 10, 16<<10 + 1, bufferSize - 1, bufferSize, bufferSize + 1, 1 << 20} {
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(i * size >> 3)
		}
		for _, way := range []struct{ from, to net.Conn }{{client, server}, {server, client}} {
			go func() { _, _ = way.from.Write(sent) }()
			got := make([]byte, size)
			_ = way.to.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
	}
	if r := await(t, result); r.Reason != observe.IdleTimeout {
		t.Fatalf("result %+v", r)
	}
}
