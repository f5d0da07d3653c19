package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// ask is a request that a foreign client makes.
type ask struct {
	method, path string
	header       []string // one of "Name: value"
	body         string
}

// answer is what a foreign client says that it got. What a client cannot say stays empty.
type answer struct {
	status  string
	early   string // the Link field of a 103
	header  string // all fields, one in a line, names in lower case
	body    string
	trailer string // as header
	failure string // why there is no whole answer
}

// httpClientProgram is a foreign client with one version of HTTP.
type httpClientProgram struct {
	name     string
	ask      func(t *testing.T, p *proxy, a ask) answer
	trailers bool // it shows the trailer fields of an answer
	early    bool // it shows informational answers
}

var httpClientPrograms = []httpClientProgram{
	{"curl --http1.0, mutual TLS", curlAsks("https", "--http1.0", "1.1"), false, false},
	{"curl --http1.0 --no-alpn, mutual TLS", curlAsks("https", "--http1.0", "1.1", "--no-alpn"), false, false},
	{"curl --http1.0, plaintext", curlAsks("http", "--http1.0", "1.1"), false, false},
	{"curl --http1.1, mutual TLS", curlAsks("https", "--http1.1", "1.1"), true, true},
	{"curl --http1.1, plaintext", curlAsks("http", "--http1.1", "1.1"), true, true},
	{"curl --http2, mutual TLS", curlAsks("https", "--http2", "2"), true, true},
	{"curl --http2, plaintext", curlAsks("http", "--http2", "1.1"), true, true}, // asks to upgrade, which postern does not answer
	{"curl --http2-prior-knowledge, plaintext", curlAsks("http", "--http2-prior-knowledge", "2"), true, true},
	{"Go net/http, HTTP/1.1", goAsks(1), true, true},
	{"Go net/http, HTTP/2", goAsks(2), true, true},
	{"Python httpx, HTTP/1.1", httpxAsks("1"), false, false},
	{"Python httpx, HTTP/2", httpxAsks("2"), false, false},
	{"nghttp", nghttpAsks, true, true},
}

func TestForeignClientsGetTheirAnswers(t *testing.T) {
	app := startApp(t)
	for _, cluster := range []string{"http1", "h2c"} {
		p := startProxy(t, app, "protocol: "+cluster)
		for _, client := range httpClientPrograms {
			t.Run(client.name+", upstream "+cluster, func(t *testing.T) {
				client.try(t, p, map[string]string{"http1": "HTTP/1.1", "h2c": "HTTP/2.0"}[cluster])
			})
		}
	}
}

// try makes one request of each kind. The application must get them by protocol.
func (c httpClientProgram) try(t *testing.T, p *proxy, protocol string) {
	body := strings.Repeat("a body of some length. ", 1000)
	sum := sha256.Sum256([]byte(body))
	large := strings.Repeat("x", 30<<10)
	for _, want := range []struct {
		ask
		answer
	}{
		{ask{method: "GET", path: "/"}, answer{status: "200", body: "hello from the service\n"}},
		{ask{method: "GET", path: "/echo"}, answer{status: "200", header: "x-protocol: " + protocol}},
		{ask{method: "GET", path: "/echo?a=1&b=%20"}, answer{status: "200", header: "x-target: /echo?a=1&b=%20"}},
		{ask{method: "GET", path: "/echo", header: []string{"Accept: text/plain"}}, answer{status: "200", header: "x-host: orders.test"}},
		{ask{method: "POST", path: "/echo", body: body}, answer{status: "200", header: "x-method: POST", body: body}},
		{ask{method: "POST", path: "/echo"}, answer{status: "200", header: "x-method: POST"}},
		{ask{method: "HEAD", path: "/"}, answer{status: "200"}},
		{ask{method: "GET", path: "/status/204"}, answer{status: "204"}},
		{ask{method: "GET", path: "/status/304", header: []string{`If-None-Match: "v1"`}}, answer{status: "304", header: `etag: "v1"`}},
		{ask{method: "GET", path: "/status/500"}, answer{status: "500"}},
		{ask{method: "GET", path: "/drip?times=3"}, answer{status: "200", body: "tick\ntick\ntick\n"}},
		{ask{method: "POST", path: "/trailers", body: body}, answer{status: "200", body: body, trailer: "x-sum: " + hex.EncodeToString(sum[:])}},
		{ask{method: "GET", path: "/early"}, answer{status: "200", body: "after the hints\n", early: "</style.css>; rel=preload"}},
		{ask{method: "GET", path: "/large-header", header: []string{"X-Large: " + large}}, answer{status: "200", header: "x-large: " + large, body: "30720\n"}},
		{ask{method: "GET", path: "/denied"}, answer{status: "403"}},
	} {
		got := c.ask(t, p, want.ask)
		c.compare(t, want.ask, got, want.answer)
	}
}

