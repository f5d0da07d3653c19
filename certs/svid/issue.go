package svid

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxDNSNames bounds the DNS SANs of one SVID.
const MaxDNSNames = 16

// Leaf is what an authority is about to sign.
type Leaf struct {
	ID        spiffeid.ID
	PublicKey crypto.PublicKey
	Serial    *big.Int
	NotBefore time.Time
	NotAfter  time.Time
	DNSNames  []string
	Authority *x509.Certificate
}

// Template returns the certificate to be signed, after every rule of the profile that can be checked before there is a signature:
// this is the lint that stands before the authority's key. The subject is empty and the SAN critical (SPIFFE X509-SVID, Section 3.1;
// RFC 5280, Section 4.1.2.6), so nothing but the SPIFFE ID names the holder.
func Template(leaf Leaf) (*x509.Certificate, error) {
	if err := checkIdentity(leaf); err != nil {
		return nil, err
	}
	if err := checkDNSNames(leaf.DNSNames); err != nil {
		return nil, err
	}
	if err := checkSerial(leaf.Serial); err != nil {
		return nil, err
	}
	if err := checkLife(leaf); err != nil {
		return nil, err
	}
	keyID, err := SubjectKeyID(leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          leaf.Serial,
		NotBefore:             leaf.NotBefore,
		NotAfter:              leaf.NotAfter,
		URIs:                  []*url.URL{leaf.ID.URL()},
		DNSNames:              leaf.DNSNames,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // CA:FALSE, said aloud
		SubjectKeyId:          keyID,
	}
	return template, checkLeafUsage(template, template.ExtKeyUsage...)
}

func checkIdentity(leaf Leaf) error {
	if leaf.ID.Path() == "" {
		return fmt.Errorf("SPIFFE ID %q has no path", leaf.ID.String())
	}
	if n := len(leaf.ID.String()); n > maxID {
		return fmt.Errorf("SPIFFE ID has %d bytes, more than %d", n, maxID)
	}
	if leaf.Authority == nil || !leaf.Authority.IsCA || leaf.Authority.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("authority is no certificate authority")
	}
	if len(leaf.Authority.SubjectKeyId) == 0 {
		return errors.New("authority has no subject key id")
	}
	return CheckKey(leaf.PublicKey)
}

func checkSerial(serial *big.Int) error {
	if serial == nil || serial.Sign() <= 0 || serial.BitLen()/8+1 > 20 {
		return errors.New("serial number is not positive with at most 20 octets") // RFC 5280, Section 4.1.2.2
	}
	return nil
}

func checkLife(leaf Leaf) error {
	switch {
	case !leaf.NotBefore.Before(leaf.NotAfter):
		return errors.New("certificate would end before it begins")
	case leaf.NotBefore.Before(leaf.Authority.NotBefore):
		return errors.New("certificate would begin before its authority")
	case leaf.NotAfter.After(leaf.Authority.NotAfter):
		return errors.New("certificate would outlive its authority")
	}
	return nil
}

// checkDNSNames takes host names in their canonical form only: what is signed must compare equal to what a client checks.
func checkDNSNames(names []string) error {
	if len(names) > MaxDNSNames {
		return fmt.Errorf("%d DNS names are more than %d", len(names), MaxDNSNames)
	}
	for i, name := range names {
		if !validDNSName(name) {
			return fmt.Errorf("DNS name %q is not a lower-case host name without wildcard", clip(name))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("DNS name %q stands twice", name)
		}
	}
	return nil
}

func validDNSName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// CheckIssued verifies a leaf that an authority has just signed, from its bytes: its signature, its place under the authority and
// the whole profile, for both roles. A key that no longer signs what its certificate says is noticed here.
func CheckIssued(cert, authority *x509.Certificate) error {
	if err := cert.CheckSignatureFrom(authority); err != nil {
		return fmt.Errorf("verify the signature just made: %w", err)
	}
	if !bytes.Equal(cert.AuthorityKeyId, authority.SubjectKeyId) {
		return errors.New("authority key id is not the authority's subject key id")
	}
	if _, err := checkLeaf(cert, x509.ExtKeyUsageServerAuth); err != nil {
		return err
	}
	if _, err := checkLeaf(cert, x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	if err := checkStrength(0, cert); err != nil {
		return err
	}
	return checkForm(0, cert)
}

// SubjectKeyID returns the key identifier of a public key: the first 160 bits of SHA-256 over its subjectPublicKey (RFC 7093,
// Section 2, method 1).
func SubjectKeyID(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	sum := sha256.Sum256(info.PublicKey.Bytes)
	return sum[:20], nil
}
