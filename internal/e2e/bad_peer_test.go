package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

// guarded is a mutual TLS listener in front of an app, whose process takes its credentials from files.
type guarded struct {
	*process
	ca            *testkit.CA
	port, metrics int
	log           string
	served        atomic.Int64 // requests that reached the app
}

// startGuarded runs it. web may call; crl is the text of the list of revoked certificates; tls goes into the listener's section.
func startGuarded(t *testing.T, ca *testkit.CA, crl, tlsMore string) *guarded {
	t.Helper()
	g := &guarded{ca: ca}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.served.Add(1)
		hello(w, r)
	}))
	t.Cleanup(app.Close)
	dir, p := shortDir(t), ports(t, 2)
	g.port, g.metrics, g.log = p[0], p[1], filepath.Join(dir, "access.log")
	identity := credentialFiles(t, dir, "own", ca, leafOf(t, ca, "/orders"))
	if crl != "" {
		write(t, filepath.Join(dir, "own", "crl.pem"), crl)
		identity = strings.Replace(identity, "ca.pem}", "ca.pem, crl: own/crl.pem}", 1)
	}
	g.process = start(t, dir, "guarded", fmt.Sprintf(`version: 1
trust_domain: %s
%slisteners:
- name: in
  address: 127.0.0.1:%d
  service: app
  tls: {mode: mutual%s}
  routes: [{match: {path_prefix: /}, cluster: app}]
clusters: [{name: app, endpoints: ["%s"]}]
policies: [{name: web, service: app, rules: [{allow: {from: ["%s"]}}]}]
admin: {socket: guarded.sock}
metrics: {listen: "127.0.0.1:%d"}
access_log: {path: access.log}
`, ca.TrustDomain.Name(), identity, g.port, tlsMore, strings.TrimPrefix(app.URL, "http://"), ca.ID(t, "/web"), g.metrics))
	return g
}

// accepts calls as web and wants to be served.
func (g *guarded) accepts(when string, good tls.Certificate) {
	g.t.Helper()
	resp, _, err := call(g.t, g.port, asPeer(good), plainGet)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatalf("a good caller %s: %v, %v", when, resp, err)
	}
}

const handshakeFailures = "postern_tls_handshake_failures_total"

// refuses calls with a bad configuration and wants the handshake refused, counted and recorded for the reason, and for no other.
func (g *guarded) refuses(t *testing.T, reason observe.Reason, config *tls.Config) {
	t.Helper()
	served, before := g.served.Load(), samples(t, g.metrics, handshakeFailures)
	resp, source, err := call(t, g.port, config, plainGet)
	if err == nil {
		t.Fatalf("the caller was answered with %s", resp.Status)
	}
	t.Logf("the caller sees: %v", err)
	if g.served.Load() != served {
		t.Error("the request reached the app")
	}
	flow := g.record(g.log, "type", "flow", "source", source)
	if flow["close"] != string(reason) || flow["direction"] != "accepted" || flow["listener"] != "in" {
		t.Errorf("recorded as %v, want close %s", flow, reason)
	}
	if flow["requests"] != 0.0 {
		t.Errorf("%v requests on a refused connection", flow["requests"])
	}
	if cause, _ := flow["cause"].(string); cause == "" {
		t.Errorf("the operator is not told the cause: %v", flow)
	}
	g.eventually("the failure is counted", func() error {
		if now := samples(t, g.metrics, handshakeFailures); sum(now) == sum(before) {
			return fmt.Errorf("still %v", now)
		}
		return nil
	})
	for labels, value := range samples(t, g.metrics, handshakeFailures) {
		rise := value - before[labels]
		wanted := strings.Contains(labels, fmt.Sprintf("reason=%q", reason)) && strings.Contains(labels, `direction="accepted"`) &&
			strings.Contains(labels, `name="in"`)
		if wanted && rise != 1 || !wanted && rise != 0 {
			t.Errorf("{%s} rose by %v, want the failure under %s", labels, rise, reason)
		}
	}
}

