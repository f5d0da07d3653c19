package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/postern-proxy/postern/internal/testkit"
)

// fetch is the test as a workload: its first SVID from the Workload API at the socket.
func fetch(t *testing.T, socket string) tls.Certificate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// served is the certificate that a listener presents to a good caller.
func served(t *testing.T, port int, config *tls.Config) (serial, id string, err error) {
	t.Helper()
	config = config.Clone()
	config.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		serial, id = leaf.SerialNumber.Text(16), leaf.URIs[0].String()
		return nil
	}
	resp, _, err := call(t, port, config, plainGet)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return serial, id, err
}

// A process takes its credentials from any Workload API: it waits for one that is not there yet, serves with what it gets, follows
// what is renewed, and serves on when the Workload API is gone.
func TestAProcessTakesItsIdentityFromTheWorkloadAPIOfAnother(t *testing.T) {
	app := startRecorder(t, nil)
	dir, port := shortDir(t), ports(t, 1)[0]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "orders.yaml"), fmt.Sprintf(`version: 1
trust_domain: example.org
identity: {source: workload_api, workload_api: {socket: workload.sock}}
listeners: [{name: in, address: "127.0.0.1:%d", service: app, routes: [{match: {}, cluster: app}]}]
clusters: [{name: app, endpoints: ["%s"]}]
policies: [{name: app, service: app, rules: [{allow: {from: ["spiffe://example.org/web"]}}]}]
admin: {socket: orders.sock}
`, port, app.addr))
	orders := launch(t, dir, filepath.Join(dir, "orders.sock"), nil, "run", "-c", "orders.yaml")
	orders.eventually("it says what it waits for", func() error {
		st, err := orders.admin.Status(t.Context())
		if err == nil && (st.Ready || len(st.NotReady) == 0) {
			t.Errorf("without a Workload API the status is %+v", st)
		}
		return err
	})
	if _, code := orders.postern("healthcheck"); code != 1 {
		t.Errorf("health check of a process without identity: exit code %d", code)
	}

	authority := start(t, dir, "authority", fmt.Sprintf(`version: 1
trust_domain: example.org
authority: {data_dir: data}
workload_api: {socket: workload.sock}
entries:
- {spiffe_id: "spiffe://example.org/orders", selectors: ["unix:path:%s"], ttl: 20s}
- {spiffe_id: "spiffe://example.org/web", selectors: ["unix:path:%s"]}
admin: {socket: authority.sock}
`, binary, self))
	orders.ready()
	web := asPeer(fetch(t, filepath.Join(dir, "workload.sock")))
	first, id, err := served(t, port, web)
	if err != nil || id != "spiffe://example.org/orders" {
		t.Fatalf("served as %q: %v", id, err)
	}
	// A forced rotation makes new SVIDs, which are used without being asked.
	authority.must("ca", "rotate", "signing")
	orders.eventually("the new SVID serves", func() error {
		serial, _, err := served(t, port, web)
		if err != nil {
			t.Fatalf("during the rotation: %v", err)
		}
		if serial == first {
			return errors.New("still the old one")
		}
		return nil
	})
	authority.kill()
	for range 10 {
		if _, _, err := served(t, port, web); err != nil {
			t.Fatalf("without the Workload API: %v", err)
		}
	}
}

