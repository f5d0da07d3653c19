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
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}

	emptySubject = []byte{0x30, 0x00} // DER of a name without attributes
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
	id, err := spiffeid.FromString(uris[0])
	if err != nil {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "URI SAN %q: %w", clip(uris[0]), foreignError{err})
	}
	if id.Path() == "" {
		return spiffeid.ID{}, refuse(observe.PeerInvalidID, "SPIFFE ID %q has no path", clip(uris[0]))
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
	case bytes.Equal(cert.RawSubject, emptySubject) && !critical(cert, oidSubjectAltName):
		return refuse(observe.PeerUntrusted, "%s has neither a subject nor a critical SAN", position(i)) // Section 4.1.2.6
	case i == 0 && extension(cert, oidNameConstraints) != nil:
		return refuse(observe.PeerUntrusted, "leaf has name constraints") // Section 4.2.1.10
	}
	return nil
}

// checkAuthority judges a presented certificate above the leaf. That it may sign certificates at all is crypto/x509's to check.
func checkAuthority(i int, cert *x509.Certificate, domain spiffeid.TrustDomain) error {
	if len(cert.SubjectKeyId) == 0 {
		return refuse(observe.PeerUntrusted, "%s has no subject key id", position(i)) // RFC 5280, Section 4.2.1.2
	}
	if !critical(cert, oidBasicConstraints) {
		return refuse(observe.PeerUntrusted, "%s has no critical basic constraints", position(i)) // Section 4.2.1.9
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
		return refuse(observe.PeerUntrusted, "URI SAN %q of %s: %w", clip(uris[0]), position(i), foreignError{err})
	}
	if id.Path() != "" || id.TrustDomain() != domain {
		return refuse(observe.PeerUntrusted, "%s is the authority of %q, not of trust domain %q", position(i), clip(uris[0]), domain.Name())
	}
	return nil
}

// uriSANs returns the URI SANs of a parsed certificate as they stand in its bytes.
func uriSANs(cert *x509.Certificate) ([]string, error) {
	value := extension(cert, oidSubjectAltName)
	if value == nil {
		return nil, nil
	}
	const tagURI = 6 // GeneralName, RFC 5280, Section 4.2.1.6
	var names asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 || names.Tag != asn1.TagSequence {
		return nil, errors.New("subject alternative name is malformed")
	}
	var uris []string
	for rest := names.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil, errors.New("subject alternative name is malformed")
		}
		if name.Class == asn1.ClassContextSpecific && name.Tag == tagURI {
			uris = append(uris, string(name.Bytes))
		}
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
