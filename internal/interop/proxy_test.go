package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inbound is an authority with a sidecar: mutual TLS in front of a plain service at APP.
const inbound = `
version: 1
trust_domain: example.org
authority: {data_dir: HOME/state}
workload_api: {socket: HOME/w.sock}
entries:
- {spiffe_id: spiffe://example.org/orders, selectors: ["postern:self"], dns_names: [orders.test]}
- {spiffe_id: spiffe://example.org/client, selectors: ["unix:uid:UID"]}
listeners:
- name: inbound
  address: LISTEN
  service: orders
  tls: {mode: mutual, identity: spiffe://example.org/orders}
  routes: [{match: {}, cluster: app}]
clusters:
- {name: app, endpoints: ["APP"]}
policies:
- name: orders
  service: orders
  rules:
  - allow: {from: ["spiffe://example.org/client"], http: {methods: [GET], paths: [/hello]}}
`

// tlsClient is a foreign TLS stack that sends one GET with its SVID and verifies the server's chain and its DNS name, orders.test.
type tlsClient struct {
	name string
	get  func(t *testing.T, address, path string, c chain) string
}

var tlsClients = []tlsClient{
	{"curl", func(t *testing.T, address, path string, c chain) string {
		_, port, _ := net.SplitHostPort(address)
		out, _ := output(t, need(t, "curl"), "--silent", "--show-error", "--include", "--http1.1", "--cacert", c.Bundle, "--cert", c.SVID, "--key", c.Key,
			"--resolve", "orders.test:"+port+":127.0.0.1", "https://orders.test:"+port+path)
		return out
	}},
	{"openssl s_client", func(t *testing.T, address, path string, c chain) string {
		return talk(t, path, need(t, "openssl"), "s_client", "-quiet", "-verify_return_error", "-verify_hostname", "orders.test", "-servername", "orders.test",
			"-CAfile", c.Bundle, "-cert", c.SVID, "-cert_chain", c.Authorities, "-key", c.Key, "-connect", address)
	}},
	{"gnutls-cli", func(t *testing.T, address, path string, c chain) string {
		host, port, _ := net.SplitHostPort(address)
		return talk(t, path, need(t, "gnutls-cli"), "--sni-hostname", "orders.test", "--verify-hostname", "orders.test", "--logfile", os.DevNull,
			"--x509cafile", c.Bundle, "--x509certfile", c.SVID, "--x509keyfile", c.Key, "--port", port, host)
	}},
	{"Python ssl", func(t *testing.T, address, path string, c chain) string {
		out, _ := output(t, python(t), "testdata/get.py", address, path, c.SVID, c.Key, c.Bundle)
		return out
	}},
}

func TestForeignTLSStacksCallThroughTheProxy(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello from the service")
	}))
	t.Cleanup(app.Close)
	address := freeAddress(t)
	p := startWith(t, fill(inbound, "LISTEN", address, "APP", app.Listener.Addr().String()))
	waitFor(t, address)
	svid, stranger := p.fetch(t), start(t).fetch(t)
	stranger.Bundle = svid.Bundle

	for _, client := range tlsClients {
		t.Run(client.name, func(t *testing.T) {
			if got := client.get(t, address, "/hello", svid); !strings.Contains(got, "HTTP/1.1 200") || !strings.Contains(got, "hello from the service") {
				t.Errorf("an allowed request:\n%s", got)
			}
			if got := client.get(t, address, "/admin", svid); !strings.Contains(got, "HTTP/1.1 403") || strings.Contains(got, "hello from the service") {
				t.Errorf("a denied request:\n%s", got)
			}
			if got := client.get(t, address, "/hello", stranger); strings.Contains(got, "HTTP/1.1") {
				t.Errorf("a caller of another authority:\n%s", got)
			}
		})
	}
}

// outbound is an authority with a sidecar that originates mutual TLS to a foreign server at APP.
const outbound = `
version: 1
trust_domain: example.org
authority: {data_dir: HOME/state}
workload_api: {socket: HOME/w.sock}
entries:
- {spiffe_id: spiffe://example.org/caller, selectors: ["postern:self"]}
- {spiffe_id: spiffe://example.org/server, selectors: ["unix:uid:UID"]}
listeners:
- name: outbound
  address: LISTEN
  tls: {mode: none}
  caller: self
  routes: [{match: {}, cluster: server}]
clusters:
- name: server
  endpoints: ["APP"]
  tls: {mode: mutual, identity: spiffe://example.org/caller, expect: ["spiffe://example.org/EXPECT"]}
`

func TestProxyCallsAForeignTLSServer(t *testing.T) {
	for expect, status := range map[string]int{"server": http.StatusOK, "another": http.StatusServiceUnavailable} {
		t.Run("expecting "+expect, func(t *testing.T) {
			listen, app := freeAddress(t), freeAddress(t)
			p := startWith(t, fill(outbound, "LISTEN", listen, "APP", app, "EXPECT", expect))
			svid := p.fetch(t)
			server := exec.CommandContext(t.Context(), python(t), "testdata/serve.py", app, svid.SVID, svid.Key, svid.Bundle)
			server.Stderr = os.Stderr
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
			waitFor(t, app)
			waitFor(t, listen)

			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listen+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != status || status == http.StatusOK && string(body) != "called by spiffe://example.org/caller" {
				t.Errorf("status %d, body %q, error %v; want status %d", response.StatusCode, body, err, status)
			}
		})
	}
}

// talk has a program that connects its standard streams to a TLS connection send a GET, and returns what comes back. Its input
// stays open until it ends, for the program would close the connection at the end of its input.
func talk(t *testing.T, path, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(input, "GET %s HTTP/1.1\r\nHost: orders.test\r\nConnection: close\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	out, _ := command.CombinedOutput()
	return string(out)
}

// fill replaces words of a configuration: fill(text, "WORD", "value", …), and UID.
func fill(text string, pairs ...string) string {
	return strings.NewReplacer(append(pairs, "UID", fmt.Sprint(os.Getuid()))...).Replace(text)
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func waitFor(t *testing.T, address string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return
		}
	}
	t.Fatalf("nobody listens on %s: %v", filepath.Base(address), err)
}