// replace writes a file beside and moves it over, as those who renew files do.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	write(t, path+".new", string(data))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedFilesServeTheNextHandshakeAndHalfAPairDoesNot(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	g := startGuarded(t, ca, "", "")
	web := asPeer(leafOf(t, ca, "/web"))
	own := filepath.Join(filepath.Dir(g.log), "own")
	first, _, err := served(t, g.port, web)
	if err != nil {
		t.Fatal(err)
	}
	becomes := func(what string, leaf tls.Certificate) {
		t.Helper()
		g.eventually(what, func() error {
			serial, _, err := served(t, g.port, web)
			if err != nil {
				t.Fatalf("%s: %v", what, err) // no handshake may fail meanwhile
			}
			if serial != leaf.Leaf.SerialNumber.Text(16) {
				return errors.New("another one serves")
			}
			return nil
		})
	}
	// The whole pair, one file after the other: what is between them never serves.
	second := leafOf(t, ca, "/orders")
	replace(t, filepath.Join(own, "svid.key"), testkit.KeyPEM(t, second))
	replace(t, filepath.Join(own, "svid.pem"), testkit.ChainPEM(second))
	becomes("the second pair", second)
	if second.Leaf.SerialNumber.Text(16) == first {
		t.Fatal("the test made one certificate twice")
	}

	// Half a pair: the old one serves on, and somebody is told which files do not fit.
	quiet := len(g.out.String())
	third := leafOf(t, ca, "/orders")
	replace(t, filepath.Join(own, "svid.pem"), testkit.ChainPEM(third))
	g.eventually("the mismatch is reported", func() error {
		if said := g.out.String()[quiet:]; !strings.Contains(said, "level=WARN") && !strings.Contains(said, "level=ERROR") {
			return fmt.Errorf("said %q", said)
		}
		return nil
	})
	said := g.out.String()[quiet:]
	t.Logf("the operator reads: %s", said)
	if !strings.Contains(said, "svid.pem") && !strings.Contains(said, "svid.key") {
		t.Errorf("the report names no file: %q", said)
	}
	if strings.Contains(said, "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
	becomes("the second pair, with a third certificate that does not fit", second)
	replace(t, filepath.Join(own, "svid.key"), testkit.KeyPEM(t, third))
	becomes("the third pair", third)

	// What is no certificate, or nobody's: the same.
	for what, text := range map[string]string{"an empty file": "", "garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		quiet = len(g.out.String())
		replace(t, filepath.Join(own, "svid.pem"), []byte(text))
		g.eventually(what+" is reported", func() error {
			if said := g.out.String()[quiet:]; !strings.Contains(said, "level=WARN") && !strings.Contains(said, "level=ERROR") {
				return fmt.Errorf("said %q", said)
			}
			return nil
		})
		becomes("the third pair, with "+what, third)
	}
	replace(t, filepath.Join(own, "svid.pem"), testkit.ChainPEM(third))

	// A new root: callers of the new one are accepted, those of the old one no more.
	other := testkit.NewCA(t, "example.org")
	replace(t, filepath.Join(own, "ca.pem"), other.RootPEM())
	g.eventually("the new root counts", func() error {
		_, _, err := served(t, g.port, asPeer(leafOf(t, other, "/web")))
		return err
	})
	if _, _, err := served(t, g.port, web); err == nil {
		t.Error("a caller of the root that is gone was served")
	}
}

// A CRL that appears in its file revokes: new handshakes are refused, and the connection that is open ends.
func TestACRLThatIsReplacedEndsWhatItRevokes(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	revoked, nobody := leafOf(t, ca, "/web"), leafOf(t, ca, "/nobody")
	g := startGuarded(t, ca, revocationList(t, ca.Signing, ca.SigningKey, nobody), "")
	open, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.port), asPeer(revoked))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	conn := newRawConn(open)
	conn.send(t, plainGet)
	if resp, _ := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK {
		t.Fatalf("before: %s", resp.Status)
	}
	replace(t, filepath.Join(filepath.Dir(g.log), "own", "crl.pem"), []byte(revocationList(t, ca.Signing, ca.SigningKey, revoked)))
	g.eventually("new handshakes are refused", func() error {
		if _, _, err := served(t, g.port, asPeer(revoked)); err == nil {
			return errors.New("still served")
		}
		return nil
	})
	g.accepts("with another SVID of the same identity", leafOf(t, ca, "/web"))
	flow := g.record(g.log, "type", "flow", "direction", "accepted", "source", open.LocalAddr().String())
	if flow["close"] != "revoked" {
		t.Errorf("recorded as %v", flow)
	}
}
