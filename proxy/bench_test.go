package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkRequest is one kept-alive request over mutual TLS, judged, forwarded to an upstream that answers at once, and logged.
func BenchmarkRequest(b *testing.B) {
	w := newWorld(b)
	w.apply("%s", w.sidecar(w.tcpService(func(conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		}
	}), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	r := bufio.NewReader(conn)
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, conn, r)
	}
}
