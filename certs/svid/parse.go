package svid

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Bounds of what is parsed, in bytes and in certificates: a chain of four RSA-8192 certificates has 10 KiB.
const (
	maxChainBytes = 256 << 10
	maxChainCerts = 64
	maxCSRBytes   = 16 << 10
)

// ParseChain parses certificates from PEM (blocks of other types are skipped, so a file with the key beside them will do) or from
// DER one after the other. At least one must be there. Their order is kept.
func ParseChain(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxChainBytes {
		return nil, fmt.Errorf("parse certificates: %d bytes are more than %d", len(data), maxChainBytes)
	}
	der := data
	if bytes.Contains(data, []byte("-----BEGIN")) {
		der = certificateBlocks(data)
	}
	chain, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificates: %w", foreignError{err})
	}
	if len(chain) == 0 {
		return nil, errors.New("parse certificates: there is none")
	}
	if len(chain) > maxChainCerts {
		return nil, fmt.Errorf("parse certificates: %d are more than %d", len(chain), maxChainCerts)
	}
	return chain, nil
}

// certificateBlocks returns the certificates of PEM text as DER, one after the other.
func certificateBlocks(text []byte) []byte {
	var der []byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return der
		}
		if block.Type == "CERTIFICATE" {
			der = append(der, block.Bytes...)
		}
	}
}

// MarshalPEM returns the certificates as PEM blocks, in their order.
func MarshalPEM(chain []*x509.Certificate) []byte {
	var text []byte
	for _, cert := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return text
}

// ValidateCSR returns the public key of a PKCS #10 request in DER once its signature, made with the private key, and the floor for
// keys are checked. Everything else that the request asks for is ignored: names, usages and times are the authority's to choose.
func ValidateCSR(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSRBytes {
		return nil, fmt.Errorf("verify certificate request: %d bytes are more than %d", len(der), maxCSRBytes)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", foreignError{err})
	}
	// The key first: a weak or outsized one is not worth a signature check.
	if err := CheckKey(request.PublicKey); err != nil {
		return nil, fmt.Errorf("key of the certificate request: %w", err)
	}
	if !strongSignature(request.SignatureAlgorithm) {
		return nil, fmt.Errorf("signature algorithm of the certificate request is %s", request.SignatureAlgorithm)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("verify signature of the certificate request: %w", foreignError{err})
	}
	return request.PublicKey, nil
}