func sum(values map[string]float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// Fail closed (promise 1): every way in which a caller's certificate can be wrong ends the handshake with its own reason code.
func TestEachBadCallerIsRefusedWithItsReasonInMetricAndLog(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	web := leafOf(t, ca, "/web")
	bySigning, byRoot := leafOf(t, ca, "/web"), leafOf(t, ca, "/web", testkit.FromRoot())
	g := startGuarded(t, ca, revocationList(t, ca.Signing, ca.SigningKey, bySigning)+revocationList(t, ca.Root, ca.RootKey, byRoot), "")
	g.accepts("before", web)
	for _, bad := range append(ca.BadLeaves(t),
		testkit.BadLeaf{Name: "an extended key usage for servers only", Reason: observe.PeerExtKeyUsage,
			Certificate: leafOf(t, ca, "/web", testkit.WithExtKeyUsage(x509.ExtKeyUsageServerAuth))},
		testkit.BadLeaf{Name: "revoked by the CRL of the signing authority", Reason: observe.PeerRevoked, Certificate: bySigning},
		testkit.BadLeaf{Name: "revoked by the CRL of the root", Reason: observe.PeerRevoked, Certificate: byRoot},
	) {
		t.Run(bad.Name, func(t *testing.T) { g.refuses(t, bad.Reason, asPeer(bad.Certificate)) })
	}
	t.Run("no certificate", func(t *testing.T) { g.refuses(t, observe.PeerNoCertificate, asPeer()) })
	t.Run("TLS 1.2", func(t *testing.T) {
		config := asPeer(web)
		config.MaxVersion = tls.VersionTLS12
		g.refuses(t, observe.HandshakeFailed, config)
	})
	g.accepts("after", web)
	g.accepts("without intermediate", leafOf(t, ca, "/web", testkit.FromRoot()))
	if n := count(t, g.metrics, "postern_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}

func TestTLS12IsSpokenWhereItIsAllowedAndJudgesCallersAsWell(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	g := startGuarded(t, ca, "", `, min_version: "1.2"`)
	config := asPeer(leafOf(t, ca, "/web"))
	config.MaxVersion = tls.VersionTLS12
	if resp, _, err := call(t, g.port, config, plainGet); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("TLS 1.2: %v, %v", resp, err)
	}
	g.accepts("with TLS 1.3", leafOf(t, ca, "/web"))
	for name, bad := range map[string]struct {
		reason observe.Reason
		config *tls.Config
	}{
		"no certificate": {observe.PeerNoCertificate, asPeer()},
		"expired":        {observe.PeerExpired, asPeer(leafOf(t, ca, "/web", testkit.WithTTL(-time.Minute)))},
		"TLS 1.1":        {observe.HandshakeFailed, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}}, //nolint:gosec // it has to be refused
	} {
		t.Run(name, func(t *testing.T) {
			if bad.config.MaxVersion == 0 {
				bad.config.MaxVersion = tls.VersionTLS12
			}
			g.refuses(t, bad.reason, bad.config)
		})
	}
}

// An SVID that verifies but is nobody's whom the policy names is not a matter of TLS: the handshake succeeds, the request is denied.
func TestACallerWithAnIdentityThatNoRuleNamesIsAnsweredWith403(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	g := startGuarded(t, ca, "", "")
	resp, _, err := call(t, g.port, asPeer(leafOf(t, ca, "/batch")), plainGet)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v", resp, err)
	}
	line := g.record(g.log, "type", "request", "principal", "spiffe://example.org/batch")
	if line["reason"] != "denied" || line["effect"] != "deny" || line["decision"] != resp.Header.Get("X-Postern-Decision") || g.served.Load() != 0 {
		t.Errorf("recorded as %v; answer %v", line, resp.Header)
	}
	failed := samples(t, g.metrics, handshakeFailures)
	if sum(failed) != 0 {
		t.Errorf("counted as failed handshakes: %v", failed)
	}
}

