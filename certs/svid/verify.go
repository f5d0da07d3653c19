package svid

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// DefaultMaxChain is how many certificates a peer may present: a leaf and three authorities.
const DefaultMaxChain = 4

// Bounds of the work for one peer.
const (
	// maxCertBytes bounds one presented certificate: with an RSA-8192 key and signature it has 3 KiB, with ML-DSA-87 8 KiB.
	maxCertBytes = 16 << 10
	// maxSearch bounds the signatures that path building may have to check among the presented certificates: a chain of four needs
	// three, and a few more when one of its authorities stands there twice, signed by an old and a new root.
	maxSearch = 8
)

// Role is the part that the peer plays in the handshake. The zero value is no role, and refused.
type Role uint8

// Roles.
const (
	Client Role = iota + 1 // the peer called us: its leaf needs clientAuth
	Server                 // we called the peer: its leaf needs serverAuth
)

// String returns "client" or "server".
func (r Role) String() string {
	switch r {
	case Client:
		return "client"
	case Server:
		return "server"
	default:
		return "none"
	}
}

func (r Role) extKeyUsage() (x509.ExtKeyUsage, bool) {
	switch r {
	case Client:
		return x509.ExtKeyUsageClientAuth, true
	case Server:
		return x509.ExtKeyUsageServerAuth, true
	default:
		return 0, false
	}
}

// VerifyOptions are the circumstances of one verification.
type VerifyOptions struct {
	// Now is the time at which every element of the chain must be valid; zero means time.Now.
	Now time.Time
	// Role is the part that the peer plays.
	Role Role
	// MaxChain bounds the certificates that the peer may present; 0 means DefaultMaxChain.
	MaxChain int
	// Revocations is the index asked last; nil is empty.
	Revocations *revocation.Index
}

// Verified is what is known of a peer after Verify. The zero value is nobody.
type Verified struct {
	ID spiffeid.ID
	// Chains are the verified paths, leaf first, root last; at least one.
	Chains [][]*x509.Certificate
}

// Verify judges the certificates that a peer presented (leaf first, as they came) against the roots of each trust domain that this
// process trusts. Only the roots of the leaf's own trust domain are used: an authority of one trust domain cannot vouch for another
// (SPIFFE Trust Domain and Bundle, Section 3.2). The error is an *Error. Nothing is changed or kept; it may be called concurrently.
func Verify(chain []*x509.Certificate, roots map[spiffeid.TrustDomain]*x509.CertPool, opts VerifyOptions) (Verified, error) {
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	// Certificates count in whole seconds, the last one included (RFC 5280, Section 4.1.2.5).
	opts.Now = opts.Now.Truncate(time.Second)
	if opts.MaxChain == 0 {
		opts.MaxChain = DefaultMaxChain
	}
	// The cheap rules first, and all of them before any signature is checked: a stranger's bytes cost little.
	id, err := verifyProfile(chain, opts)
	if err != nil {
		return Verified{}, err
	}
	pool := roots[id.TrustDomain()]
	if pool == nil {
		return Verified{}, refuse(observe.PeerForeignTrustDomain, "no bundle for trust domain %q", id.TrustDomain().Name())
	}
	for i, cert := range chain {
		if err := checkValidity(i, cert, opts.Now); err != nil {
			return Verified{}, err
		}
	}
	chains, err := verifyPath(chain, pool, opts)
	if err != nil {
		return Verified{}, err
	}
	// Every path is asked, not only the best: the withdrawal of a root holds for what another root signed as well.
	for _, path := range chains {
		if r, revoked := opts.Revocations.Match(path, id, opts.Now); revoked {
			return Verified{}, refuse(observe.PeerRevoked, "%s %q is revoked by revocation %q", r.Kind, r.Value, r.ID)
		}
	}
	return Verified{ID: id, Chains: chains}, nil
}

// verifyProfile applies the rules that need neither roots nor time.
func verifyProfile(chain []*x509.Certificate, opts VerifyOptions) (spiffeid.ID, error) {
	if err := checkBounds(chain, opts.MaxChain); err != nil {
		return spiffeid.ID{}, err
	}
	usage, ok := opts.Role.extKeyUsage()
	if !ok {
		return spiffeid.ID{}, refuse(observe.Internal, "the role of the peer is not set")
	}
	id, err := checkLeaf(chain[0], usage)
	if err != nil {
		return spiffeid.ID{}, err
	}
	return id, checkCertificates(chain, id.TrustDomain())
}

