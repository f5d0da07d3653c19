package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// h2specCases is how many cases the pinned version has.
const h2specCases = 145

// TestH2specFindsNothing runs the conformance suite for RFC 7540 and RFC 7541 that go.mod pins, or the one that POSTERN_H2SPEC names.
// It does not present client certificates, so that a bridge does it for the listener that asks for one.
func TestH2specFindsNothing(t *testing.T) {
	t.Parallel()
	program := h2spec(t)
	for _, cluster := range []string{"http1", "h2c"} {
		p := startProxy(t, startApp(t), "protocol: "+cluster)
		t.Run("plaintext listener, upstream "+cluster, func(t *testing.T) {
			t.Parallel()
			conform(t, program, p.Plain, plaintextExceptions)
		})
		t.Run("mutual TLS listener, upstream "+cluster, func(t *testing.T) {
			t.Parallel()
			conform(t, program, bridge(t, p.Mutual, p.SVID.tls(t, "h2")), nil, "--tls", "--insecure")
		})
	}
}

func h2spec(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("POSTERN_H2SPEC"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "h2spec")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/summerwind/h2spec/cmd/h2spec").CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	return path
}

// plaintextExceptions are the cases that cannot pass on a listener for both versions without TLS, as docs/standards.md says: what does
// not begin with the preface of HTTP/2 is HTTP/1.1 there.
var plaintextExceptions = []string{"Sends invalid connection preface"}

// conform runs every case against the address and wants them all to pass but for the exceptions.
func conform(t *testing.T, program, address string, exceptions []string, args ...string) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.xml")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, append(args, "--host", host, "--port", port, "--timeout", "5", "--junit-report", report)...)
	out, err := command.CombinedOutput()
	total, failed := readReport(t, report, string(out))
	t.Logf("h2spec: %d of %d", total-len(failed), total)
	for _, f := range failed {
		if slices.ContainsFunc(exceptions, func(name string) bool { return strings.Contains(f, name) }) {
			t.Logf("an exception: %s", f)
			continue
		}
		t.Errorf("%s", f)
	}
	if err != nil && len(failed) == 0 {
		t.Errorf("h2spec ended with %v:\n%s", err, out)
	}
	if os.Getenv("POSTERN_H2SPEC") == "" && total != h2specCases {
		t.Errorf("h2spec ran %d cases, want %d", total, h2specCases)
	}
}

// readReport returns how many cases were run, and those that did not pass.
func readReport(t *testing.T, path, said string) (total int, failed []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("h2spec wrote no report: %v\n%s", err, said)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *string   `xml:"failure"`
				Error   *string   `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatalf("report of h2spec: %v", err)
	}
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			total++
			for _, problem := range []*string{c.Failure, c.Error} {
				if problem != nil {
					failed = append(failed, c.Package+": "+c.Name+"\n"+strings.TrimSpace(*problem))
				}
			}
			if c.Skipped != nil {
				failed = append(failed, c.Package+": "+c.Name+": NOT TESTED: h2spec skipped it")
			}
		}
	}
	return total, failed
}

// bridge listens with TLS that anybody may use, and carries the bytes of each connection over one of its own to the address. It returns
// where it listens.
func bridge(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: config.NextProtos, Certificates: []tls.Certificate{selfSigned(t)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go carry(conn.(*tls.Conn), address, config)
		}
	}()
	return listener.Addr().String()
}

func carry(near *tls.Conn, address string, config *tls.Config) {
	defer func() { _ = near.Close() }()
	far, err := tls.Dial("tcp", address, config)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		_ = far.CloseWrite()
	}()
	_, _ = io.Copy(near, far)
	_ = near.Close() // h2spec waits for this in the cases in which the connection must end
	<-done
}

// selfSigned is a certificate that nobody trusts.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
