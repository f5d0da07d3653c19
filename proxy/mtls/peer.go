package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
)

// Peer is the verified other end of a connection. Only a completed handshake of this package makes one; the zero value is nobody.
// It is immutable.
type Peer struct {
	id       spiffeid.ID
	chains   [][]*x509.Certificate
	serial   string
	hash     string
	issuer   string
	notAfter time.Time
	subjects []revocation.Subject
}

func newPeer(v svid.Verified) *Peer {
	leaf := v.Chains[0][0]
	sum := sha256.Sum256(leaf.Raw)
	p := &Peer{
		id:     v.ID,
		chains: v.Chains,
		serial: revocation.SerialString(leaf.SerialNumber),
		hash:   hex.EncodeToString(sum[:]),
		issuer: revocation.AuthorityString(leaf.AuthorityKeyId),
	}
	for _, path := range v.Chains {
		p.notAfter = later(p.notAfter, earliestEnd(path))
		p.subjects = union(p.subjects, revocation.Subjects(path, v.ID))
	}
	return p
}

// ID is the peer's SPIFFE ID; zero for nobody.
func (p *Peer) ID() spiffeid.ID {
	if p == nil {
		return spiffeid.ID{}
	}
	return p.id
}

// Serial is the leaf's serial number in lower-case hexadecimal.
func (p *Peer) Serial() string {
	if p == nil {
		return ""
	}
	return p.serial
}

// Hash is the SHA-256 of the leaf certificate in lower-case hexadecimal, as X-Forwarded-Client-Cert has it.
func (p *Peer) Hash() string {
	if p == nil {
		return ""
	}
	return p.hash
}

// Issuer is the key id of the authority that signed the leaf, in lower-case hexadecimal.
func (p *Peer) Issuer() string {
	if p == nil {
		return ""
	}
	return p.issuer
}

// NotAfter is when the peer stops being verified: the first end of a certificate on the longest-lived verified path.
func (p *Peer) NotAfter() time.Time {
	if p == nil {
		return time.Time{}
	}
	return p.notAfter
}

// Subjects are all by which a revocation could name the peer. The slice is shared and must not be changed.
func (p *Peer) Subjects() []revocation.Subject {
	if p == nil {
		return nil
	}
	return p.subjects
}

// Chain is the verified path, leaf first and root last; nil for nobody. The slice is shared and must not be changed.
func (p *Peer) Chain() []*x509.Certificate {
	if p == nil {
		return nil
	}
	return p.chains[0]
}

// revoked reports whether the index names the peer.
func (p *Peer) revoked(index *revocation.Index, now time.Time) (revocation.Revocation, bool) {
	if p == nil {
		return revocation.Revocation{}, false
	}
	for _, path := range p.chains {
		if r, ok := index.Match(path, p.id, now); ok {
			return r, true
		}
	}
	return revocation.Revocation{}, false
}

func earliestEnd(path []*x509.Certificate) time.Time {
	end := path[0].NotAfter
	for _, cert := range path[1:] {
		end = earlier(end, cert.NotAfter)
	}
	return end
}

// earlier returns the first of two ends; zero is no end.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// union appends the subjects that are not there yet; there are about a dozen, so looking costs less than a map.
func union(have, more []revocation.Subject) []revocation.Subject {
next:
	for _, s := range more {
		for _, h := range have {
			if h == s {
				continue next
			}
		}
		have = append(have, s)
	}
	return have
}
