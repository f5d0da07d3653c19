package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
)

// Credentials has the current X.509-SVID; *source.Holder is one.
type Credentials interface {
	// Get returns nil when there is none.
	Get() *source.X509
}

// credential is what is computed once for each X.509-SVID. It is immutable.
type credential struct {
	x509      *source.X509
	presented bool
	chain     []*x509.Certificate
	subjects  []revocation.Subject // empty unless presented
	notAfter  time.Time            // zero unless presented
}

func newCredential(x *source.X509, presented bool) (*credential, error) {
	c := &credential{x509: x, presented: presented}
	if !presented {
		return c, nil
	}
	for _, der := range x.Certificate.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse own certificate of %q: %w", x.ID.String(), err)
		}
		c.chain = append(c.chain, cert)
	}
	if len(c.chain) == 0 {
		return nil, fmt.Errorf("own credential of %q has no certificate", x.ID.String())
	}
	c.subjects = revocation.Subjects(c.chain, x.ID)
	c.notAfter = earliestEnd(c.chain)
	return c, nil
}

// baseConfig is what both roles have in common. A hybrid key exchange needs TLS 1.3.
func baseConfig(minVersion uint16, requirePQ bool, alpn []string) *tls.Config {
	minVersion = max(minVersion, tls.VersionTLS12)
	if requirePQ {
		minVersion = tls.VersionTLS13
	}
	return &tls.Config{
		MinVersion:       minVersion,
		CipherSuites:     tls12Suites,
		CurvePreferences: groups(requirePQ),
		NextProtos:       alpn,
		// One record for a small response instead of two: facts on crypto/tls records.
		DynamicRecordSizingDisabled: true,
		Renegotiation:               tls.RenegotiateNever,
	}
}

// tls12Suites are those of TLS 1.2 with forward secrecy and authenticated encryption (RFC 9325, Section 4.2).
var tls12Suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}
