package source

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/postern-proxy/postern/certs/revocation"
)

// Types of PEM blocks (RFC 7468; RFC 5915 and PKCS #1 for the older forms of keys).
const (
	pemCertificate     = "CERTIFICATE"
	pemRevocationList  = "X509 CRL"
	pemPKCS8PrivateKey = "PRIVATE KEY"
	pemECPrivateKey    = "EC PRIVATE KEY"
	pemRSAPrivateKey   = "RSA PRIVATE KEY"
)

// parse makes the credential, or says which of the files does not fit.
func (c fileContents) parse(from FilesOptions, generation uint64) (*X509, []revocation.Revocation, error) {
	chain, err := parseCertificates(c.certificate)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate file %q: %w", from.Certificate, err)
	}
	key, err := parseKey(c.key)
	if err != nil {
		return nil, nil, fmt.Errorf("key file %q: %w", from.Key, err)
	}
	authorities, err := parseCertificates(c.bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("bundle file %q: %w", from.Bundle, err)
	}
	id, err := checkLeaf(chain, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate file %q and key file %q: %w", from.Certificate, from.Key, err)
	}
	if end := notAfter(chain); !time.Now().Before(end) {
		return nil, nil, fmt.Errorf("certificate file %q: SVID of %q ended at %s", from.Certificate, id.String(), end.Format(time.RFC3339))
	}
	revocations, err := parseRevocationLists(c.crl, append(authorities[:len(authorities):len(authorities)], chain[1:]...))
	if err != nil {
		return nil, nil, fmt.Errorf("CRL file %q: %w", from.CRL, err)
	}
	set := x509bundle.NewSet(x509bundle.FromX509Authorities(id.TrustDomain(), authorities))
	x, err := NewX509(chain, key, set, generation)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate file %q: %w", from.Certificate, err)
	}
	return x, revocations, nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

// parseKey takes the first private key. Its errors never quote what is in the file.
func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case pemPKCS8PrivateKey:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case pemECPrivateKey:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case pemRSAPrivateKey:
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, errors.New("malformed private key")
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, errors.New("private key that cannot sign")
		}
		return signer, nil
	}
	return nil, errors.New("no unencrypted private key in it")
}

// parseRevocationLists takes the serials of lists that an issuer signed (RFC 5280, Section 6.3.3). A list past its next update is
// still taken: what it revokes stays revoked.
func parseRevocationLists(data []byte, issuers []*x509.Certificate) ([]revocation.Revocation, error) {
	var revocations []revocation.Revocation
	lists := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemRevocationList {
			continue
		}
		lists++
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse list %d: %w", lists, err)
		}
		if !signedByOne(list, issuers) {
			return nil, fmt.Errorf("list %d is not signed by an authority of the bundle", lists)
		}
		for _, entry := range list.RevokedCertificateEntries {
			serial := entry.SerialNumber.Text(16)
			revocations = append(revocations, revocation.Revocation{
				ID: "crl:" + serial, Kind: revocation.Serial, Value: serial, Reason: "CRL", By: list.Issuer.String(), At: entry.RevocationTime,
			})
		}
	}
	if lists == 0 && len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("no revocation list in it")
	}
	return revocations, nil
}

func signedByOne(list *x509.RevocationList, issuers []*x509.Certificate) bool {
	for _, issuer := range issuers {
		if list.CheckSignatureFrom(issuer) == nil {
			return true
		}
	}
	return false
}
