package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
)

// Bounds of RSA keys. NIST SP 800-131A has the lower one; the upper one is crypto/tls's, against keys made to burn our CPU.
const (
	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 65537
	maxRSAExponent = 1<<31 - 1
)

// CheckKey refuses public keys below the floor: it takes ECDSA on P-256, P-384 and P-521, Ed25519, and RSA of 2048 to 8192 bits in
// whole octets, with an odd exponent of at least 65537.
func CheckKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("curve is none of P-256, P-384, P-521")
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("key for Ed25519 has %d bytes", len(key))
		}
		return nil
	case *rsa.PublicKey:
		return checkRSA(key)
	default:
		return errors.New("type of key is none of ECDSA, Ed25519, RSA")
	}
}

func checkRSA(key *rsa.PublicKey) error {
	bits := key.N.BitLen()
	switch {
	case bits < minRSABits || bits > maxRSABits:
		return fmt.Errorf("RSA modulus has %d bits, not %d to %d", bits, minRSABits, maxRSABits)
	case bits%8 != 0:
		return fmt.Errorf("RSA modulus has %d bits, which are no whole octets", bits) // no sound generator makes such keys
	case key.N.Bit(0) == 0:
		return errors.New("RSA modulus is even")
	case key.E < minRSAExponent || key.E > maxRSAExponent || key.E%2 == 0:
		return fmt.Errorf("RSA exponent is %d, not odd and from %d", key.E, minRSAExponent)
	}
	return nil
}

// strongSignature refuses MD5, SHA-1, DSA and what crypto/x509 does not know. On roots of the bundle it is not asked: nothing rests
// on their own signatures.
func strongSignature(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm { // an allow-list
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.PureEd25519:
		return true
	default:
		return false
	}
}
