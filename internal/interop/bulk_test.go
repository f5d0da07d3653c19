package interop

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	mib = 1 << 20
	// pythonShare is how much smaller the bodies of Python clients are, which take a second for what others do in a tenth.
	pythonShare = 8
	// allowedGrowth of the proxy's memory while bodies wait for a slow reader.
	allowedGrowth = 24 * mib
	// allowedPerConnection is what each of many connections may cost beside that.
	allowedPerConnection = mib
)

// bulk is the size of a large body: 256 MiB, or POSTERN_BULK in MiB.
func bulk(t *testing.T) int64 {
	t.Helper()
	size := int64(256)
	if text := os.Getenv("POSTERN_BULK"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("POSTERN_BULK is not a number of MiB: %v", err)
		}
	}
	return size * mib
}

// A bulkClient downloads or uploads size bytes of the pattern by mutual TLS and returns the checksum of what arrived.
type bulkClient struct {
	name  string
	share int64 // the size is divided by it
	down  func(t *testing.T, p *proxy, version int, size int64) string
	up    func(t *testing.T, p *proxy, version int, size int64) string
}

var bulkClients = []bulkClient{
	{"curl", 1, curlDown, curlUp},
	{"Go", 1, goDown, goUp},
	{"Python httpx", pythonShare, pythonTransfer("down"), pythonTransfer("up")},
}

func TestLargeBodiesArriveWhole(t *testing.T) {
	app := startApp(t)
	for _, cluster := range []string{"http1", "h2c"} {
		p := startProxy(t, app, "protocol: "+cluster)
		for _, client := range bulkClients {
			for _, version := range []int{1, 2} {
				size := bulk(t) / client.share
				want, err := sumOf(io.LimitReader(pattern(), size))
				if err != nil {
					t.Fatal(err)
				}
				for direction, transfer := range map[string]func(*testing.T, *proxy, int, int64) string{"down": client.down, "up": client.up} {
					t.Run(fmt.Sprintf("%s, %s, HTTP/%d, upstream %s", client.name, direction, version, cluster), func(t *testing.T) {
						start, grown := time.Now(), p.watchMemory(t)
						got := transfer(t, p, version, size)
						if got != want {
							t.Errorf("checksum %q, want %q", got, want)
						}
						t.Logf("%d MiB, %.0f MiB/s, memory of postern grew by %.1f MiB", size/mib, float64(size)/mib/time.Since(start).Seconds(), float64(grown())/mib)
					})
				}
			}
		}
	}
}

// The same through two proxies, with HTTP/2 between them.
func TestLargeBodiesArriveWholeThroughAPair(t *testing.T) {
	back := startProxy(t, startApp(t), "protocol: h2c")
	pair := startFront(t, back, "h2")
	size := bulk(t)
	want, err := sumOf(io.LimitReader(pattern(), size))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int{1, 2} {
		client := httpClient(t, version, pair.Plain, nil)
		if got := download(t, client, "http://orders.test", size, 0); got != want {
			t.Errorf("HTTP/%d: downloaded %q, want %q", version, got, want)
		}
		if got := upload(t, client, "http://orders.test", size, 0); got != want {
			t.Errorf("HTTP/%d: uploaded %q, want %q", version, got, want)
		}
	}
}

func curlDown(t *testing.T, p *proxy, version int, size int64) string {
	t.Helper()
	command := curl(t, p, version, "/down?bytes="+strconv.FormatInt(size, 10), "--silent", "--show-error")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	sum, err := sumOf(out)
	if err := command.Wait(); err != nil {
		t.Errorf("curl: %v", err)
	}
	if err != nil {
		t.Errorf("read from curl: %v", err)
	}
	return sum
}

func curlUp(t *testing.T, p *proxy, version int, size int64) string {
	t.Helper()
	command := curl(t, p, version, "/up", "--silent", "--show-error", "--upload-file", "-")
	command.Stdin = io.LimitReader(pattern(), size)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("curl: %v", err)
	}
	return string(out)
}

// curl is a command that calls the listener with mutual TLS.
func curl(t *testing.T, p *proxy, version int, path string, args ...string) *exec.Cmd {
	t.Helper()
	_, port, _ := net.SplitHostPort(p.Mutual)
	protocol := map[int]string{1: "--http1.1", 2: "--http2"}[version]
	return exec.CommandContext(t.Context(), need(t, "curl"), append([]string{protocol, "--cacert", p.SVID.Bundle, "--cert", p.SVID.SVID, "--key", p.SVID.Key,
		"--resolve", "orders.test:" + port + ":127.0.0.1", "https://orders.test:" + port + path}, args...)...)
}

func goDown(t *testing.T, p *proxy, version int, size int64) string {
	t.Helper()
	return download(t, httpClient(t, version, p.Mutual, p.SVID.tls(t)), "https://orders.test", size, 0)
}

func goUp(t *testing.T, p *proxy, version int, size int64) string {
	t.Helper()
	return upload(t, httpClient(t, version, p.Mutual, p.SVID.tls(t)), "https://orders.test", size, 0)
}

func pythonTransfer(direction string) func(t *testing.T, p *proxy, version int, size int64) string {
	return func(t *testing.T, p *proxy, version int, size int64) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), python(t), "testdata/bulk.py", direction, strconv.Itoa(version), p.Mutual, strconv.FormatInt(size, 10), p.SVID.SVID, p.SVID.Key, p.SVID.Bundle)
		command.Stderr = os.Stderr
		out, err := command.Output()
		if err != nil {
			t.Errorf("bulk.py: %v", err)
		}
		return strings.TrimSpace(string(out))
	}
}

