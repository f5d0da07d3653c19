package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

func parseAll(t testing.TB, ders [][]byte) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		certs = append(certs, cert)
	}
	return certs
}

// Without any root there is nothing to check a signature with: what is refused for another reason than that was refused before.
func TestCostlyPresentationsAreRefusedBeforeASignatureIsChecked(t *testing.T) {
	t.Parallel()
	costly := map[string]bool{
		"29 authorities": true, "30 times the leaf": true, "RSA of 16384 bits": true, "RSA of 65536 bits": true,
		"RSA with an exponent beyond 31 bits": true, "an unrelated authority with a giant key": true,
		"three authorities of one name and key that signed each other": true, "three authorities of the root's name that signed each other": true,
		"an authority of 1 MiB": true, "a certificate of 1 MiB": true, "2000 names beside the SPIFFE ID": true, "5000 constraints": true,
		"600 policies that stand for each other in three authorities": true, "a signature over other bytes": false,
	}
	seen := 0
	for _, a := range abuses() {
		before, listed := costly[a.name]
		if !listed {
			continue
		}
		seen++
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			_, err := Verify(parseAll(t, a.present(t).chain), nil, VerifyOptions{Role: Client})
			if before {
				wantReason(t, err, a.verdict.asClient)
			} else {
				wantReason(t, err, observe.PeerForeignTrustDomain) // the control: this one only a signature tells
			}
		})
	}
	if seen != len(costly) {
		t.Errorf("%d of %d presentations are in the table", seen, len(costly))
	}
}

// countingCurve counts how often a key on it is used: crypto/ecdsa asks for the parameters in each verification.
type countingCurve struct {
	elliptic.Curve
	asked *atomic.Int64
}

func (c countingCurve) Params() *elliptic.CurveParams {
	c.asked.Add(1)
	return c.Curve.Params()
}

// signatureChecks counts the checks that path building makes with the keys of the presented authorities.
func signatureChecks(t *testing.T, chain []*x509.Certificate, root *x509.Certificate) int {
	t.Helper()
	var asked atomic.Int64
	counting := func(cert *x509.Certificate) *x509.Certificate {
		counted := *cert
		key := *cert.PublicKey.(*ecdsa.PublicKey)
		key.Curve = countingCurve{key.Curve, &asked}
		counted.PublicKey = &key
		return &counted
	}
	if err := root.CheckSignatureFrom(counting(root)); err != nil {
		t.Fatal(err)
	}
	perCheck := asked.Swap(0)
	if perCheck == 0 {
		t.Fatal("checks of signatures can't be counted like this any more")
	}
	counted := []*x509.Certificate{chain[0]}
	for _, cert := range chain[1:] {
		counted = append(counted, counting(cert))
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	_, _ = verifyPath(counted, pool, VerifyOptions{Role: Client, Now: time.Now()})
	return int(asked.Load() / perCheck)
}

func TestPathBuildingChecksAsManySignaturesAsWereCountedBefore(t *testing.T) {
	t.Parallel()
	g := tree{}.grow(t)
	_, again := g.authority("signing", g.signingKey.Public(), g.root, g.rootKey, func(c *x509.Certificate) { c.DNSNames = []string{"again.test"} })
	for _, test := range []struct {
		name  string
		chain [][]byte
		most  int
	}{
		{"one authority", [][]byte{g.leafDER, g.signingDER}, 1},
		{"three authorities", g.deep(3), 3},
		{"one authority twice", [][]byte{g.leafDER, g.signingDER, again}, 2},
		{"a circle of one", g.circle(1, "circle"), 1},
		{"a circle of two", g.circle(2, "circle"), 4},
		{"a circle of three", g.circle(3, "circle"), 15},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			chain := parseAll(t, test.chain)
			counted := search(chain[0], chain[1:], 100)
			if counted != test.most {
				t.Errorf("counted %d, want %d", counted, test.most)
			}
			if got := signatureChecks(t, chain, g.root); got > counted || got == 0 {
				t.Errorf("%d signatures were checked, counted were %d", got, counted)
			}
			_, err := verifyProfile(chain, VerifyOptions{Role: Client, MaxChain: DefaultMaxChain})
			if refusedByCount := err != nil; refusedByCount != (counted > maxSearch) {
				t.Errorf("counted %d, most are %d, and the profile says %v", counted, maxSearch, err)
			}
		})
	}
}

