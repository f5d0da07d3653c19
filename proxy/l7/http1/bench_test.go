package http1

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/postern-proxy/postern/proxy/l7"
)

var benchRequest = []byte(head("GET /api/v1/users/42/orders?page=2 HTTP/1.1", "Host: orders.example.org", "User-Agent: curl/8.5.0", "Accept: */*",
	"Accept-Encoding: gzip, deflate, br", "X-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e", "Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789",
	"X-Forwarded-For: 203.0.113.7", "Connection: keep-alive"))

func BenchmarkRequestHeadParseAndRewrite(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(benchRequest)))
	var r l7.Request
	out := make([]byte, 0, 4096)
	for b.Loop() {
		if _, err := ParseRequestHead(benchRequest, &r, Limits{}); err != nil {
			b.Fatal(err)
		}
		l7.StripIdentity(&r.Header)
		r.Header.Add("x-forwarded-for", "203.0.113.7")
		out = appendRequestHead(out[:0], &r)
	}
}

func TestRequestHeadCostsNoAllocation(t *testing.T) {
	var r l7.Request
	out := make([]byte, 0, 4096)
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = ParseRequestHead(benchRequest, &r, Limits{})
		l7.StripIdentity(&r.Header)
		r.Header.Add("x-forwarded-for", "203.0.113.7")
		out = appendRequestHead(out[:0], &r)
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkResponseHead(b *testing.B) {
	raw := []byte(head("HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 1024", "Date: Mon, 02 Jan 2006 15:04:05 GMT", "Server: x", "ETag: \"abc\""))
	b.ReportAllocs()
	var r l7.Response
	for b.Loop() {
		if _, err := ParseResponseHead(raw, &r, "GET", Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExchange is a whole request through the engine, both sides, over loopback: client, proxy, upstream in one process.
func BenchmarkExchange(b *testing.B) {
	answer := []byte(head("HTTP/1.1 200 OK", "Content-Type: text/plain", "Date: Mon, 02 Jan 2006 15:04:05 GMT", "Content-Length: 1024") + string(make([]byte, 1024)))
	up := listen(b, func(conn net.Conn) {
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
	conn, err := net.Dial("tcp", up)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client := NewClient(ClientOptions{}).NewConn(conn.(*net.TCPConn))
	server := NewServer(ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		resp, err := client.RoundTrip(ctx, ex.Request(), nil)
		if err != nil {
			b.Error(err)
			return
		}
		_ = ex.WriteResponse(resp)
		_ = resp.Body.Close()
	})})
	down := listen(b, func(conn net.Conn) { server.NewConn(conn.(*net.TCPConn)).Serve(b.Context()) })
	caller, err := net.Dial("tcp", down)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = caller.Close() }()
	buf := make([]byte, 8192)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := caller.Write(benchRequest); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadAtLeast(caller, buf, 1024+100); err != nil {
			b.Fatal(err)
		}
	}
}

func listen(b *testing.B, serve func(net.Conn)) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				serve(conn)
				_ = conn.Close()
			})
		}
	})
	b.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}
