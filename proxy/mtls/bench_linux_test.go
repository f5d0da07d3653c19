package mtls

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/testkit"
)

// cpuSeconds is the CPU time of the process, or of the calling thread.
func cpuSeconds(who int) float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(who, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// BenchmarkHandshake is both sides of a mutual handshake with a byte from the server, dialling included: of a client that is not
// known, of one whose chain was verified before, and of one that resumes its session. The server alone is timed beside it.
func BenchmarkHandshake(b *testing.B) {
	ca := testkit.NewCA(b, "example.org")
	orders, web := holder(b, ca, leafOf(b, ca, "/orders")), holder(b, ca, leafOf(b, ca, "/web"))
	for _, kind := range []string{"unknown", "known", "resumed"} {
		b.Run(kind, func(b *testing.B) {
			s := NewServer(ServerOptions{Credentials: orders, Mutual: true})
			c := NewClient(ClientOptions{Credentials: web, Mutual: true, Expect: anybody})
			v := newVenue(b)
			b.ReportAllocs()
			began := cpuSeconds(syscall.RUSAGE_SELF)
			var server float64
			for b.Loop() {
				near, far := v.link()
				done := make(chan error, 1)
				go func() {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					began := cpuSeconds(syscall.RUSAGE_THREAD)
					conn, err := s.Handshake(b.Context(), near)
					if err == nil {
						_, err = io.WriteString(conn, "x")
					}
					server += cpuSeconds(syscall.RUSAGE_THREAD) - began
					done <- err
				}()
				client, err := c.Handshake(b.Context(), far, "orders.test")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := client.Read(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				_, _ = near.Close(), far.Close()
				if kind == "resumed" {
					continue
				}
				e, _ := c.epochs.get()
				e.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				if kind == "unknown" {
					e.chains = newChains(1)
					if e, _ = s.epochs.get(); e != nil {
						e.chains = newChains(1)
					}
				}
			}
			b.ReportMetric((cpuSeconds(syscall.RUSAGE_SELF)-began)*1e6/float64(b.N), "cpu-µs/op")
			b.ReportMetric(server*1e6/float64(b.N), "server-µs/op")
		})
	}
}

// BenchmarkIdle reports the heap that an idle pair of connections holds, both ends together, after a small message each way.
func BenchmarkIdle(b *testing.B) {
	ca := testkit.NewCA(b, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(b, ca, leafOf(b, ca, "/orders")), Mutual: true})
	c := NewClient(ClientOptions{Credentials: holder(b, ca, leafOf(b, ca, "/web")), Mutual: true, Expect: anybody})
	v := newVenue(b)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var kept []*Conn
	for range b.N {
		server, client, serverErr, clientErr := v.meet(s, c, "orders.test")
		if serverErr != nil || clientErr != nil {
			b.Fatal(serverErr, clientErr)
		}
		kept = append(kept, server, client)
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "heap-B/pair")
	runtime.KeepAlive(kept)
}

// BenchmarkBulk moves bytes between TLS and plain TCP as a proxy does, and counts the CPU time of the proxy's thread alone. "stock"
// is crypto/tls with copies of 32 KiB, "bulk" is Bulk with copies of 256 KiB.
func BenchmarkBulk(b *testing.B) {
	for _, way := range []string{"down", "up"} {
		for _, kind := range []string{"stock", "bulk"} {
			b.Run(way+"/"+kind, func(b *testing.B) { benchmarkBulk(b, way == "down", kind == "bulk") })
		}
	}
}

func benchmarkBulk(b *testing.B, down, bulk bool) {
	const chunk = 256 << 10
	proxied, peer := pair(b)
	plain, far := newVenue(b).link()
	var secure net.Conn = proxied.Conn
	size := 32 << 10
	if bulk {
		proxied.Bulk()
		secure, size = proxied, 256<<10
	}
	peer.Bulk()
	var from, to, source, sink net.Conn = plain, secure, far, peer
	if !down {
		from, to, source, sink = secure, plain, peer, far
	}
	total := int64(b.N) * chunk
	go func() {
		data := make([]byte, chunk)
		for range b.N {
			if _, err := source.Write(data); err != nil {
				return
			}
		}
	}()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		buf := make([]byte, chunk)
		for left := total; left > 0; {
			n, err := sink.Read(buf)
			if left -= int64(n); err != nil {
				return
			}
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, size)
	b.SetBytes(chunk)
	b.ResetTimer()
	began := cpuSeconds(syscall.RUSAGE_THREAD)
	for moved := int64(0); moved < total; {
		n, err := from.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			b.Fatal(err)
		}
		moved += int64(n)
	}
	used := cpuSeconds(syscall.RUSAGE_THREAD) - began
	<-drained
	b.ReportMetric(used*1e9/float64(total), "cpu-s/GB")
}
