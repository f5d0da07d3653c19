package source

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// X509 is an X.509-SVID with its key and the bundles of the same moment. It is immutable: a renewal, or a changed bundle, makes a
// new one with a higher Generation.
type X509 struct {
	ID spiffeid.ID
	// Certificate has the leaf first, then intermediates, the key and the parsed Leaf.
	Certificate tls.Certificate
	// Bundles has this trust domain's bundle and those of the trust domains it federates with.
	Bundles *x509bundle.Set
	// Roots has a pool for each trust domain of Bundles, made once.
	Roots map[spiffeid.TrustDomain]*x509.CertPool
	// Generation grows with every change of certificate, key or bundles; it is never 0.
	Generation uint64
	NotBefore  time.Time
	NotAfter   time.Time

	chain []*x509.Certificate
}

// NewX509 puts chain (the leaf first), key and bundles together. It refuses a key that is not the leaf's, a leaf that is not an
// X.509-SVID (SPIFFE X509-SVID, Sections 2 and 4), and bundles without the SVID's own trust domain. It does not verify the chain:
// that is for whoever relies on it. The SVID keeps the arguments; the caller no longer changes them.
func NewX509(chain []*x509.Certificate, key crypto.Signer, bundles *x509bundle.Set, generation uint64) (*X509, error) {
	id, err := checkLeaf(chain, key)
	if err != nil {
		return nil, err
	}
	if !bundles.Has(id.TrustDomain()) {
		return nil, fmt.Errorf("no bundle for trust domain %q of SVID %q", id.TrustDomain().Name(), id.String())
	}
	x := newX509(id, chain, key)
	return x.withBundles(bundles, rootsOf(bundles), generation), nil
}

// Chain returns the parsed certificates, leaf first. The slice is shared and must not be changed.
func (x *X509) Chain() []*x509.Certificate { return x.chain }

// Signer returns the private key.
func (x *X509) Signer() crypto.Signer { return x.Certificate.PrivateKey.(crypto.Signer) }

func newX509(id spiffeid.ID, chain []*x509.Certificate, key crypto.Signer) *X509 {
	raw := make([][]byte, len(chain))
	for i, cert := range chain {
		raw[i] = cert.Raw
	}
	return &X509{
		ID:          id,
		Certificate: tls.Certificate{Certificate: raw, PrivateKey: key, Leaf: chain[0]},
		NotBefore:   chain[0].NotBefore,
		NotAfter:    notAfter(chain),
		chain:       chain,
	}
}

// withBundles returns the same certificate and key beside other bundles.
func (x *X509) withBundles(set *x509bundle.Set, roots map[spiffeid.TrustDomain]*x509.CertPool, generation uint64) *X509 {
	next := *x
	next.Bundles, next.Roots, next.Generation = set, roots, generation
	return &next
}

// notAfter is when the chain as a whole ends: an SVID is of no use after its issuer.
func notAfter(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

// checkLeaf refuses what could not serve as an X.509-SVID and returns its SPIFFE ID.
func checkLeaf(chain []*x509.Certificate, key crypto.Signer) (spiffeid.ID, error) {
	if len(chain) == 0 {
		return spiffeid.ID{}, errors.New("no certificate")
	}
	leaf := chain[0]
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("read SPIFFE ID of certificate: %w", err)
	}
	switch {
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("certificate of %q names a trust domain, not a workload", id.String())
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("certificate of %q is a signing certificate", id.String())
	case key == nil:
		return spiffeid.ID{}, fmt.Errorf("no key for certificate of %q", id.String())
	}
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return spiffeid.ID{}, fmt.Errorf("key does not belong to certificate of %q", id.String())
	}
	return id, nil
}

func rootsOf(set *x509bundle.Set) map[spiffeid.TrustDomain]*x509.CertPool {
	roots := make(map[spiffeid.TrustDomain]*x509.CertPool, set.Len())
	for _, bundle := range set.Bundles() {
		pool := x509.NewCertPool()
		for _, authority := range bundle.X509Authorities() {
			pool.AddCert(authority)
		}
		roots[bundle.TrustDomain()] = pool
	}
	return roots
}
