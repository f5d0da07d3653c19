package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// CA is an authority of one trust domain for tests: a self-signed root and a signing authority beneath it, both on P-256 keys. It
// checks nothing, so that a test can have every wrong certificate it wants. It is immutable after NewCA.
type CA struct {
	TrustDomain spiffeid.TrustDomain
	Root        *x509.Certificate
	RootKey     crypto.Signer
	Signing     *x509.Certificate
	SigningKey  crypto.Signer
}

// NewCA makes an authority whose certificates are valid from an hour ago for ten years. Inside a synctest bubble, now is the
// bubble's.
func NewCA(t testing.TB, trustDomain string) *CA {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("trust domain %q: %v", trustDomain, err)
	}
	ca := &CA{TrustDomain: td, RootKey: NewKey(t), SigningKey: NewKey(t)}
	root := authorityTemplate(t, td, "root")
	ca.Root = sign(t, root, root, ca.RootKey.Public(), ca.RootKey)
	signing := authorityTemplate(t, td, "signing")
	signing.MaxPathLenZero = true
	ca.Signing = sign(t, signing, ca.Root, ca.SigningKey.Public(), ca.RootKey)
	return ca
}

// Roots returns the trust domain's pool in the form that verifiers take. The map is the caller's; add other authorities' pools to
// it with AddRoots.
func (c *CA) Roots() map[spiffeid.TrustDomain]*x509.CertPool {
	roots := map[spiffeid.TrustDomain]*x509.CertPool{}
	c.AddRoots(roots)
	return roots
}

// AddRoots puts the root into the pool of its trust domain.
func (c *CA) AddRoots(roots map[spiffeid.TrustDomain]*x509.CertPool) {
	if roots[c.TrustDomain] == nil {
		roots[c.TrustDomain] = x509.NewCertPool()
	}
	roots[c.TrustDomain].AddCert(c.Root)
}

// ID returns the SPIFFE ID of the trust domain with this path, which begins with a slash.
func (c *CA) ID(t testing.TB, path string) spiffeid.ID {
	t.Helper()
	id, err := spiffeid.FromPath(c.TrustDomain, path)
	if err != nil {
		t.Fatalf("SPIFFE ID of %q with path %q: %v", c.TrustDomain, path, err)
	}
	return id
}

// Leaf issues an X.509-SVID, by default a correct one for "/workload" that lives for an hour and may be a client and a server.
// Options are applied in their order. The certificate has the signing authority behind the leaf, and its parsed Leaf.
func (c *CA) Leaf(t testing.TB, options ...LeafOption) tls.Certificate {
	t.Helper()
	leaf := c.newLeaf(t)
	for _, option := range options {
		option(leaf)
	}
	if leaf.key == nil {
		leaf.key = NewKey(t)
	}
	issuer, issuerKey, chain := c.Signing, c.SigningKey, [][]byte{c.Signing.Raw}
	if leaf.fromRoot {
		issuer, issuerKey, chain = c.Root, c.RootKey, nil
	}
	certificate := sign(t, leaf.Template, issuer, leaf.key.Public(), issuerKey)
	return tls.Certificate{
		Certificate: append([][]byte{certificate.Raw}, chain...),
		PrivateKey:  leaf.key,
		Leaf:        certificate,
	}
}

func (c *CA) newLeaf(t testing.TB) *LeafTemplate {
	t.Helper()
	now := time.Now()
	return &LeafTemplate{Template: &x509.Certificate{
		SerialNumber: newSerial(t),
		Subject:      pkix.Name{Organization: []string{"testkit"}},
		URIs:         []*url.URL{c.ID(t, "/workload").URL()},
		NotBefore:    now.Add(-time.Minute),
		NotAfter:     now.Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		// A critical or absent constraint would both do; the profile of our own authority says CA:FALSE.
		BasicConstraintsValid: true,
	}}
}

// NewKey returns a new P-256 key.
func NewKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make key: %v", err)
	}
	return key
}

// ChainPEM encodes a certificate chain, leaf first.
func ChainPEM(certificate tls.Certificate) []byte {
	var out []byte
	for _, der := range certificate.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// KeyPEM encodes the private key as PKCS #8.
func KeyPEM(t testing.TB, certificate tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatalf("encode key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// RootPEM encodes the root.
func (c *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Root.Raw})
}

func authorityTemplate(t testing.TB, td spiffeid.TrustDomain, name string) *x509.Certificate {
	t.Helper()
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{Organization: []string{"testkit"}, CommonName: td.Name() + " " + name},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func sign(t testing.TB, template, issuer *x509.Certificate, key crypto.PublicKey, issuerKey crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.SubjectKeyId == nil {
		template.SubjectKeyId = keyID(t, key)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		t.Fatalf("sign certificate: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("read the signed certificate back: %v", err)
	}
	return certificate
}

func keyID(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatalf("encode public key: %v", err)
	}
	sum := sha256.Sum256(der)
	return sum[:20]
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("make serial number: %v", err)
	}
	return serial.Add(serial, big.NewInt(1))
}