// compare says in what an answer differs from the one that is wanted.
func (c httpClientProgram) compare(t *testing.T, a ask, got, want answer) {
	t.Helper()
	name := a.method + " " + a.path
	if got.failure != "" || got.status != want.status {
		t.Errorf("%s: status %q, want %s; %.500s", name, got.status, want.status, got.failure)
		return
	}
	if want.body != "" && got.body != want.body {
		t.Errorf("%s: body of %d bytes, want %d: %.200q", name, len(got.body), len(want.body), got.body)
	}
	empty := a.method == "HEAD" || want.status == "204" || want.status == "304"
	if empty && got.body != "" {
		t.Errorf("%s: body %q, want none", name, got.body)
	}
	if !strings.Contains(got.header, want.header) {
		t.Errorf("%s: header %.500q, want %.200q in it", name, got.header, want.header)
	}
	if c.trailers && !strings.Contains(got.trailer, want.trailer) {
		t.Errorf("%s: trailer %q, want %q", name, got.trailer, want.trailer)
	}
	if c.early && got.early != want.early {
		t.Errorf("%s: early hints %q, want %q", name, got.early, want.early)
	}
}

// curlAsks has curl dump the heads of all answers, trailers included, into a file. spoken is the version of HTTP that the answer has.
func curlAsks(scheme, version, spoken string, more ...string) func(t *testing.T, p *proxy, a ask) answer {
	return func(t *testing.T, p *proxy, a ask) answer {
		t.Helper()
		address := map[string]string{"https": p.Mutual, "http": p.Plain}[scheme]
		_, port, _ := net.SplitHostPort(address)
		dir := t.TempDir()
		heads, body := filepath.Join(dir, "heads"), filepath.Join(dir, "body")
		args := []string{version, "--silent", "--show-error", "--max-time", "20", "--dump-header", heads, "--output", body, "--write-out", "%{http_version}", "--cacert", p.SVID.Bundle, "--cert", p.SVID.SVID,
			"--key", p.SVID.Key, "--resolve", "orders.test:" + port + ":127.0.0.1", "--noproxy", "*", scheme + "://orders.test:" + port + a.path}
		args = append(args, more...)
		for _, field := range a.header {
			args = append(args, "--header", field)
		}
		switch a.method {
		case "HEAD":
			args = append(args, "--head")
		case "POST":
			file := filepath.Join(dir, "posted")
			write(t, file, a.body)
			args = append(args, "--data-binary", "@"+file, "--header", "Content-Type: text/plain")
		}
		if out, err := output(t, need(t, "curl"), args...); err != nil || out != spoken {
			return answer{failure: fmt.Sprintf("%v: %s", err, out)}
		}
		return readHeads(read(t, heads), strings.TrimPrefix(read(t, body), read(t, heads))) // with --head the output has the head again
	}
}

var head = regexp.MustCompile(`(?s)HTTP/[0-9.]+ ([0-9]{3})[^\r\n]*\r\n(.*?)\r\n\r\n(.*)`)

// readHeads reads what curl dumps: the heads of informational answers, that of the answer, and its trailer.
func readHeads(text, body string) answer {
	got := answer{body: body}
	for {
		found := head.FindStringSubmatch(text)
		if found == nil {
			got.trailer = lowerNames(text)
			return got
		}
		if strings.HasPrefix(found[1], "1") {
			got.early = field(lowerNames(found[2]), "link")
		} else {
			got.status, got.header = found[1], lowerNames(found[2])
		}
		text = found[3]
	}
}

func lowerNames(text string) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		if name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), ":"); found {
			lines = append(lines, strings.ToLower(name)+": "+strings.TrimSpace(value))
		}
	}
	return strings.Join(lines, "\n")
}

