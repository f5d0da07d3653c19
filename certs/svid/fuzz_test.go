package svid

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/postern-proxy/postern/internal/testkit"
)

// corpusTime lies within the life of the chains of the seed corpus, which testkit's authority made: a good one, and one for each bad
// leaf. Their root is testdata/root.pem; it is fixed so that every fuzzing process accepts the same seeds.
var corpusTime = time.Date(2026, 11, 23, 21, 45, 31, 0, time.UTC)

var corpusDomain = spiffeid.RequireTrustDomainFromString("example.org")

func corpusAuthorities(t testing.TB) []*x509.Certificate {
	t.Helper()
	text, err := os.ReadFile("testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	authorities, err := ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	return authorities
}

func corpusRoots(t testing.TB) map[spiffeid.TrustDomain]*x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(corpusAuthorities(t)[0])
	return map[spiffeid.TrustDomain]*x509.CertPool{corpusDomain: pool}
}

// Whatever a peer presents: no panic, a reason for each refusal, and nothing accepted that go-spiffe refuses.
func FuzzVerify(f *testing.F) {
	roots := corpusRoots(f)
	bundle := x509bundle.FromX509Authorities(corpusDomain, corpusAuthorities(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := x509.ParseCertificates(der)
		if err != nil {
			return
		}
		for _, role := range roles {
			verified, err := Verify(chain, roots, VerifyOptions{Role: role, Now: corpusTime})
			if err != nil {
				refused, ok := err.(*Error) //nolint:errorlint // every error is one, unwrapped
				if !ok || refused.Reason == "" {
					t.Fatalf("error without a reason: %v", err)
				}
				if len(err.Error()) > 4096 {
					t.Fatalf("error of %d bytes", len(err.Error()))
				}
				continue
			}
			id, _, err := x509svid.Verify(chain, bundle, x509svid.WithTime(corpusTime))
			if err != nil || id != verified.ID {
				t.Fatalf("accepted %q, but go-spiffe says %q, %v", verified.ID, id, err)
			}
		}
	})
}

// fuzzTree is an authority with fixed keys and times: it signs whatever the fuzzer makes of a leaf, so that mutations reach behind
// the check of the signature.
func fuzzTree(t testing.TB) (root, signing *x509.Certificate, key ed25519.PrivateKey) {
	t.Helper()
	seed := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
	}
	life := func(c *x509.Certificate) {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), corpusTime.Add(-time.Hour), corpusTime.Add(time.Hour)
	}
	template := authorityTemplate("root")
	life(template)
	root, _ = mint(t, template, template, seed(1).Public(), seed(1), nil)
	template = authorityTemplate("signing")
	life(template)
	signing, _ = mint(t, template, root, seed(2).Public(), seed(1), nil)
	return root, signing, seed(2)
}

// resign puts a signature of the key on a certificate, over its TBSCertificate as it stands; nil if there is none to be found.
func resign(cert []byte, key ed25519.PrivateKey) []byte {
	var outer, tbs, algorithm asn1.RawValue
	if _, err := asn1.Unmarshal(cert, &outer); err != nil {
		return nil
	}
	rest, err := asn1.Unmarshal(outer.Bytes, &tbs)
	if err != nil {
		return nil
	}
	if rest, err = asn1.Unmarshal(rest, &algorithm); err != nil {
		return nil
	}
	if _, err = asn1.Unmarshal(rest, &algorithm); err == nil {
		rest, _ = asn1.Unmarshal(rest, &algorithm) // what follows the signature stays
	}
	return der(tagSequence, tbs.FullBytes, []byte("\x30\x05\x06\x03\x2b\x65\x70"), der(tagBits, []byte{0}, ed25519.Sign(key, tbs.FullBytes)), rest)
}

