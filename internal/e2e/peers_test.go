package e2e

import (
	"bufio"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/testkit"
)

// patience is how long a test waits for what has to come at once.
const patience = 5 * time.Second

// credentialFiles writes svid.pem, svid.key and ca.pem into a folder of that name in dir, as a process with identity.source: files
// reads them, and returns the section identity for it.
func credentialFiles(t *testing.T, dir, name string, ca *testkit.CA, leaf tls.Certificate) string {
	t.Helper()
	folder := filepath.Join(dir, name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "svid.pem"), string(testkit.ChainPEM(leaf)))
	write(t, filepath.Join(folder, "svid.key"), string(testkit.KeyPEM(t, leaf)))
	write(t, filepath.Join(folder, "ca.pem"), string(ca.RootPEM()))
	return fmt.Sprintf("identity: {source: files, files: {certificate: %[1]s/svid.pem, key: %[1]s/svid.key, bundle: %[1]s/ca.pem}}\n", name)
}

// leafOf issues a good SVID for the path.
func leafOf(t *testing.T, ca *testkit.CA, path string, options ...testkit.LeafOption) tls.Certificate {
	t.Helper()
	return ca.Leaf(t, append([]testkit.LeafOption{testkit.WithURIs(ca.ID(t, path).String())}, options...)...)
}

// revocationList is a CRL in PEM that revokes the leaf.
func revocationList(t *testing.T, issuer *x509.Certificate, signer crypto.Signer, leaf tls.Certificate) string {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute),
		NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: []x509.RevocationListEntry{{
			SerialNumber: leaf.Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)}}}, issuer, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// asPeer is the client side of a test: it presents the certificate, and takes any server, since the server is not what is tested.
func asPeer(certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // the server is not what is tested
		// Whatever the server asks for: a bad certificate has to reach it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certificates) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certificates[0], nil
		},
	}
}

// call sends one request over a fresh TLS connection. The source is the address that it was sent from.
func call(t *testing.T, port int, config *tls.Config, request string) (resp reply, source string, err error) {
	t.Helper()
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(patience))
	source = raw.LocalAddr().String()
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return reply{}, source, err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return reply{}, source, err
	}
	answered, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return reply{}, source, err
	}
	defer func() { _ = answered.Body.Close() }()
	_, err = io.Copy(io.Discard, answered.Body)
	return reply{answered.Status, answered.StatusCode, answered.Header, answered.TransferEncoding, answered.Close}, source, err
}

const plainGet = "GET / HTTP/1.1\r\nHost: app\r\n\r\n"

// samples returns the values of a metric by their text of labels.
func samples(t *testing.T, port int, name string) map[string]float64 {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		rest, found := strings.CutPrefix(lines.Text(), name+"{")
		if !found {
			continue
		}
		labels, value, _ := strings.Cut(rest, "} ")
		if values[labels], err = strconv.ParseFloat(strings.Fields(value)[0], 64); err != nil {
			t.Fatal(err)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}

// count sums the samples of a metric that have every one of the labels, given as name="value".
func count(t *testing.T, port int, name string, labels ...string) float64 {
	t.Helper()
	sum := 0.0
next:
	for have, value := range samples(t, port, name) {
		for _, label := range labels {
			if !strings.Contains(have, label) {
				continue next
			}
		}
		sum += value
	}
	return sum
}

// accessLines returns the lines of an access log that fit the pairs of key and value.
func accessLines(t *testing.T, path string, pairs ...string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var fit []map[string]any
next:
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") {
			break // half written
		}
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("access log: %v in %q", err, line)
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			if record[pairs[i]] != pairs[i+1] {
				continue next
			}
		}
		fit = append(fit, record)
	}
	return fit
}

// record waits for the one line of the access log that fits the pairs.
func (p *process) record(path string, pairs ...string) map[string]any {
	p.t.Helper()
	var lines []map[string]any
	p.eventually("a line of the access log with "+strings.Join(pairs, " "), func() error {
		if lines = accessLines(p.t, path, pairs...); len(lines) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	if len(lines) > 1 {
		p.t.Errorf("%d lines with %v: %v", len(lines), pairs, lines)
	}
	return lines[0]
}

// soon asks again until there is no error, for a second at most.
func soon(ask func() error) error {
	deadline := time.After(time.Second)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}
