package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// doors is an authority with a proxy that has three listeners in front of one cluster: mutual TLS, TLS without client certificate,
// and plaintext on loopback. What stands below /denied, and one gRPC method, is denied to everybody.
const doors = `
version: 1
trust_domain: example.org
authority: {data_dir: HOME/state}
workload_api: {socket: HOME/w.sock}
admin: {socket: HOME/a.sock}
access_log: {path: HOME/access.log}
entries:
- {spiffe_id: spiffe://example.org/orders, selectors: ["postern:self"], dns_names: [orders.test]}
- {spiffe_id: spiffe://example.org/client, selectors: ["unix:uid:UID"]}
timeouts: {TIMEOUTS}
limits: {max_streams: 1000}
listeners:
- name: mutual
  address: MUTUAL
  service: app
  tls: {mode: mutual, identity: spiffe://example.org/orders}
  routes: [{match: {}, cluster: app, allow_upgrade: [websocket]}]
- name: server
  address: SERVER
  service: app
  caller: anonymous
  tls: {mode: server, identity: spiffe://example.org/orders}
  routes: [{match: {}, cluster: app, allow_upgrade: [websocket]}]
- name: plain
  address: PLAIN
  service: app
  caller: anonymous
  tls: {mode: none}
  routes: [{match: {}, cluster: app, allow_upgrade: [websocket]}]
clusters:
- {name: app, endpoints: ["APP"], CLUSTER}
policies:
- name: app
  service: app
  rules:
  - allow: {from: ["spiffe://example.org/client", anonymous]}
  - deny: {http: {paths: [/denied, "/denied/{rest...}", /grpc.testing.TestService/UnimplementedCall]}}
`

// front is a proxy that has its identity from another one's Workload API and calls that other one by mutual TLS.
const front = `
version: 1
trust_domain: example.org
identity: {source: workload_api, workload_api: {socket: "BACK"}}
admin: {socket: HOME/a.sock}
access_log: {path: HOME/access.log}
timeouts: {TIMEOUTS}
limits: {max_streams: 1000}
listeners:
- name: outbound
  address: PLAIN
  caller: self
  tls: {mode: none}
  routes: [{match: {}, cluster: orders, allow_upgrade: [websocket]}]
clusters:
- name: orders
  endpoints: ["MUTUAL"]
  protocol: PROTOCOL
  tls: {mode: mutual, expect: ["spiffe://example.org/orders"]}
`

// defaultTimeouts are shorter than postern's own, so that a test can outlive them.
const defaultTimeouts = "body_idle: 5s, idle: 30s"

// proxy is a postern that runs with doors or with front.
type proxy struct {
	*process
	Mutual, Server, Plain string // addresses; front has only Plain
	SVID                  chain  // of spiffe://example.org/client
}

// startProxy runs a postern with doors before the application at an address. cluster says how it is reached, such as "protocol: h2c".
func startProxy(t *testing.T, app, cluster string) *proxy {
	t.Helper()
	free := freeAddresses(t, 3)
	p := &proxy{Mutual: free[0], Server: free[1], Plain: free[2]}
	p.process = startWith(t, fill(doors, "MUTUAL", p.Mutual, "SERVER", p.Server, "PLAIN", p.Plain, "APP", app, "CLUSTER", cluster, "TIMEOUTS", defaultTimeouts))
	p.SVID = p.fetch(t)
	p.showAccess(t)
	for _, address := range []string{p.Mutual, p.Server, p.Plain} {
		waitFor(t, address)
	}
	return p
}

// freeAddresses are different loopback addresses that nobody listens on.
func freeAddresses(t *testing.T, n int) (free []string) {
	t.Helper()
	for range n { // each stays taken until all are found
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		free = append(free, listener.Addr().String())
	}
	return free
}

