package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
)

// Type is the algorithm and size of a key. The zero value means ECP256.
type Type string

// Types of keys.
const (
	ECP256  Type = "ec_p256"
	ECP384  Type = "ec_p384"
	Ed25519 Type = "ed25519"
	RSA2048 Type = "rsa_2048"
	RSA3072 Type = "rsa_3072"
	RSA4096 Type = "rsa_4096"
)

// Types returns every type there is, the default first.
func Types() []Type { return []Type{ECP256, ECP384, Ed25519, RSA2048, RSA3072, RSA4096} }

// ParseType returns the type with that name; "" is ECP256.
func ParseType(name string) (Type, error) {
	if name == "" {
		return ECP256, nil
	}
	names := make([]string, 0, len(Types()))
	for _, t := range Types() {
		if name == string(t) {
			return t, nil
		}
		names = append(names, string(t))
	}
	return "", fmt.Errorf("key type %q is none of %s", name, strings.Join(names, ", "))
}

// Generate makes a key of the type in memory, for a workload or a node; the authority's own keys come from a Manager.
func Generate(t Type) (crypto.Signer, error) {
	switch t {
	case ECP256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, fmt.Errorf("generate key: type %q is unknown", t)
	}
}
