package interop

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455, Section 1.3
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// webSocketWay is a way from a client to the application's WebSocket.
type webSocketWay struct {
	name    string
	url     string
	client  *http.Client // nil: the library's own
	address string       // and
	svid    *chain       // TLS, for clients that are processes; no address: none of them speaks what this way needs
}

func webSocketWays(t *testing.T, app string) []webSocketWay {
	t.Helper()
	back := startProxy(t, app, "protocol: http1")
	pair, old := startFront(t, back, "h2"), startFront(t, back, "http1")
	const secure, plain = "wss://orders.test/ws", "ws://orders.test/ws"
	overHTTP2 := func(address string, config *tls.Config) *http.Client {
		return &http.Client{Transport: newExtended(t, address, config)}
	}
	return []webSocketWay{
		{"no proxy", plain, httpClient(t, 1, app, nil), app, nil},
		{"HTTP/1.1 with mutual TLS", secure, httpClient(t, 1, back.Mutual, back.SVID.tls(t)), back.Mutual, &back.SVID},
		{"HTTP/1.1 in plaintext", plain, httpClient(t, 1, back.Plain, nil), back.Plain, nil},
		{"HTTP/2 with mutual TLS", secure, overHTTP2(back.Mutual, back.SVID.tls(t, "h2")), "", nil},
		{"HTTP/2 in plaintext", plain, overHTTP2(back.Plain, nil), "", nil},
		{"HTTP/1.1, and a pair with HTTP/1.1 between", plain, httpClient(t, 1, old.Plain, nil), old.Plain, nil},
		{"HTTP/1.1, and a pair with HTTP/2 between", plain, httpClient(t, 1, pair.Plain, nil), pair.Plain, nil},
		{"HTTP/2, and a pair with HTTP/2 between", plain, overHTTP2(pair.Plain, nil), "", nil},
	}
}

