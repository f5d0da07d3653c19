package svid

import (
	"crypto/rand"
	"crypto/x509"
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