func checkBounds(chain []*x509.Certificate, most int) error {
	if len(chain) == 0 || slices.Contains(chain, nil) {
		return refuse(observe.PeerNoCertificate, "peer presented no certificate")
	}
	if len(chain) > most {
		return refuse(observe.PeerChainTooLong, "peer presented %d certificates, more than %d", len(chain), most)
	}
	for i, cert := range chain {
		if len(cert.Raw) > maxCertBytes {
			return refuse(observe.PeerChainTooLong, "%s has %d bytes, more than %d", position(i), len(cert.Raw), maxCertBytes)
		}
	}
	return nil
}

// checkCertificates judges each presented certificate by itself, and whether they are few enough ways to go.
func checkCertificates(chain []*x509.Certificate, domain spiffeid.TrustDomain) error {
	for i, cert := range chain {
		if err := checkStrength(i, cert); err != nil {
			return err
		}
		if err := checkForm(i, cert); err != nil {
			return err
		}
	}
	for i, cert := range chain[1:] {
		if err := checkAuthority(i+1, cert, domain); err != nil {
			return err
		}
	}
	if search(chain[0], distinct(chain[1:]), maxSearch) > maxSearch {
		return refuse(observe.PeerChainTooLong, "the presented authorities form more than %d ways to a root", maxSearch)
	}
	return nil
}

// search counts the signatures that path building from cert would check in the worst case, in which all of them hold, and stops
// beyond most. crypto/x509 follows every path, and three authorities of one name that signed each other make fifteen checks.
func search(cert *x509.Certificate, authorities []*x509.Certificate, most int) int {
	checks := 0
	for i, issuer := range authorities {
		if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
			continue
		}
		checks++
		if checks <= most {
			others := slices.Delete(slices.Clone(authorities), i, i+1)
			checks += search(issuer, others, most-checks)
		}
		if checks > most {
			break
		}
	}
	return checks
}

// distinct leaves out what a peer presents again.
func distinct(certs []*x509.Certificate) []*x509.Certificate {
	var once []*x509.Certificate
	for _, cert := range certs {
		if !slices.ContainsFunc(once, cert.Equal) {
			once = append(once, cert)
		}
	}
	return once
}

// checkValidity looks at each presented certificate by itself, because crypto/x509 reports an expired authority as an unknown one.
func checkValidity(i int, cert *x509.Certificate, now time.Time) error {
	if now.Before(cert.NotBefore) {
		return refuse(observe.PeerNotYetValid, "%s is not valid before %s", position(i), cert.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(cert.NotAfter) {
		return refuse(observe.PeerExpired, "%s expired at %s", position(i), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// verifyPath is path validation by RFC 5280, Section 6, with the extended key usage of the role along the whole path.
func verifyPath(chain []*x509.Certificate, roots *x509.CertPool, opts VerifyOptions) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	usage, _ := opts.Role.extKeyUsage()
	chains, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   opts.Now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, &Error{Reason: pathReason(err, opts.Now), Err: foreignError{err}}
	}
	return soundPaths(chains)
}

// soundPaths drops the paths that crypto/x509 lets pass and checkPath does not. If none is left, the error is that of the first.
func soundPaths(paths [][]*x509.Certificate) ([][]*x509.Certificate, error) {
	var first error
	paths = slices.DeleteFunc(paths, func(path []*x509.Certificate) bool {
		err := checkPath(path)
		if first == nil {
			first = err
		}
		return err != nil
	})
	if len(paths) == 0 {
		return nil, first
	}
	return paths, nil
}

// checkPath judges a path whose signatures hold.
func checkPath(path []*x509.Certificate) error {
	if len(path) < 2 { // a bundle that holds a leaf does not make it its own authority
		return refuse(observe.PeerUntrusted, "leaf stands among the authorities of the bundle")
	}
	root := path[len(path)-1]
	if err := CheckKey(root.PublicKey); err != nil {
		return refuse(observe.PeerWeakKey, "key of the root: %w", err)
	}
	if err := checkSigning("the root", root); err != nil {
		return err
	}
	// Revocations of an authority are found by these identifiers: they must not point elsewhere (RFC 5280, Section 4.2.1.1).
	for i, cert := range path[:len(path)-1] {
		if !bytes.Equal(cert.AuthorityKeyId, path[i+1].SubjectKeyId) {
			return refuse(observe.PeerUntrusted, "authority key id of %s is not the subject key id of its issuer", position(i))
		}
	}
	return nil
}

func pathReason(err error, now time.Time) observe.Reason {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) {
		return observe.PeerUntrusted
	}
	switch invalid.Reason {
	case x509.Expired: // said of both ends of its life
		if now.Before(invalid.Cert.NotBefore) {
			return observe.PeerNotYetValid
		}
		return observe.PeerExpired
	case x509.IncompatibleUsage:
		return observe.PeerExtKeyUsage
	case x509.TooManyIntermediates:
		return observe.PeerChainTooLong
	default:
		return observe.PeerUntrusted
	}
}