// The count itself must not be what costs: it stops beyond its bound, however long a chain an operator allows.
func TestSearchStopsBeyondItsBound(t *testing.T) {
	t.Parallel()
	g := tree{}.grow(t)
	chain := parseAll(t, g.circle(40, "circle"))
	if got := search(chain[0], chain[1:], maxSearch); got != maxSearch+1 {
		t.Errorf("search counted %d", got)
	}
	_, err := Verify(chain, nil, VerifyOptions{Role: Client, MaxChain: 100})
	wantReason(t, err, observe.PeerChainTooLong)
}

// giantRSA is an RSA key of 8192 bits with the largest exponent, of eight small primes: slow to verify with, quick to make.
type giantRSA struct {
	public  rsa.PublicKey
	private *big.Int
}

func newGiantRSA(t testing.TB) *giantRSA {
	t.Helper()
	for {
		n, phi, e := big.NewInt(1), big.NewInt(1), big.NewInt(maxRSAExponent)
		for range 8 {
			p, err := rand.Prime(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			n.Mul(n, p)
			phi.Mul(phi, p.Sub(p, big.NewInt(1)))
		}
		if d := new(big.Int).ModInverse(e, phi); d != nil && n.BitLen() == maxRSABits {
			return &giantRSA{rsa.PublicKey{N: n, E: maxRSAExponent}, d}
		}
	}
}

func (k *giantRSA) Public() crypto.PublicKey { return &k.public }

// Sign is PKCS #1 v1.5 with SHA-256 (RFC 8017, Section 9.2).
func (k *giantRSA) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	info := append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), digest...)
	size := maxRSABits / 8
	message := slices.Concat([]byte{0, 1}, slices.Repeat([]byte{0xff}, size-3-len(info)), []byte{0}, info)
	m := new(big.Int).SetBytes(message)
	return m.Exp(m, k.private, k.public.N).FillBytes(make([]byte, size)), nil
}

// worstChain is a leaf beneath three authorities with these keys, and its root.
func worstChain(t testing.TB, key func() crypto.Signer, algorithm x509.SignatureAlgorithm) ([]*x509.Certificate, map[spiffeid.TrustDomain]*x509.CertPool) {
	t.Helper()
	rootKey := key()
	template := authorityTemplate("root")
	template.SignatureAlgorithm = algorithm
	root, _ := mint(t, template, template, rootKey.Public(), rootKey, nil)
	issuer, issuerKey := root, rootKey
	var chain []*x509.Certificate
	for i := range DefaultMaxChain - 1 {
		next, authority := key(), authorityTemplate(fmt.Sprintf("authority %d", i))
		authority.SignatureAlgorithm = algorithm
		cert, _ := mint(t, authority, issuer, next.Public(), issuerKey, nil)
		chain = append([]*x509.Certificate{cert}, chain...)
		issuer, issuerKey = cert, next
	}
	leaf := leafTemplate()
	leaf.SignatureAlgorithm = algorithm
	names := [][]byte{uriName(mintID)}
	for i := range 900 {
		names = append(names, dnsName(fmt.Sprintf("n%d.test", i)))
	}
	leaf.ExtraExtensions = []pkix.Extension{sanExtension(names...)}
	cert, _ := mint(t, leaf, issuer, testkit.NewKey(t).Public(), issuerKey, nil)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return append([]*x509.Certificate{cert}, chain...), map[spiffeid.TrustDomain]*x509.CertPool{mintDomain: pool}
}

// BenchmarkVerifyWorst is the most that a peer with a certificate of ours can make us do: P-521 is the slowest key that is taken.
func BenchmarkVerifyWorst(b *testing.B) {
	giant := newGiantRSA(b)
	for _, bench := range []struct {
		name      string
		key       func() crypto.Signer
		algorithm x509.SignatureAlgorithm
	}{
		{"P-256", func() crypto.Signer { return testkit.NewKey(b) }, x509.ECDSAWithSHA256},
		{"P-521", func() crypto.Signer {
			key, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			return key
		}, x509.ECDSAWithSHA512},
		{"RSA-8192", func() crypto.Signer { return giant }, x509.SHA256WithRSA},
	} {
		b.Run(bench.name, func(b *testing.B) {
			chain, roots := worstChain(b, bench.key, bench.algorithm)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(chain, roots, VerifyOptions{Role: Client}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefuse is what a stranger costs whose presentation the profile refuses.
func BenchmarkRefuse(b *testing.B) {
	g := tree{}.grow(b)
	for name, ders := range map[string][][]byte{"circle": g.circle(3, "circle"), "long": g.deep(29)} {
		b.Run(name, func(b *testing.B) {
			chain := parseAll(b, ders)
			pool := x509.NewCertPool()
			pool.AddCert(g.root)
			roots := map[spiffeid.TrustDomain]*x509.CertPool{mintDomain: pool}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(chain, roots, VerifyOptions{Role: Client}); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
