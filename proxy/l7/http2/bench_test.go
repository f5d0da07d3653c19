package http2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"

	"github.com/postern-proxy/postern/proxy/l7"
)

// load is a client that sends prepared requests, so many streams at once, and reads what comes, with as little work as can be.
type load struct {
	conn    *net.TCPConn
	heads   []byte // of one batch, whose stream identifiers are put in
	one     int    // the length of one
	streams int
	next    uint32
	buf     []byte
	fill    int
}

func newLoad(b *testing.B, address string, streams int) *load {
	b.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	p := newPeer(b, conn.(*net.TCPConn))
	_ = conn.SetDeadline(time.Time{})
	block := p.fields(request("GET", "/api/v1/users/42/orders?page=2", "user-agent: curl/8.5.0", "accept: */*",
		"authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789", "x-forwarded-for: 203.0.113.7")...)
	p.write(preface)
	p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1 << 20}))
	p.do(p.framer.WriteWindowUpdate(0, 1<<30))
	p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true}))
	p.response(1)
	// From now on everything but the secret is in the table; send the same again and again.
	block = p.fields(request("GET", "/api/v1/users/42/orders?page=2", "user-agent: curl/8.5.0", "accept: */*",
		"authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789", "x-forwarded-for: 203.0.113.7")...)
	var heads []byte
	for range streams {
		heads = append(appendFrameHead(heads, len(block), frameHeaders, flagEndHeaders|flagEndStream, 0), block...)
	}
	return &load{conn: conn.(*net.TCPConn), heads: heads, one: frameHead + len(block), streams: streams, next: 3, buf: make([]byte, 64<<10)}
}

// batch sends a request on each stream and reads all responses.
func (l *load) batch() error {
	for i := range l.streams {
		binary.BigEndian.PutUint32(l.heads[i*l.one+5:], l.next)
		l.next += 2
	}
	if _, err := l.conn.Write(l.heads); err != nil {
		return err
	}
	if l.next%(1<<16) < uint32(2*l.streams) {
		if _, err := l.conn.Write(appendWindowUpdate(nil, 0, 32<<20)); err != nil {
			return err
		}
	}
	for left := l.streams; left > 0; {
		f, need, err := parseFrame(l.buf[:l.fill])
		if err != nil {
			return err
		}
		if need > 0 {
			n, err := l.conn.Read(l.buf[l.fill:])
			if err != nil {
				return err
			}
			l.fill += n
			continue
		}
		if (f.kind == frameData || f.kind == frameHeaders) && f.has(flagEndStream) {
			left--
		}
		if f.kind == frameGoAway || f.kind == frameRSTStream {
			return fmt.Errorf("frame %+v", f)
		}
		l.fill = copy(l.buf, l.buf[frameHead+len(f.payload):l.fill])
	}
	return nil
}

// BenchmarkServer16x10 is 16 connections with 10 streams each that get 1 KiB.
func BenchmarkServer16x10(b *testing.B) {
	content := fill(1024)
	s := startServer(b, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		resp := &l7.Response{Status: 200, ContentLength: 1024, Body: l7.NewStringBody(content)}
		_ = ex.WriteResponse(resp)
	})})
	runLoad(b, s.address, 16, 10)
}

// BenchmarkProxy4x100 is the engine on both sides, in front of itself.
func BenchmarkProxy4x100(b *testing.B) {
	content := fill(1024)
	up := startServer(b, ServerOptions{Limits: Limits{MaxStreams: 1000}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: 1024, Body: l7.NewStringBody(content)})
	})})
	s := startServer(b, ServerOptions{Handler: newProxy(b, up.address, ClientOptions{Limits: Limits{MaxStreams: 1000}})})
	runLoad(b, s.address, 4, 100)
}

func runLoad(b *testing.B, address string, conns, streams int) {
	loads := make([]*load, conns)
	for i := range loads {
		loads[i] = newLoad(b, address, streams)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before, written := processTime(), writes.Load()
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() {
			for range (b.N + conns*streams - 1) / (conns * streams) {
				if err := l.batch(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	b.ReportMetric(float64(processTime()-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(writes.Load()-written)/float64(b.N), "writes/op")
}

// processTime is the processor time that the process has used: on a machine that others use, too, the one figure that means
// something.
func processTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// writes counts those of all engines in the benchmarks.
var writes atomic.Int64

type countedStream struct{ *net.TCPConn }

func (c *countedStream) Write(p []byte) (int, error) {
	writes.Add(1)
	return c.TCPConn.Write(p)
}

func BenchmarkDownload(b *testing.B) {
	content := fill(1 << 20)
	s := startServer(b, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: 1 << 20, Body: &readerBody{r: strings.NewReader(content)}})
	})})
	l := newLoad(b, s.address, 1)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.conn.Write(appendWindowUpdate(nil, 0, 1<<20)); err != nil {
			b.Fatal(err)
		}
		if err := l.batch(); err != nil {
			b.Fatal(err)
		}
	}
}

// readerBody is a body that cannot say what is at hand.
type readerBody struct {
	r       io.Reader
	trailer *l7.Header
	closed  sync.Once
	onClose func()
}

func (r *readerBody) Read(p []byte) (int, error) { return r.r.Read(p) }
func (r *readerBody) Trailer() *l7.Header        { return r.trailer }
func (r *readerBody) Close() error {
	r.closed.Do(func() {
		if r.onClose != nil {
			r.onClose()
		}
	})
	return nil
}

func BenchmarkFieldBlock(b *testing.B) {
	var r l7.Request
	r.Method, r.Scheme, r.Authority, r.Path = "GET", "https", "orders.example.org", "/api/v1/users/42/orders"
	r.Header.Add("user-agent", "curl/8.5.0")
	r.Header.Add("accept", "*/*")
	r.Header.Add("authorization", "Bearer abcdefghijklmnopqrstuvwxyz0123456789")
	out := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		out = appendRequest(out[:0], &r)
	}
}
