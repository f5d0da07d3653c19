package svid

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/internal/observe"
)

var (
	oidKeyUsage          = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName    = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints  = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints   = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidPolicyConstraints = asn1.ObjectIdentifier{2, 5, 29, 36}
	oidExtKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidInhibitAnyPolicy  = asn1.ObjectIdentifier{2, 5, 29, 54}

	emptyName = []byte{0x30, 0x00} // DER of a name without attributes
)

// Longest SPIFFE ID and trust domain, in bytes (SPIFFE-ID, Section 2.3); package spiffeid does not ask.
const (
	maxID          = 2048
	maxTrustDomain = 255
)

// checkLeaf is SPIFFE X509-SVID, Section 5.2, and what this project asks beyond it: digitalSignature and the extended key usage of
// the role must be there, not merely not contradicted.
func checkLeaf(leaf *x509.Certificate, usage x509.ExtKeyUsage) (spiffeid.ID, error) {
	if leaf.IsCA {
		return spiffeid.ID{}, refuse(observe.PeerIsCA, "leaf is a certificate authority")
	}
	id, err := leafID(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if err := checkLeafUsage(leaf, usage); err != nil {
		return spiffeid.ID{}, err
	}
	return id, nil
}

// leafID reads the SPIFFE ID from the bytes of the certificate. The parsed URIs will not do: url.URL forgives what a SPIFFE ID may
// not have, such as an upper-case scheme or an empty fragment, and does not give it back.
func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	uris, err := uriSANs(leaf)
	if err != nil {
		return spiffeid.ID{}, refuse(observe.PeerURISANs, "%w", err)
	}
	if len(uris) != 1 {
		return spiffeid.ID{}, refuse(observe.PeerURISANs, "leaf has %d URI SANs instead of one", len(uris))
	}
	if len(uris[0]) > maxID {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "URI SAN has %d bytes, more than %d", len(uris[0]), maxID)
	}
	id, err := spiffeid.FromString(uris[0])
	if err != nil {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "URI SAN %+q: %w", clip(uris[0]), foreignError{err})
	}
	if n := len(id.TrustDomain().Name()); n > maxTrustDomain {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "trust domain has %d bytes, more than %d", n, maxTrustDomain)
	}
	if id.Path() == "" {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "SPIFFE ID %+q has no path", clip(uris[0]))
	}
	return id, nil
}

// checkLeafUsage works on parsed certificates and on templates alike.
func checkLeafUsage(leaf *x509.Certificate, usages ...x509.ExtKeyUsage) error {
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(observe.PeerKeyUsage, "key usage of the leaf lacks digitalSignature")
	}
	if leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return refuse(observe.PeerKeyUsage, "key usage of the leaf has keyCertSign or cRLSign")
	}
	for _, usage := range usages {
		if !slices.Contains(leaf.ExtKeyUsage, usage) {
			return refuse(observe.PeerExtKeyUsage, "extended key usage of the leaf lacks %s", usage)
		}
	}
	return nil
}

// checkStrength is the floor for the key of a certificate and for the signature on it.
func checkStrength(i int, cert *x509.Certificate) error {
	if err := CheckKey(cert.PublicKey); err != nil {
		return refuse(observe.PeerWeakKey, "key of %s: %w", position(i), err)
	}
	if !strongSignature(cert.SignatureAlgorithm) {
		return refuse(observe.PeerWeakKey, "signature algorithm of %s is %s", position(i), cert.SignatureAlgorithm)
	}
	return nil
}

// checkForm holds what RFC 5280 demands of any certificate and crypto/x509 lets pass.
func checkForm(i int, cert *x509.Certificate) error {
	switch {
	case cert.Version != 3:
		return refuse(observe.PeerUntrusted, "%s has version %d", position(i), cert.Version)
	case cert.SerialNumber == nil || cert.SerialNumber.Sign() <= 0:
		return refuse(observe.PeerUntrusted, "serial number of %s is not positive", position(i)) // RFC 5280, Section 4.1.2.2
	case cert.SerialNumber.BitLen()/8+1 > 20:
		return refuse(observe.PeerUntrusted, "serial number of %s has more than 20 octets", position(i)) // the same
	case len(cert.AuthorityKeyId) == 0 && (i == 0 || !selfIssued(cert)):
		return refuse(observe.PeerUntrusted, "%s has no authority key id", position(i)) // RFC 5280, Section 4.2.1.1
	case bytes.Equal(cert.RawIssuer, emptyName):
		return refuse(observe.PeerUntrusted, "%s has no issuer", position(i)) // Section 4.1.2.4
	case bytes.Equal(cert.RawSubject, emptyName) && !critical(cert, oidSubjectAltName):
		return refuse(observe.PeerUntrusted, "%s has neither a subject nor a critical SAN", position(i)) // Section 4.1.2.6
	case i == 0 && extension(cert, oidNameConstraints) != nil:
		return refuse(observe.PeerUntrusted, "leaf has name constraints") // Section 4.2.1.10
	case extension(cert, oidExtKeyUsage) != nil && len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0:
		return refuse(observe.PeerExtKeyUsage, "extended key usage of %s is empty", position(i)) // Section 4.2.1.12
	}
	if err := checkEncoding(cert); err != nil {
		return refuse(observe.PeerUntrusted, "%s: %w", position(i), err)
	}
	return nil
}