// The other direction: an endpoint that is not who it has to be gets no byte of the request.
func TestAnEndpointThatIsNotExpectedGetsNothing(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	other := testkit.NewCA(t, "other.org")
	impostor := testkit.NewCA(t, "example.org")
	type endpoint struct {
		name, reason string
		leaf         tls.Certificate
	}
	endpoints := []endpoint{
		{"good", "", leafOf(t, ca, "/payments")},
		{"unexpected", "peer_unexpected_id", leafOf(t, ca, "/intruder")},
		{"foreign", "peer_foreign_trust_domain", leafOf(t, other, "/payments")},
		{"impostor", "peer_untrusted", leafOf(t, impostor, "/payments")},
		{"expired", "peer_expired", leafOf(t, ca, "/payments", testkit.WithTTL(-time.Minute))},
		{"clientonly", "peer_ext_key_usage", leafOf(t, ca, "/payments", testkit.WithExtKeyUsage(x509.ExtKeyUsageClientAuth))},
	}
	dir, p := shortDir(t), ports(t, 2)
	var served atomic.Int64
	var routes, clusters bytes.Buffer
	for _, e := range endpoints {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			served.Add(1)
			_, _ = io.WriteString(w, "hello")
		}))
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{e.leaf}, ClientAuth: tls.RequireAnyClientCert}
		server.StartTLS()
		defer server.Close()
		_, _ = fmt.Fprintf(&routes, "  - {match: {path: /%[1]s}, cluster: %[1]s}\n", e.name)
		_, _ = fmt.Fprintf(&clusters, "- {name: %s, endpoints: [\"%s\"], tls: {mode: mutual, expect: [\"spiffe://example.org/payments\"]}}\n",
			e.name, server.Listener.Addr())
	}
	accessLog := filepath.Join(dir, "access.log")
	proxy := start(t, dir, "out", fmt.Sprintf(`version: 1
trust_domain: example.org
%slisteners:
- name: out
  address: 127.0.0.1:%d
  caller: self
  tls: {mode: none}
  routes:
%sclusters:
%sadmin: {socket: out.sock}
metrics: {listen: "127.0.0.1:%d"}
access_log: {path: access.log}
`, credentialFiles(t, dir, "own", ca, leafOf(t, ca, "/web")), p[0], &routes, &clusters, p[1]))

	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			before := served.Load()
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", p[0], e.name))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if e.reason == "" {
				if resp.StatusCode != http.StatusOK || served.Load() != before+1 {
					t.Errorf("%s, %q", resp.Status, body)
				}
				return
			}
			if resp.StatusCode != http.StatusServiceUnavailable || served.Load() != before {
				t.Errorf("%s, %q; %d requests reached it", resp.Status, body, served.Load()-before)
			}
			if !strings.Contains(string(body), "upstream_tls") || strings.Contains(string(body), "spiffe://") || strings.Contains(string(body), "127.0.0.1") {
				t.Errorf("the caller is told %q, want the code and nothing of what stands behind", body)
			}
			line := proxy.record(accessLog, "type", "request", "path", "/"+e.name)
			cause, _ := line["cause"].(string)
			if line["reason"] != "upstream_tls" || !strings.Contains(cause, e.reason) {
				t.Errorf("recorded as %v, want upstream_tls with %s in its cause", line, e.reason)
			}
			labels := []string{`direction="dialled"`, fmt.Sprintf("name=%q", e.name), fmt.Sprintf("reason=%q", e.reason)}
			if n := count(t, p[1], handshakeFailures, labels...); n < 1 {
				t.Errorf("%v failures with %v: %v", n, labels, samples(t, p[1], handshakeFailures))
			}
			if err := soon(func() error {
				if flows := accessLines(t, accessLog, "type", "flow", "direction", "dialled", "cluster", e.name, "close", e.reason); len(flows) == 0 {
					return fmt.Errorf("no flow of the dialled connection with close %s", e.reason)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
}