// download returns the checksum of a body of the pattern, read at rate bytes in a second for ten seconds and then as fast as it comes.
func download(t *testing.T, client *http.Client, url string, size int64, rate int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("%s/down?bytes=%d", url, size), nil)
	if err != nil {
		return err.Error()
	}
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	sum, err := sumOf(slowly(t.Context(), response.Body, rate))
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Sprintf("of status %d, error %v", response.StatusCode, err)
	}
	return sum
}

// upload returns the checksum that the application took of the body. rate is how fast it reads for ten seconds; 0: as fast as it can.
func upload(t *testing.T, client *http.Client, url string, size int64, rate int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("%s/up?rate=%d", url, rate), io.LimitReader(pattern(), size))
	if err != nil {
		t.Error(err)
		return ""
	}
	request.ContentLength = size
	response, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Sprintf("of status %d, error %v, body %.200q", response.StatusCode, err, body)
	}
	return string(body)
}

func TestSlowReadersCostNoMemory(t *testing.T) {
	const size, rate = 64 * mib, mib
	app := startApp(t)
	want, err := sumOf(io.LimitReader(pattern(), size))
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []string{"http1", "h2c"} {
		for _, version := range []int{1, 2} {
			for direction, transfer := range map[string]func(*testing.T, *http.Client, string, int64, int) string{"download": download, "upload": upload} {
				t.Run(fmt.Sprintf("%s, HTTP/%d, upstream %s", direction, version, cluster), func(t *testing.T) {
					t.Parallel()
					p := startProxy(t, app, "protocol: "+cluster)
					client := readsSlowly(httpClient(t, version, p.Mutual, p.SVID.tls(t)))
					transfer(t, client, "https://orders.test", size, 0) // what the process needs once is not counted
					grown := p.watchMemory(t)
					if got := transfer(t, client, "https://orders.test", size, rate); got != want {
						t.Errorf("checksum %q, want %q", got, want)
					}
					wantGrowth(t, grown(), allowedGrowth)
				})
			}
		}
	}
}

func TestFiftySlowReadersAtOnceCostNoMemory(t *testing.T) {
	const readers, size, rate = 50, 8 * mib, 512 << 10
	app := startApp(t)
	want, err := sumOf(io.LimitReader(pattern(), size))
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []string{"http1", "h2c"} {
		for version, connections := range map[int]int64{1: readers, 2: 1} {
			t.Run(fmt.Sprintf("HTTP/%d, upstream %s", version, cluster), func(t *testing.T) {
				t.Parallel()
				p := startProxy(t, app, "protocol: "+cluster)
				client := readsSlowly(httpClient(t, version, p.Mutual, p.SVID.tls(t)))
				download(t, client, "https://orders.test", size, 0)
				grown := p.watchMemory(t)
				var reading sync.WaitGroup
				for range readers {
					reading.Go(func() {
						if got := download(t, client, "https://orders.test", size, rate); got != want {
							t.Errorf("checksum %q, want %q", got, want)
						}
					})
				}
				reading.Wait()
				wantGrowth(t, grown(), allowedGrowth+connections*allowedPerConnection)
			})
		}
	}
}

func wantGrowth(t *testing.T, grown, allowed int64) {
	t.Helper()
	t.Logf("memory of postern grew by %.1f MiB", float64(grown)/mib)
	if grown >= allowed {
		t.Errorf("memory of postern grew by %.1f MiB, want less than %d", float64(grown)/mib, allowed/mib)
	}
}

// pattern is an endless body in which every eight bytes are their own place, so that nothing can be lost, doubled or moved unseen.
// testdata/bulk.py makes the same.
func pattern() io.Reader { return &places{} }

type places struct {
	at   uint64 // of the next block
	rest []byte // of the block before
}

func (p *places) Read(b []byte) (int, error) {
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	for ; len(b)-n >= 8; n += 8 {
		binary.BigEndian.PutUint64(b[n:], p.at)
		p.at++
	}
	if n == 0 && len(b) > 0 {
		p.rest = binary.BigEndian.AppendUint64(nil, p.at)
		p.at++
		return p.Read(b)
	}
	return n, nil
}

func sumOf(r io.Reader) (string, error) {
	sum := sha256.New()
	_, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, make([]byte, 128<<10))
	return hex.EncodeToString(sum.Sum(nil)), err
}

// slowly reads from r at rate bytes in a second for ten seconds, and then as fast as it can. With rate 0 it is r.
func slowly(ctx context.Context, r io.Reader, rate int) io.Reader {
	if rate == 0 {
		return r
	}
	return &slowReader{ctx, r, rate / 20, time.Now().Add(10 * time.Second)}
}

type slowReader struct {
	ctx   context.Context //nolint:containedctx // it bounds one request's body
	from  io.Reader
	step  int // read every 50 ms
	until time.Time
}

func (s *slowReader) Read(b []byte) (int, error) {
	if time.Now().After(s.until) {
		return s.from.Read(b)
	}
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(50 * time.Millisecond):
	}
	n, err := io.ReadFull(s.from, b[:min(len(b), s.step)]) // one read would be one TLS record at most
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
