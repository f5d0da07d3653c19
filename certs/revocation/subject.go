package revocation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxSerial is the longest serial number, in octets (RFC 5280, Section 4.1.2.2).
const maxSerial = 20

// Subject is one thing a revocation can name: the key under which an Index and a connection registry look.
type Subject struct {
	Kind  Kind
	Value string
}

// Subjects returns everything by which a connection of this peer could be revoked: the SPIFFE ID, and of each certificate of the
// chain (leaf first; the root may be left out) its serial number, key and authority key ids. A zero id is left out. No subject
// stands twice.
func Subjects(chain []*x509.Certificate, id spiffeid.ID) []Subject {
	subjects := make([]Subject, 0, 1+4*len(chain))
	add := func(kind Kind, value string) {
		s := Subject{Kind: kind, Value: value}
		for _, have := range subjects { // a dozen at most: cheaper than a map
			if have == s {
				return
			}
		}
		subjects = append(subjects, s)
	}
	if !id.IsZero() {
		add(SPIFFEID, id.String())
	}
	for i, cert := range chain {
		add(Serial, SerialString(cert.SerialNumber))
		add(Key, KeyString(cert))
		if len(cert.AuthorityKeyId) > 0 {
			add(Authority, AuthorityString(cert.AuthorityKeyId))
		}
		if namesAuthority(i, cert) {
			add(Authority, AuthorityString(cert.SubjectKeyId))
		}
	}
	return subjects
}

// SerialString returns a serial number in the form of a Revocation's Value: lower-case hex without leading zeros. Nil is "".
func SerialString(serial *big.Int) string {
	if serial == nil {
		return ""
	}
	return serial.Text(16)
}

// KeyString returns the hash of the certificate's public key in the form of a Revocation's Value.
func KeyString(cert *x509.Certificate) string {
	return KeyHash(cert.RawSubjectPublicKeyInfo)
}

// KeyHash returns the hash of a DER-encoded SubjectPublicKeyInfo in the form of a Revocation's Value.
func KeyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// AuthorityString returns a subject key id in the form of a Revocation's Value.
func AuthorityString(subjectKeyID []byte) string {
	return hex.EncodeToString(subjectKeyID)
}

// namesAuthority reports whether the subject key id of the chain's i-th certificate is one of an authority. A leaf's is not: it
// signs nothing.
func namesAuthority(i int, cert *x509.Certificate) bool {
	return (i > 0 || cert.IsCA) && len(cert.SubjectKeyId) > 0
}
