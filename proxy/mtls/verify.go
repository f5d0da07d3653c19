package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
)

// verification judges the peer of one handshake and keeps the verdict.
type verification struct {
	epoch  *epoch
	role   svid.Role
	index  func() *revocation.Index // asked at the last moment; it may be newer than the epoch's
	now    func() time.Time
	expect func(*Peer) error // nil expects nobody in particular
	chain  *verifiedChain    // nil until the peer is verified
	err    error
}

// verify is a tls.Config.VerifyConnection: crypto/tls calls it in every handshake, and for a resumed session with the certificates
// that the peer presented when the session began. It comes before the peer has proved possession of its key, so what it keeps
// counts only once the handshake is done.
func (v *verification) verify(state tls.ConnectionState) error {
	chain, err := v.epoch.verify(state.PeerCertificates, v.role, v.index(), v.now())
	if err == nil && v.expect != nil {
		err = v.expect(chain.peer)
	}
	if err != nil {
		v.err = err
		return fmt.Errorf("verify peer: %w", err)
	}
	v.chain = chain
	if !state.DidResume {
		// The slice is the one of the connection, which keeps it: with equal certificates in it that are shared, a parsed chain
		// of 3 KiB and the message that it came in are let go. Of a resumed session the slice is shared with others already.
		copy(state.PeerCertificates, chain.presented)
	}
	return nil
}

// verify judges what a peer presented by the bundles of the epoch, the index and the clock. What was verified before need not be
// verified again while all of them say the same; in every doubt svid.Verify decides, and says why it refuses.
func (e *epoch) verify(presented []*x509.Certificate, role svid.Role, index *revocation.Index, now time.Time) (*verifiedChain, error) {
	key := keyOf(presented)
	known := e.chains.get(key)
	if known != nil && known.holds(index, now) {
		return known, nil
	}
	verified, err := svid.Verify(presented, e.x509.Roots, svid.VerifyOptions{Now: now, Role: role, Revocations: index})
	if err != nil {
		e.chains.remove(key)
		return nil, err
	}
	if known != nil {
		presented = known.presented // equal, and shared already
	}
	peer := newPeer(verified)
	chain := &verifiedChain{key: key, presented: append([]*x509.Certificate(nil), presented...), peer: peer, verified: now,
		subjects: union(append([]revocation.Subject(nil), peer.subjects...), e.subjects)}
	e.chains.put(chain)
	return chain, nil
}
