package l4

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/testkit"
)

// BenchmarkSplice measures the processor time of a process that does nothing but splice, in seconds per GB, beside one in which
// io.Copy does the same. The ratio of the two is what to look at.
func BenchmarkSplice(b *testing.B) {
	for _, downstream := range []string{"plain", "tls"} {
		for _, way := range []string{"up", "down"} {
			for _, engine := range []string{"io.Copy", "postern"} {
				b.Run(downstream+"-plain/"+way+"/"+engine, func(b *testing.B) { benchmarkSplice(b, downstream, way, engine) })
			}
		}
	}
}

const benchVariable = "POSTERN_BENCH_SPLICE"

func benchmarkSplice(b *testing.B, downstream, way, engine string) {
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	child := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestSplicingProcess$", "-test.v")
	child.Env = append(os.Environ(), benchVariable+"="+strings.Join([]string{downstream, engine, sink.Addr().String()}, " "))
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	var address string
	lines := bufio.NewScanner(out)
	for address == "" && lines.Scan() {
		_, _ = fmt.Sscanf(lines.Text(), "splicing at %s", &address)
	}
	var client net.Conn
	if downstream == "tls" {
		client, err = tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	} else {
		client, err = net.Dial("tcp", address)
	}
	if err != nil {
		b.Fatal(err)
	}
	server, err := sink.Accept()
	if err != nil {
		b.Fatal(err)
	}
	from, to := client, server
	if way == "down" {
		from, to = server, client
	}
	const piece = 1 << 20
	b.SetBytes(piece)
	b.ResetTimer()
	go func() {
		chunk := make([]byte, piece)
		for range b.N {
			_, _ = from.Write(chunk)
		}
		_ = from.(interface{ CloseWrite() error }).CloseWrite()
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, 256<<10))
	if err != nil || n != int64(b.N)*piece {
		b.Fatalf("%d of %d bytes, %v", n, int64(b.N)*piece, err)
	}
	b.StopTimer()
	_, _ = client.Close(), server.Close()
	_, _ = io.Copy(io.Discard, out)
	if err := child.Wait(); err != nil {
		b.Fatal(err)
	}
	cpu := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	b.ReportMetric(cpu.Seconds()/float64(n)*1e9, "cpu-s/GB")
}

// TestSplicingProcess is no test: it is the process whose time the benchmark measures, and otherwise nothing.
func TestSplicingProcess(t *testing.T) {
	var downstream, engine, upstream string
	if _, err := fmt.Sscan(os.Getenv(benchVariable), &downstream, &engine, &upstream); err != nil {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	fmt.Printf("splicing at %s\n", l.Addr())
	down, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client := down.(Stream)
	if downstream == "tls" {
		ca := testkit.NewCA(t, "example.org")
		session, err := newServer(t, ca).Handshake(t.Context(), down)
		if err != nil {
			t.Fatal(err)
		}
		client = session
		if engine == "io.Copy" {
			client = session.Conn // as the standard library does it
		}
	}
	up, err := net.Dial("tcp", upstream)
	if err != nil {
		t.Fatal(err)
	}
	if engine == "postern" {
		Splice(t.Context(), client, up.(Stream), Options{Idle: time.Minute})
		return
	}
	var both sync.WaitGroup
	copyHalf := func(dst, src Stream) { _, _ = io.Copy(dst, src); _ = dst.CloseWrite() }
	both.Go(func() { copyHalf(client, up.(Stream)) })
	copyHalf(up.(Stream), client)
	both.Wait()
	_, _ = client.Close(), up.Close()
}