func field(header, name string) string {
	for line := range strings.Lines(header) {
		if value, found := strings.CutPrefix(line, name+": "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func goAsks(version int) func(t *testing.T, p *proxy, a ask) answer {
	return func(t *testing.T, p *proxy, a ask) answer {
		t.Helper()
		var got answer
		ctx := httptrace.WithClientTrace(within(t, 20*time.Second), &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			got.early = header.Get("Link")
			return nil
		}})
		request, err := http.NewRequestWithContext(ctx, a.method, "https://orders.test"+a.path, strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		if a.path == "/trailers" { // this client sends trailers too
			request.Body, request.ContentLength = io.NopCloser(strings.NewReader(a.body)), -1
			request.Trailer = http.Header{"X-Mark": {"marked"}}
		}
		for _, line := range a.header {
			name, value, _ := strings.Cut(line, ": ")
			request.Header.Set(name, value)
		}
		response, err := httpClient(t, version, p.Mutual, p.SVID.tls(t)).Do(request)
		if err != nil {
			return answer{failure: err.Error()}
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return answer{failure: err.Error()}
		}
		if response.ProtoMajor != version {
			return answer{failure: "spoke " + response.Proto}
		}
		if a.path == "/trailers" && response.Trailer.Get("X-Mark") != "marked" {
			t.Errorf("the request's trailer did not arrive: %v", response.Trailer)
		}
		got.status, got.body = fmt.Sprint(response.StatusCode), string(body)
		got.header, got.trailer = lines(response.Header), lines(response.Trailer)
		return got
	}
}

func lines(header http.Header) string {
	var text bytes.Buffer
	_ = header.Write(&text)
	return lowerNames(text.String())
}

func httpxAsks(version string) func(t *testing.T, p *proxy, a ask) answer {
	return func(t *testing.T, p *proxy, a ask) answer {
		t.Helper()
		dir := t.TempDir()
		file := filepath.Join(dir, "posted")
		write(t, file, a.body)
		args := append([]string{"testdata/ask.py", version, p.Mutual, p.SVID.SVID, p.SVID.Key, p.SVID.Bundle, a.method, a.path, file, filepath.Join(dir, "heads"), filepath.Join(dir, "body")}, a.header...)
		if out, err := output(t, python(t), args...); err != nil {
			return answer{failure: fmt.Sprintf("%v: %s", err, out)}
		}
		return readHeads(read(t, filepath.Join(dir, "heads")), read(t, filepath.Join(dir, "body")))
	}
}

// nghttpAsks reads the fields from nghttp's protocol of frames, which says to each the stream and the field, and the body from a run of
// its own, which does not mix them.
func nghttpAsks(t *testing.T, p *proxy, a ask) answer {
	t.Helper()
	program := need(t, "nghttp")
	args := []string{"--no-dep", "--timeout=20", "--cert=" + p.SVID.SVID, "--key=" + p.SVID.Key, "--header=:method: " + a.method, "--header=:authority: orders.test", "https://" + p.Mutual + a.path}
	if a.method == "POST" && a.body != "" {
		file := filepath.Join(t.TempDir(), "posted")
		write(t, file, a.body)
		args = append(args, "--data="+file, "--trailer=x-mark: marked")
	}
	for _, line := range a.header {
		name, value, _ := strings.Cut(line, ": ")
		args = append(args, "--header="+strings.ToLower(name)+": "+value)
	}
	frames, err := output(t, program, append([]string{"--null-out", "--verbose"}, args...)...)
	if err != nil || strings.Contains(frames, "Some requests were not processed") || !strings.Contains(frames, "recv (stream_id=") {
		return answer{failure: fmt.Sprintf("%v: %s", err, frames)}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	body, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return answer{failure: err.Error()}
	}
	got := readFrames(frames)
	got.body = string(body)
	return got
}

var received = regexp.MustCompile(`recv \(stream_id=[0-9]+(?:, sensitive)?\) (:?[^:]+): (.*)`)

func readFrames(text string) (got answer) {
	status, header, inBody := "", []string{}, false
	for line := range strings.Lines(regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(text, "")) {
		if strings.Contains(line, "recv DATA frame") {
			inBody = true
		}
		found := received.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		switch {
		case found == nil:
		case found[1] == ":status":
			if strings.HasPrefix(status, "1") {
				got.early, header = field(strings.Join(header, "\n"), "link"), nil
			}
			status = found[2]
		case inBody:
			got.trailer += found[1] + ": " + found[2] + "\n"
		default:
			header = append(header, found[1]+": "+found[2])
		}
	}
	got.status, got.header = status, strings.Join(header, "\n")
	return got
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) { // a client that writes no body makes no file
		t.Fatal(err)
	}
	return string(text)
}

// h2load has no client certificate.
func TestH2loadGetsEveryAnswer(t *testing.T) {
	const requests = 20_000
	for _, cluster := range []string{"http1", "h2c"} {
		t.Run("upstream "+cluster, func(t *testing.T) {
			p := startProxy(t, startApp(t), "protocol: "+cluster)
			out, err := output(t, need(t, "h2load"), fmt.Sprintf("--requests=%d", requests), "--clients=8", "--max-concurrent-streams=20", "https://"+p.Server+"/")
			if err != nil || !strings.Contains(out, fmt.Sprintf("%d succeeded, 0 failed", requests)) || !strings.Contains(out, fmt.Sprintf("status codes: %d 2xx", requests)) || !strings.Contains(out, "Application protocol: h2") {
				t.Errorf("%v\n%s", err, out)
			}
			t.Log(regexp.MustCompile(`finished in .*`).FindString(out))
		})
	}
}
