package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/svid"
)

// newSerial returns a positive serial number of exactly 16 octets, 126 bits of them random (RFC 5280, Section 4.1.2.2, allows 20 and
// asks that no two of one authority are equal).
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// signAuthority makes the certificate of an authority. parent is nil for a root, which signs itself.
func signAuthority(use Use, domain spiffeid.TrustDomain, key crypto.Signer, parent *x509.Certificate, parentKey crypto.Signer,
	notBefore, notAfter time.Time,
) (*x509.Certificate, error) {
	keyID, err := svid.SubjectKeyID(key.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		// An authority needs a subject (RFC 5280, Section 4.1.2.6), and each one of its own: path building goes by names first.
		Subject:               pkix.Name{Organization: []string{"postern"}, CommonName: string(use) + " " + hex.EncodeToString(keyID[:8])},
		NotBefore:             notBefore.UTC().Truncate(time.Second),
		NotAfter:              notAfter.UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		// "A signing certificate SHOULD itself be an SVID" (SPIFFE X509-SVID, Section 3.2). No name constraints: rustls and
		// pyca/cryptography refuse every chain that has one for URIs.
		URIs:         []*url.URL{domain.ID().URL()},
		SubjectKeyId: keyID,
	}
	if parent == nil {
		parent, parentKey = template, key
		template.AuthorityKeyId = keyID
	} else {
		template.MaxPathLenZero = true // it signs leaves only
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign %s authority: %w", use, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the %s authority just signed: %w", use, err)
	}
	issuer := parent
	if use == Root {
		issuer = cert
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("verify the %s authority just signed: %w", use, err)
	}
	return cert, nil
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier returns the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