// checkAuthority judges a presented certificate above the leaf.
func checkAuthority(i int, cert *x509.Certificate, domain spiffeid.TrustDomain) error {
	if err := checkSigning(position(i), cert); err != nil {
		return err
	}
	if extension(cert, oidKeyUsage) == nil { // of a root that the bundle vouches for it is not asked: many tools leave it out
		return refuse(observe.PeerUntrusted, "%s has no key usage", position(i)) // SPIFFE X509-SVID, Section 4.3
	}
	uris, err := uriSANs(cert)
	if err != nil {
		return refuse(observe.PeerUntrusted, "%s: %w", position(i), err)
	}
	if len(uris) == 0 {
		return nil // "A signing certificate SHOULD itself be an SVID": it need not.
	}
	if len(uris) > 1 {
		return refuse(observe.PeerUntrusted, "%s has %d URI SANs", position(i), len(uris))
	}
	id, err := spiffeid.FromString(uris[0])
	if err != nil {
		return refuse(observe.PeerUntrusted, "URI SAN %+q of %s: %w", clip(uris[0]), position(i), foreignError{err})
	}
	if id.Path() != "" || id.TrustDomain() != domain {
		return refuse(observe.PeerUntrusted, "%s is the authority of %+q, not of trust domain %q", position(i), clip(uris[0]), domain.Name())
	}
	return nil
}

// checkSigning holds what makes a certificate an authority, be it presented or a root of the bundle.
func checkSigning(name string, cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return refuse(observe.PeerUntrusted, "%s is no certificate authority", name)
	case !critical(cert, oidBasicConstraints):
		return refuse(observe.PeerUntrusted, "%s has no critical basic constraints", name) // RFC 5280, Section 4.2.1.9
	case extension(cert, oidKeyUsage) != nil && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuse(observe.PeerUntrusted, "key usage of %s lacks keyCertSign", name) // Section 4.2.1.3
	case len(cert.SubjectKeyId) == 0:
		return refuse(observe.PeerUntrusted, "%s has no subject key id", name) // RFC 5280, Section 4.2.1.2
	case bytes.Equal(cert.RawSubject, emptyName):
		return refuse(observe.PeerUntrusted, "%s has no subject", name) // Section 4.1.2.6
	}
	// "Conforming CAs MUST mark this extension as critical": so that nobody passes over a restriction.
	for _, oid := range []asn1.ObjectIdentifier{oidNameConstraints, oidPolicyConstraints, oidInhibitAnyPolicy} {
		if extension(cert, oid) != nil && !critical(cert, oid) {
			return refuse(observe.PeerUntrusted, "%s has constraints that are not critical", name) // Sections 4.2.1.10, .11, .14
		}
	}
	return nil
}

// uriSANs returns the URI SANs of a parsed certificate as they stand in its bytes. What is no GeneralName, or a URI in a form that
// one reader takes for a URI and another does not, makes the whole extension malformed.
func uriSANs(cert *x509.Certificate) ([]string, error) {
	value := extension(cert, oidSubjectAltName)
	if value == nil {
		return nil, nil
	}
	const tagURI, tagLast = 6, 8 // GeneralName, RFC 5280, Section 4.2.1.6
	malformed := errors.New("subject alternative name is malformed")
	var names asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 || names.Tag != asn1.TagSequence {
		return nil, malformed
	}
	var uris []string
	for rest := names.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil || name.Class != asn1.ClassContextSpecific || name.Tag > tagLast {
			return nil, malformed
		}
		if name.Tag != tagURI {
			continue
		}
		if name.IsCompound {
			return nil, malformed
		}
		uris = append(uris, string(name.Bytes))
	}
	return uris, nil
}

func extension(cert *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

func critical(cert *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Critical
		}
	}
	return false
}

// selfIssued reports a root, which needs no authority key id and which a peer may send along.
func selfIssued(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer)
}

// position names a certificate of a chain in an error.
func position(i int) string {
	if i == 0 {
		return "leaf"
	}
	return fmt.Sprintf("certificate %d of the chain", i)
}
