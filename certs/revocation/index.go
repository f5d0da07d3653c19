package revocation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Index is an immutable set of revocations. A nil Index is empty. It may be used concurrently.
//
// The maps have keys that a certificate yields without allocating: Match runs in every handshake.
type Index struct {
	all         []Revocation
	serials     map[[maxSerial]byte]Revocation
	ids         map[string]Revocation
	keys        map[[sha256.Size]byte]Revocation
	authorities map[string]Revocation // raw subject key id
}

// NewIndex makes an index. Of several revocations of one subject the longest-lived answers. A revocation whose value does not
// have the form of its kind matches nothing, but is listed by All.
func NewIndex(revocations []Revocation) *Index {
	x := &Index{
		all:         slices.Clone(revocations),
		serials:     map[[maxSerial]byte]Revocation{},
		ids:         map[string]Revocation{},
		keys:        map[[sha256.Size]byte]Revocation{},
		authorities: map[string]Revocation{},
	}
	for _, r := range x.all {
		x.add(r)
	}
	return x
}

func (x *Index) add(r Revocation) {
	if r.Subject().Validate() != nil {
		return
	}
	switch r.Kind {
	case Serial:
		if serial, ok := new(big.Int).SetString(r.Value, 16); ok {
			key, _ := serialKey(serial)
			keepLonger(x.serials, key, r)
		}
	case SPIFFEID:
		keepLonger(x.ids, r.Value, r)
	case Key:
		var key [sha256.Size]byte
		if _, err := hex.Decode(key[:], []byte(r.Value)); err == nil {
			keepLonger(x.keys, key, r)
		}
	case Authority:
		if key, err := hex.DecodeString(r.Value); err == nil {
			keepLonger(x.authorities, string(key), r)
		}
	}
}

// keepLonger puts r unless one that ends later, or never, is there.
func keepLonger[K comparable](m map[K]Revocation, key K, r Revocation) {
	have, ok := m[key]
	if ok && (have.Until.IsZero() || !r.Until.IsZero() && !r.Until.After(have.Until)) {
		return
	}
	m[key] = r
}

// All returns the revocations in the order in which they were given. The slice is the caller's.
func (x *Index) All() []Revocation {
	if x == nil {
		return nil
	}
	return slices.Clone(x.all)
}

// Len returns how many revocations the index holds, ended ones included.
func (x *Index) Len() int {
	if x == nil {
		return 0
	}
	return len(x.all)
}

// Match reports the revocation, if any, that concerns the chain (leaf first) or the SPIFFE ID at now. It does not allocate, and
// its cost does not depend on the size of the index.
func (x *Index) Match(chain []*x509.Certificate, id spiffeid.ID, now time.Time) (Revocation, bool) {
	if x == nil || len(x.all) == 0 {
		return Revocation{}, false
	}
	if r, ok := x.ids[id.String()]; ok && !r.Ended(now) {
		return r, true
	}
	for i, cert := range chain {
		if r, ok := x.matchCertificate(i, cert, now); ok {
			return r, true
		}
	}
	return Revocation{}, false
}

// MatchKey reports the revocation, if any, of a public key by its DER-encoded SubjectPublicKeyInfo, before a certificate exists.
func (x *Index) MatchKey(spki []byte, now time.Time) (Revocation, bool) {
	if x == nil || len(x.keys) == 0 {
		return Revocation{}, false
	}
	r, ok := x.keys[sha256.Sum256(spki)]
	return r, ok && !r.Ended(now)
}

func (x *Index) matchCertificate(i int, cert *x509.Certificate, now time.Time) (Revocation, bool) {
	if key, fits := serialKey(cert.SerialNumber); fits {
		if r, ok := x.serials[key]; ok && !r.Ended(now) {
			return r, true
		}
	}
	if r, ok := x.MatchKey(cert.RawSubjectPublicKeyInfo, now); ok {
		return r, true
	}
	if r, ok := x.authorities[string(cert.AuthorityKeyId)]; ok && !r.Ended(now) {
		return r, true
	}
	if !namesAuthority(i, cert) {
		return Revocation{}, false
	}
	r, ok := x.authorities[string(cert.SubjectKeyId)]
	return r, ok && !r.Ended(now)
}

// serialKey returns the serial number as fixed-size bytes; false for one that no conforming certificate has.
func serialKey(serial *big.Int) (key [maxSerial]byte, fits bool) {
	if serial == nil || serial.Sign() <= 0 || serial.BitLen() > 8*maxSerial {
		return key, false
	}
	serial.FillBytes(key[:])
	return key, true
}