// Whatever an authority of the bundle signs: no panic; nothing accepted that the profile alone refuses, nor that go-spiffe refuses, nor
// without what a leaf must have.
func FuzzVerifyLeaf(f *testing.F) {
	root, signing, key := fuzzTree(f)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	roots := map[spiffeid.TrustDomain]*x509.CertPool{corpusDomain: pool}
	bundle := x509bundle.FromX509Authorities(corpusDomain, []*x509.Certificate{root})
	for _, edit := range []func(*rawCertificate){
		func(*rawCertificate) {},
		func(r *rawCertificate) {
			r.set(oidSubjectAltName, true, der(tagSequence, uriName(mintID), uriName(mintID+"2"), dnsName("a.test")))
		},
		func(r *rawCertificate) { r.drop(oidExtKeyUsage) },
		func(r *rawCertificate) { r.afterSignature = []byte(null) },
		func(r *rawCertificate) { r.set(oidBasicConstraints, true, der(tagSequence, []byte(derTrue))) },
		func(r *rawCertificate) {
			r.key = rsaSPKI(big.NewInt(0).SetBytes(bytes.Repeat([]byte{0xff}, 256)), []byte{1, 0, 1})
		},
	} {
		template := leafTemplate()
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(7), corpusTime.Add(-time.Hour), corpusTime.Add(time.Hour)
		_, seed := mint(f, template, signing, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public(), key, edit)
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, leaf []byte) {
		signed := resign(leaf, key)
		cert, err := x509.ParseCertificate(signed)
		if err != nil {
			return
		}
		chain := []*x509.Certificate{cert, signing}
		for _, role := range roles {
			options := VerifyOptions{Role: role, Now: corpusTime, MaxChain: DefaultMaxChain}
			_, profile := verifyProfile(chain, options)
			verified, err := Verify(chain, roots, options)
			if err != nil {
				wantHarmlessText(t, err)
				continue
			}
			if profile != nil {
				t.Fatalf("accepted, though the profile says %v", profile)
			}
			if cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].String() != verified.ID.String() || len(cert.Raw) != len(signed) ||
				cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 || len(cert.ExtKeyUsage) == 0 || len(cert.UnhandledCriticalExtensions) > 0 {
				t.Fatalf("accepted as %q: %x", verified.ID, signed)
			}
			id, _, err := x509svid.Verify(chain, bundle, x509svid.WithTime(corpusTime))
			if err != nil || id != verified.ID {
				t.Fatalf("accepted %q, but go-spiffe says %q, %v", verified.ID, id, err)
			}
		}
	})
}

func FuzzParseChain(f *testing.F) {
	ca := testkit.NewCA(f, "example.org")
	f.Add(testkit.ChainPEM(ca.Leaf(f)))
	f.Add(ca.Root.Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := ParseChain(data)
		if err != nil {
			return
		}
		if len(chain) == 0 {
			t.Fatal("no certificate and no error")
		}
		again, err := ParseChain(MarshalPEM(chain))
		if err != nil || len(again) != len(chain) {
			t.Fatalf("%d certificates became %d: %v", len(chain), len(again), err)
		}
	})
}

func FuzzValidateCSR(f *testing.F) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, testkit.NewKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := ValidateCSR(der)
		if err == nil && CheckKey(key) != nil {
			t.Fatal("a key below the floor was accepted")
		}
	})
}

func TestFuzzingStartsFromAChainThatIsAccepted(t *testing.T) {
	t.Parallel()
	seed, err := os.ReadFile("testdata/fuzz/FuzzVerify/seed-01")
	if err != nil {
		t.Fatal(err)
	}
	_, literal, _ := strings.Cut(string(seed), "[]byte(")
	der, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(literal), ")"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ParseChain([]byte(der))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(chain, corpusRoots(t), VerifyOptions{Role: Client, Now: corpusTime}); err != nil {
		t.Errorf("every seed is refused: %v", err)
	}
}

func TestFuzzedAuthoritySignsWhatIsAccepted(t *testing.T) {
	t.Parallel()
	root, signing, key := fuzzTree(t)
	template := leafTemplate()
	template.NotBefore, template.NotAfter = corpusTime.Add(-time.Hour), corpusTime.Add(time.Hour)
	_, der := mint(t, template, signing, testkit.NewKey(t).Public(), key, nil)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	chain := []*x509.Certificate{parseAll(t, [][]byte{resign(der, key)})[0], signing}
	if _, err := Verify(chain, map[spiffeid.TrustDomain]*x509.CertPool{corpusDomain: pool}, VerifyOptions{Role: Client, Now: corpusTime}); err != nil {
		t.Errorf("every input of FuzzVerifyLeaf is refused: %v", err)
	}
}