// startFront runs a postern with front before another one, to which it speaks protocol, http1 or h2; what it spoke is seen at the end.
func startFront(t *testing.T, back *proxy, protocol string) *proxy {
	t.Helper()
	t.Cleanup(func() {
		log, err := os.ReadFile(filepath.Join(back.home, "access.log"))
		if spoken := map[string]string{"http1": `"protocol":"HTTP/1.1"`, "h2": `"protocol":"HTTP/2"`}[protocol]; err != nil || !strings.Contains(string(log), spoken) {
			t.Errorf("the second proxy has no record with %s: %v", spoken, err)
		}
	})
	p := &proxy{process: newProcess(t), Plain: freeAddress(t)}
	p.configure(t, fill(front, "BACK", back.Socket, "MUTUAL", back.Mutual, "PLAIN", p.Plain, "PROTOCOL", protocol, "TIMEOUTS", defaultTimeouts))
	p.launch(t, "run", "-c", filepath.Join(p.home, "postern.yaml"))
	p.waitHealthy(t)
	p.showAccess(t)
	return p
}

// showAccess shows the last requests that did not go well, should the test fail.
func (p *process) showAccess(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		log, err := os.ReadFile(filepath.Join(p.home, "access.log"))
		if !t.Failed() || err != nil {
			return
		}
		var bad []string
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, `"type":"request"`) && strings.Contains(line, `"reason":`) {
				bad = append(bad, line)
			}
		}
		t.Logf("last access records:\n%s", strings.Join(bad[max(0, len(bad)-5):], ""))
	})
}

// configure writes the configuration file, in which HOME stands for the folder of the process.
func (p *process) configure(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.home, "postern.yaml"), []byte(strings.ReplaceAll(config, "HOME", p.home)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *process) waitHealthy(t *testing.T) {
	t.Helper()
	var out string
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out, err = output(t, p.bin, "--admin-address", filepath.Join(p.home, "a.sock"), "healthcheck"); err == nil {
			return
		}
	}
	t.Fatalf("postern did not become healthy: %v\n%s", err, out)
}

// edit replaces text in the configuration and has it loaded.
func (p *process) edit(t *testing.T, old, new string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.home, "postern.yaml"))
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("the configuration has no %q: %v", old, err)
	}
	p.configure(t, strings.Replace(string(text), old, new, 1))
	t.Logf("reload: %s", p.run(t, "--admin-address", filepath.Join(p.home, "a.sock"), "reload"))
}

// tls is a client's configuration: it presents the SVID and verifies the server's chain and its DNS name, orders.test.
func (c chain) tls(t *testing.T, protocols ...string) *tls.Config {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(c.SVID, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := os.ReadFile(c.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, RootCAs: roots, ServerName: "orders.test", NextProtos: protocols}
}

// httpClient is net/http's client for one version of HTTP, 1 or 2, that reaches one address whatever the URL says. With a nil config it
// speaks plaintext.
func httpClient(t *testing.T, version int, address string, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:     config,
		Protocols:           new(http.Protocols),
		DisableCompression:  true,
		MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	transport.Protocols.SetHTTP1(version == 1)
	transport.Protocols.SetHTTP2(version == 2 && config != nil)
	transport.Protocols.SetUnencryptedHTTP2(version == 2 && config == nil)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// slowBuffer is what the kernel holds for a slow reader. It takes more from the sender when a share of that has been read; left to
// itself it holds up to net.ipv4.tcp_rmem, of which a share may be more than is read within timeouts.body_idle.
const slowBuffer = 256 << 10

// readsSlowly has the client's connections hold little that was not read.
func readsSlowly(client *http.Client) *http.Client {
	transport := client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(slowBuffer)
		}
		return conn, err
	}
	return client
}

// rss is the resident memory of a process, in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				break
			}
			return kib << 10
		}
	}
	t.Errorf("no VmRSS in:\n%s", status)
	return 0
}

// pid finds the process by its working directory, which is its own.
func (p *process) pid(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && dir == p.home {
			if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("no process runs in %s", p.home)
	return 0
}

// watchMemory samples the resident memory of the process. The returned function ends that and returns how much it grew at most.
func (p *process) watchMemory(t *testing.T) func() int64 {
	t.Helper()
	pid := p.pid(t)
	before := rss(t, pid)
	most, done := before, make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				most = max(most, rss(t, pid))
			}
		}
	})
	return func() int64 {
		close(done)
		sampling.Wait()
		return most - before
	}
}

// notTested says loudly what a run leaves out.
func notTested(t *testing.T, what, why string) {
	t.Helper()
	if os.Getenv("CI") != "" && os.Getuid() == 0 {
		t.Fatalf("NOT TESTED: %s: %s", what, why)
	}
	t.Skipf("NOT TESTED: %s: %s", what, why)
}