func TestWebSocketsOfForeignLibraries(t *testing.T) {
	for server, start := range map[string]func(*testing.T) string{"Go": startApp, "Python": startPythonWebSocket} {
		for _, way := range webSocketWays(t, start(t)) {
			t.Run(fmt.Sprintf("Go client, %s server, %s", server, way.name), func(t *testing.T) { converse(t, way) })
			if way.address == "" {
				continue
			}
			t.Run(fmt.Sprintf("Python client, %s server, %s", server, way.name), func(t *testing.T) {
				args := []string{"testdata/websocket_client.py", way.address}
				if way.svid != nil {
					args = append(args, way.svid.SVID, way.svid.Key, way.svid.Bundle)
				}
				if out, err := output(t, python(t), args...); err != nil || !strings.Contains(out, "everything was as it should be") {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

func startPythonWebSocket(t *testing.T) string {
	t.Helper()
	address := freeAddress(t)
	server := exec.CommandContext(t.Context(), python(t), "testdata/websocket_server.py", address)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	waitFor(t, address)
	return address
}

func (w webSocketWay) dial(t *testing.T) (*websocket.Conn, error) {
	t.Helper()
	conn, response, err := websocket.Dial( //nolint:bodyclose // the library does it
		within(t, 20*time.Second), w.url, &websocket.DialOptions{
			HTTPClient: w.client, Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		if response != nil {
			err = fmt.Errorf("%w (status %d)", err, response.StatusCode)
		}
		return nil, err
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(8 << 20)
	return conn, nil
}

// converse tries what a WebSocket can do.
func converse(t *testing.T, way webSocketWay) {
	ctx := within(t, 30*time.Second)
	conn, err := way.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	if conn.Subprotocol() != "echo" {
		t.Errorf("subprotocol %q, want echo", conn.Subprotocol())
	}
	large, _ := io.ReadAll(io.LimitReader(pattern(), mib))
	for _, message := range [][]byte{[]byte("hello"), {}, bytes.Repeat([]byte("ab"), 100), make([]byte, 70_000), large} {
		wantEcho(ctx, t, conn, websocket.MessageBinary, message)
	}
	wantEcho(ctx, t, conn, websocket.MessageText, []byte("text: ünïcode ☺"))

	fragments, err := conn.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	for part := range 16 {
		if _, err := fragments.Write(large[part<<16 : (part+1)<<16]); err != nil {
			t.Fatal(err)
		}
	}
	if err := fragments.Close(); err != nil {
		t.Fatal(err)
	}
	wantMessage(ctx, t, conn, large)

	read := make(chan []byte, 1)
	go func() { // a pong is only seen by a reader
		_, message, _ := conn.Read(ctx)
		read <- message
	}()
	for range 3 {
		if err := conn.Ping(ctx); err != nil {
			t.Errorf("ping: %v", err)
		}
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("after the pings")); err != nil {
		t.Error(err)
	}
	if got := receive(t, read, "the message after the pings"); string(got) != "after the pings" {
		t.Errorf("read %q", got)
	}

	if err := conn.Write(ctx, websocket.MessageText, []byte("close 4001 that is enough")); err != nil {
		t.Error(err)
	}
	_, _, err = conn.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4001 || closed.Reason != "that is enough" {
		t.Errorf("closed by the server with %v, want 4001 and its reason", err)
	}

	if conn, err = way.dial(t); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(websocket.StatusGoingAway, "leaving"); err != nil {
		t.Errorf("closed by the client: %v", err)
	}
}

func wantEcho(ctx context.Context, t *testing.T, conn *websocket.Conn, kind websocket.MessageType, message []byte) {
	t.Helper()
	if err := conn.Write(ctx, kind, message); err != nil {
		t.Fatalf("write %d bytes: %v", len(message), err)
	}
	wantMessage(ctx, t, conn, message)
}

func wantMessage(ctx context.Context, t *testing.T, conn *websocket.Conn, message []byte) {
	t.Helper()
	_, got, err := conn.Read(ctx)
	if err != nil || !bytes.Equal(got, message) {
		t.Fatalf("read %d bytes, want the %d that were sent; error %v", len(got), len(message), err)
	}
}

// A policy that begins to deny a WebSocket ends it, and neither the connection below it nor what else is under way there.
func TestAPolicyChangeEndsTheWebSocketAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name string
		dial func(t *testing.T, back *proxy) (way webSocketWay, other *http.Client, dials func() int64)
	}{
		{"HTTP/2 with mutual TLS", func(t *testing.T, back *proxy) (webSocketWay, *http.Client, func() int64) {
			shared := newExtended(t, back.Mutual, back.SVID.tls(t, "h2"))
			return webSocketWay{url: "wss://orders.test/ws", client: &http.Client{Transport: shared}}, &http.Client{Transport: shared.transport}, shared.dials.Load
		}},
		{"a pair with HTTP/2 between", func(t *testing.T, back *proxy) (webSocketWay, *http.Client, func() int64) {
			pair := startFront(t, back, "h2")
			client := httpClient(t, 1, pair.Plain, nil)
			return webSocketWay{url: "ws://orders.test/ws", client: client}, client, func() int64 { return 1 }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			back := startProxy(t, startApp(t), "protocol: http1")
			way, other, dials := c.dial(t, back)
			conn, err := way.dial(t)
			if err != nil {
				t.Fatal(err)
			}
			ctx := within(t, 30*time.Second)
			wantEcho(ctx, t, conn, websocket.MessageText, []byte("allowed"))
			base := strings.TrimSuffix(strings.Replace(way.url, "ws", "http", 1), "/ws")
			dripping, ticked := make(chan string, 1), make(chan struct{})
			go func() { dripping <- dripThrough(ctx, other, base, ticked) }()
			receive(t, ticked, "the first tick of the other request")

			start := time.Now()
			back.edit(t, "paths: [/denied,", "paths: [/ws, /denied,")
			if _, _, err := conn.Read(within(t, 5*time.Second)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the WebSocket was not cut: %v", err)
			}
			t.Logf("cut %v after the reload began", time.Since(start).Round(time.Millisecond))
			if _, err := way.dial(t); err == nil || !strings.Contains(err.Error(), "403") {
				t.Errorf("another WebSocket: %v, want 403", err)
			}
			if got := receive(t, dripping, "the other request"); got != "60 ticks" {
				t.Errorf("the other request: %s, want 60 ticks", got)
			}
			if n := dials(); n != 1 {
				t.Errorf("the client needed %d connections, want 1", n)
			}
		})
	}
}

// dripThrough takes 60 ticks, which are 3s, closes ticked at the first, and says what came.
func dripThrough(ctx context.Context, client *http.Client, base string, ticked chan<- struct{}) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/drip?times=60", nil)
	if err != nil {
		return err.Error()
	}
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	first := make([]byte, 5)
	if _, err := io.ReadFull(response.Body, first); err != nil {
		return err.Error()
	}
	close(ticked)
	rest, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Sprintf("%d ticks, then %v", 1+bytes.Count(rest, []byte("tick")), err)
	}
	return fmt.Sprintf("%d ticks", 1+bytes.Count(rest, []byte("tick")))
}

// extended gives a library that knows only HTTP/1.1's upgrade a WebSocket over HTTP/2: it sends the extended CONNECT of RFC 8441 and
// answers as an HTTP/1.1 server would. net/http's client does not speak that.
type extended struct {
	transport *http2.Transport //nolint:staticcheck // deprecated for everything but this
	dials     atomic.Int64
}

func newExtended(t *testing.T, address string, config *tls.Config) *extended {
	t.Helper()
	e := &extended{}
	e.transport = &http2.Transport{AllowHTTP: config == nil, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) { //nolint:staticcheck // as above
		e.dials.Add(1)
		if config == nil {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}}
	t.Cleanup(e.transport.CloseIdleConnections) //nolint:staticcheck // as above
	return e
}

func (e *extended) RoundTrip(r *http.Request) (*http.Response, error) {
	body, input := io.Pipe()
	connect := &http.Request{Method: http.MethodConnect, URL: r.URL, Host: r.URL.Host, Header: r.Header.Clone(), Body: body}
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Key"} {
		connect.Header.Del(name)
	}
	connect.Header[":protocol"] = []string{"websocket"}
	response, err := e.transport.RoundTrip(connect.WithContext(context.WithoutCancel(r.Context()))) //nolint:staticcheck // as above
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455, Section 1.3
	response.StatusCode = http.StatusSwitchingProtocols
	response.Header.Set("Connection", "Upgrade")
	response.Header.Set("Upgrade", "websocket")
	response.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	response.Body = &duplexBody{response.Body, input}
	return response, nil
}

type duplexBody struct {
	io.ReadCloser
	input *io.PipeWriter
}

func (d *duplexBody) Write(b []byte) (int, error) { return d.input.Write(b) }

func (d *duplexBody) Close() error { return errors.Join(d.input.Close(), d.ReadCloser.Close()) }
