package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// world is a proxy under test with its authority, its clock's revocations, and what it reports.
type world struct {
	*Server
	t           testing.TB
	ca          *testkit.CA
	ids         *authz.IDs
	holders     sync.Map // path of the SPIFFE ID to *source.Holder
	revocations atomic.Pointer[revocation.Index]
	meanwhile   atomic.Pointer[func()] // runs once, after the next look at the revocations
	gatherer    *prometheus.Registry
	log         *lines
	generation  uint64
	own         string // path of the proxy's own identity
}

// lines keeps the access log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// find returns the first line that has these pairs.
func (l *lines) find(pairs ...any) (map[string]any, bool) {
	l.mu.Lock()
	text := l.buf.String()
	l.mu.Unlock()
next:
	for line := range strings.SplitSeq(text, "\n") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil {
			continue
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			if fmt.Sprint(fields[pairs[i].(string)]) != fmt.Sprint(pairs[i+1]) {
				continue next
			}
		}
		return fields, true
	}
	return nil, false
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ca: testkit.NewCA(t, "example.org"), ids: authz.NewIDs(), gatherer: prometheus.NewRegistry(), log: &lines{}, own: "/orders"}
	metrics, err := observe.NewMetrics(w.gatherer)
	if err != nil {
		t.Fatal(err)
	}
	access := observe.NewAccessLog(metrics.AccessLogDropped)
	w.Server = New(Options{
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics, AccessLog: access, IDs: w.ids,
		Credentials: func(id spiffeid.ID) *source.Holder {
			if id.IsZero() {
				return w.holder(w.own)
			}
			return w.holder(id.Path())
		},
		Revocations: func() *revocation.Index {
			index := w.revocations.Load()
			if f := w.meanwhile.Swap(nil); f != nil {
				(*f)()
			}
			return index
		},
	})
	ctx, cancel := context.WithCancel(context.Background()) // ends after the connections of the test, which end in cleanups
	var running sync.WaitGroup
	running.Go(func() { _ = access.Run(ctx, w.log) })
	running.Go(func() { _ = w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if t.Failed() {
			t.Logf("access log:\n%s", w.log.buf.String())
		}
	})
	return w
}

// holder returns the credentials of an identity, made on first use.
func (w *world) holder(path string) *source.Holder {
	if h, ok := w.holders.Load(path); ok {
		return h.(*source.Holder)
	}
	h := &source.Holder{}
	h.Set(w.credential(w.leaf(path), 1))
	actual, _ := w.holders.LoadOrStore(path, h)
	return actual.(*source.Holder)
}

func (w *world) leaf(path string, more ...testkit.LeafOption) tls.Certificate {
	return w.ca.Leaf(w.t, append([]testkit.LeafOption{testkit.WithURIs(w.ca.ID(w.t, path).String())}, more...)...)
}

