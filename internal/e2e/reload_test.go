package e2e

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-proxy/postern/internal/admin"
)

// gateway is a plaintext listener with one route to app, without identities.
func gateway(port int, app, path, more string) string {
	return fmt.Sprintf(`version: 1
trust_domain: example.org
authority: {data_dir: data}
listeners:
- name: in
  address: 127.0.0.1:%d
  service: app
  caller: anonymous
  tls: {mode: none}
  routes:
  - {match: {path_prefix: %s}, cluster: app, allow_upgrade: [websocket]}
clusters:
- name: app
  endpoints: ["%s"]
policies:
- name: open
  service: app
  rules: [{allow: {from: [anonymous]}}]
admin: {socket: gateway.sock}
%s`, port, path, app, more)
}

// echo is a service that answers requests, and upgrades to a stream that it sends back.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(w, "hello")
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, Section 4.2.2
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

func TestReloadIsWholeOrNothingAndLeavesOtherConnectionsAlone(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	addr := strings.TrimPrefix(app.URL, "http://")
	dir, port := shortDir(t), ports(t, 1)[0]
	p := start(t, dir, "gateway", gateway(port, addr, "/", ""))
	file := filepath.Join(dir, "gateway.yaml")

	socket := openWebSocket(t, port)
	socket.say(t, "before")

	// A broken file: refused with every error and its place; what serves stays.
	write(t, file, gateway(port, addr, "/", "lisseners: []\nmetrics: {listen: nowhere}\n"))
	out, code := p.postern("reload")
	if code != 2 || strings.Count(out, "gateway.yaml:") < 2 || !strings.Contains(out, `listeners`) {
		t.Errorf("exit code %d, %s", code, out)
	}
	if resp := get(t, port, "/"); resp != http.StatusOK {
		t.Errorf("after a refused reload: %d", resp)
	}
	socket.say(t, "refused")

	// A good file by signal: the route changes, the socket that was open lives on.
	write(t, file, gateway(port, addr, "/new", ""))
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.eventually("the new configuration serves", func() error {
		if a, b := get(t, port, "/new"), get(t, port, "/"); a != http.StatusOK || b != http.StatusNotFound {
			return fmt.Errorf("/new %d, / %d", a, b)
		}
		return nil
	})
	socket.say(t, "after")

	// The admin socket cannot move under a running process.
	write(t, file, strings.Replace(gateway(port, addr, "/new", ""), "gateway.sock", "other.sock", 1))
	if out, code := p.postern("reload"); code != 2 || !strings.Contains(out, "restart") {
		t.Errorf("exit code %d, %s", code, out)
	}
	var st admin.Status
	decode(t, p.must("status", "-o", "json"), &st)
	if st.Config.LastError == "" || !st.Ready {
		t.Errorf("status %+v", st.Config)
	}
}

func TestTerminationDrainsWhatIsUnderWay(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "done")
	}))
	defer app.Close()
	dir, port := shortDir(t), ports(t, 1)[0]
	p := start(t, dir, "gateway", gateway(port, strings.TrimPrefix(app.URL, "http://"), "/", ""))
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprintf("%d %s %v", resp.StatusCode, body, err)
	}()
	<-begun
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually("no new connections are taken", func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
			return fmt.Errorf("a connection was taken")
		}
		return nil
	})
	close(finish)
	if got := <-answer; got != "200 done <nil>" {
		t.Errorf("the request under way ended with %q", got)
	}
	<-p.exited
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "gateway.sock")); err == nil {
		t.Error("the admin socket was left behind")
	}
}

func get(t *testing.T, port int, path string) int {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// webSocket is an upgraded connection to echo.
type webSocket struct {
	conn net.Conn
	in   *bufio.Reader
}

func openWebSocket(t *testing.T, port int) *webSocket {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade answered with %s", resp.Status)
	}
	return &webSocket{conn: conn, in: in}
}

// say sends a line and wants it back.
func (w *webSocket) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(w.conn, line+"\n"); err != nil {
		t.Fatal(err)
	}
	if back, err := w.in.ReadString('\n'); err != nil || back != line+"\n" {
		t.Fatalf("sent %q, got %q: %v", line, back, err)
	}
}
