package testkit

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// LeafTemplate is what a LeafOption changes.
type LeafTemplate struct {
	Template *x509.Certificate
	key      crypto.Signer
	fromRoot bool
}

// LeafOption changes a leaf before it is signed.
type LeafOption func(*LeafTemplate)

// WithURIs sets the URI SANs, as they are given and unchecked; without arguments there are none.
func WithURIs(uris ...string) LeafOption {
	return func(l *LeafTemplate) {
		l.Template.URIs = nil
		for _, raw := range uris {
			uri, err := url.Parse(raw)
			if err != nil {
				uri = &url.URL{Opaque: raw}
			}
			l.Template.URIs = append(l.Template.URIs, uri)
		}
	}
}

// WithDNS sets the DNS SANs.
func WithDNS(names ...string) LeafOption {
	return func(l *LeafTemplate) { l.Template.DNSNames = names }
}

// WithTTL lets the leaf end this long from now; negative means that it has ended already (it began an hour before).
func WithTTL(ttl time.Duration) LeafOption {
	return func(l *LeafTemplate) {
		l.Template.NotAfter = time.Now().Add(ttl)
		if !l.Template.NotBefore.Before(l.Template.NotAfter) {
			l.Template.NotBefore = l.Template.NotAfter.Add(-time.Hour)
		}
	}
}

// WithValidity sets both ends of the leaf's life.
func WithValidity(notBefore, notAfter time.Time) LeafOption {
	return func(l *LeafTemplate) { l.Template.NotBefore, l.Template.NotAfter = notBefore, notAfter }
}

// WithExtKeyUsage sets the extended key usages; without arguments the extension is left out.
func WithExtKeyUsage(usages ...x509.ExtKeyUsage) LeafOption {
	return func(l *LeafTemplate) { l.Template.ExtKeyUsage = usages }
}

// WithKeyUsage sets the key usage; 0 leaves the extension out.
func WithKeyUsage(usage x509.KeyUsage) LeafOption {
	return func(l *LeafTemplate) { l.Template.KeyUsage = usage }
}

// WithKey uses this key instead of a new P-256 one.
func WithKey(key crypto.Signer) LeafOption {
	return func(l *LeafTemplate) { l.key = key }
}

// WithSerial sets the serial number.
func WithSerial(serial *big.Int) LeafOption {
	return func(l *LeafTemplate) { l.Template.SerialNumber = serial }
}

// AsAuthority makes the leaf a certificate authority.
func AsAuthority() LeafOption {
	return func(l *LeafTemplate) { l.Template.IsCA = true }
}

// FromRoot lets the root sign the leaf, so that the chain has no intermediate.
func FromRoot() LeafOption {
	return func(l *LeafTemplate) { l.fromRoot = true }
}

// With changes the template freely.
func With(change func(*x509.Certificate)) LeafOption {
	return func(l *LeafTemplate) { change(l.Template) }
}

// BadLeaf is a certificate that must be refused.
type BadLeaf struct {
	Name        string // a sentence's worth for a subtest
	Reason      observe.Reason
	Certificate tls.Certificate
}

// BadLeaves issues one certificate for each way in which a peer's chain can be wrong. Verified against c.Roots(), with the peer in
// either role, each must be refused for its reason. Other is a second authority of a different trust domain, and impostor one that
// calls itself by the same trust domain as c; both are made here and are in no pool.
func (c *CA) BadLeaves(t testing.TB) []BadLeaf {
	t.Helper()
	other, impostor := NewCA(t, "other."+c.TrustDomain.Name()), NewCA(t, c.TrustDomain.Name())
	id, now := c.ID(t, "/workload").String(), time.Now()
	leaf := func(options ...LeafOption) tls.Certificate { return c.Leaf(t, options...) }
	bad := []BadLeaf{
		{"two URI SANs", observe.PeerURISANs, leaf(WithURIs(id, c.ID(t, "/admin").String()))},
		{"the same URI SAN twice", observe.PeerURISANs, leaf(WithURIs(id, id))},
		{"no URI SAN", observe.PeerURISANs, leaf(WithURIs(), WithDNS("workload.test"))},
		{"a URI SAN that is no SPIFFE ID", observe.PeerInvalidID, leaf(WithURIs("https://" + c.TrustDomain.Name() + "/workload"))},
		{"a SPIFFE ID without a path", observe.PeerInvalidID, leaf(WithURIs(c.TrustDomain.IDString()))},
		{"a SPIFFE ID with a query", observe.PeerInvalidID, leaf(WithURIs(id + "?admin=1"))},
		{"an authority as leaf", observe.PeerIsCA, leaf(AsAuthority())},
		{"certificate signing among the key usages", observe.PeerKeyUsage,
			leaf(WithKeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign))},
		{"CRL signing among the key usages", observe.PeerKeyUsage,
			leaf(WithKeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign))},
		{"no digital signature among the key usages", observe.PeerKeyUsage, leaf(WithKeyUsage(x509.KeyUsageKeyEncipherment))},
		{"an extended key usage for code signing only", observe.PeerExtKeyUsage, leaf(WithExtKeyUsage(x509.ExtKeyUsageCodeSigning))},
		{"ended a minute ago", observe.PeerExpired, leaf(WithTTL(-time.Minute))},
		{"begins in an hour", observe.PeerNotYetValid, leaf(WithValidity(now.Add(time.Hour), now.Add(2*time.Hour)))},
		{"of a trust domain without bundle", observe.PeerForeignTrustDomain, other.Leaf(t)},
		{"names our trust domain, signed by another's authority", observe.PeerUntrusted, other.Leaf(t, WithURIs(id))},
		{"signed by an authority that took our name", observe.PeerUntrusted, impostor.Leaf(t)},
		{"signed by nobody but itself", observe.PeerUntrusted, c.selfSigned(t)},
	}
	return bad
}

// selfSigned returns a leaf with a correct profile that its own key signed.
func (c *CA) selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	leaf, key := c.newLeaf(t), NewKey(t)
	certificate := sign(t, leaf.Template, leaf.Template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
}