func (w *world) credential(certificate tls.Certificate, generation uint64) *source.X509 {
	id, err := spiffeid.FromURI(certificate.Leaf.URIs[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return &source.X509{ID: id, Certificate: certificate, Roots: w.ca.Roots(), Generation: generation,
		NotBefore: certificate.Leaf.NotBefore, NotAfter: certificate.Leaf.NotAfter}
}

// declare parses a configuration; the head of it is added.
func (w *world) declare(format string, args ...any) *config.Config {
	w.t.Helper()
	text := "version: 1\ntrust_domain: example.org\nidentity: {source: files, files: {certificate: c, key: k, bundle: b}}\n" + fmt.Sprintf(format, args...)
	cfg, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		w.t.Fatalf("configuration:\n%s\n%v", text, err)
	}
	return cfg
}

// apply makes the configuration serve.
func (w *world) apply(format string, args ...any) {
	w.t.Helper()
	if err := w.try(format, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) try(format string, args ...any) error {
	w.t.Helper()
	cfg := w.declare(format, args...)
	w.generation++
	snapshot, err := Compile(cfg, w.generation)
	if err != nil {
		return err
	}
	return w.Apply(w.t.Context(), snapshot, policy.Compile(cfg.Policies, w.generation, w.ids))
}

// policies replaces only the policies.
func (w *world) policies(text string) {
	w.t.Helper()
	w.generation++
	w.SetPolicies(policy.Compile(w.declare("%s", text).Policies, w.generation, w.ids))
}

// revoke does what an authority's revocation does.
func (w *world) revoke(kind revocation.Kind, value string) int {
	r := revocation.Revocation{ID: value, Kind: kind, Value: value, At: time.Now()}
	w.revocations.Store(revocation.NewIndex(append(w.revocations.Load().All(), r)))
	return w.Revoked([]revocation.Revocation{r})
}

// client returns an HTTP client that presents the certificate, or none.
func (w *world) client(certificate *tls.Certificate) *http.Client {
	transport := &http.Transport{DisableCompression: true, TLSClientConfig: clientTLS(certificate)}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func clientTLS(certificate *tls.Certificate) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if certificate != nil {
		c.Certificates = []tls.Certificate{*certificate}
	}
	return c
}

// as returns an HTTP client with the identity.
func (w *world) as(path string) *http.Client {
	certificate := w.leaf(path)
	return w.client(&certificate)
}

func (w *world) url(listener, path string) string {
	return "https://" + w.Addr(listener).String() + path
}

// dialTLS opens a mutual TLS connection with the certificate.
func (w *world) dialTLS(listener string, certificate tls.Certificate) *tls.Conn {
	w.t.Helper()
	c, err := tls.Dial("tcp", w.Addr(listener).String(), clientTLS(&certificate))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func (w *world) dialPlain(listener string) net.Conn {
	w.t.Helper()
	at := w.Addr(listener)
	c, err := net.Dial(at.Network(), at.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
	closes bool
}

func (w *world) do(client *http.Client, method, url string, body io.Reader, header ...string) (answer, error) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text), resp.Close}, err
}

func (w *world) get(client *http.Client, url string, header ...string) answer {
	w.t.Helper()
	a, err := w.do(client, "GET", url, nil, header...)
	if err != nil {
		w.t.Fatalf("GET %s: %v", url, err)
	}
	return a
}

// app is a service that knows nothing of TLS; it tells back what it saw.
func (w *world) app(handler http.HandlerFunc) string {
	if handler == nil {
		handler = func(rw http.ResponseWriter, r *http.Request) {
			_ = json.NewEncoder(rw).Encode(map[string]any{"host": r.Host, "uri": r.RequestURI, "header": r.Header, "method": r.Method})
		}
	}
	server := httptest.NewServer(handler)
	w.t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// seen is what the default app tells.
type seen struct {
	Host, URI, Method string
	Header            http.Header
}

func (a answer) seen(t *testing.T) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
	return s
}

// metric sums the samples of a metric that have these labels.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.gatherer.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if hasLabels(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, labels []string) bool {
	have := map[string]string{}
	for _, l := range m.GetLabel() {
		have[l.GetName()] = l.GetValue()
	}
	for i := 0; i+1 < len(labels); i += 2 {
		if have[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}

// eventually waits for something that another goroutine does after what the test could wait for.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// sidecar is the configuration most tests start from: one mutual TLS listener before an app, and a policy.
func (w *world) sidecar(app, more string) string {
	return fmt.Sprintf(`
listeners:
- name: inbound
  address: 127.0.0.1:0
  protocol: http
  tls: {mode: mutual}
  service: orders
  routes:
  - {match: {path_prefix: /}, cluster: app, allow_upgrade: [websocket]}
clusters:
- {name: app, endpoints: ["%s"]}
policies:
- name: orders-read
  service: orders
  rules:
  - allow: {from: ["spiffe://example.org/web"], http: {methods: [GET, POST, PUT]}}
  - deny: {http: {paths: ["/admin", "/admin/{rest...}"]}}
%s`, app, more)
}
