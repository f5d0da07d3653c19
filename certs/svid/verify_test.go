package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

var roles = []Role{Client, Server}

// presented is the chain of a certificate as a peer presents it.
func presented(t testing.TB, certificate tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range certificate.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("parse certificate: %v", err)
		}
		chain = append(chain, cert)
	}
	return chain
}

func wantReason(t *testing.T, err error, want observe.Reason) {
	t.Helper()
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		t.Errorf("error %v is no *Error", err)
		return
	}
	if refused.Reason != want {
		t.Errorf("refused for %q (%v), want %q", refused.Reason, err, want)
	}
}

// sign makes a certificate with the testkit's authority as issuer, whatever the template says.
func sign(t testing.TB, template, issuer *x509.Certificate, key crypto.PublicKey, issuerKey crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return cert
}

func TestVerifyAcceptsACorrectPeerInBothRoles(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, role := range roles {
		verified, err := Verify(presented(t, ca.Leaf(t)), ca.Roots(), VerifyOptions{Role: role})
		if err != nil {
			t.Fatalf("as %s: %v", role, err)
		}
		if verified.ID != ca.ID(t, "/workload") {
			t.Errorf("as %s: ID is %q", role, verified.ID)
		}
		if len(verified.Chains) != 1 || len(verified.Chains[0]) != 3 || !verified.Chains[0][2].Equal(ca.Root) {
			t.Errorf("as %s: chains are %v", role, verified.Chains)
		}
	}
}

func TestVerifyAcceptsEveryKeyAboveTheFloor(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"Ed25519": ed, "P-384": p384, "P-521": p521, "RSA 2048": rsaKey} {
		if _, err := Verify(presented(t, ca.Leaf(t, testkit.WithKey(key))), ca.Roots(), VerifyOptions{Role: Client}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyRefusesEachBadLeafForItsReason(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, bad := range ca.BadLeaves(t) {
		t.Run(bad.Name, func(t *testing.T) {
			t.Parallel()
			for _, role := range roles {
				_, err := Verify(presented(t, bad.Certificate), ca.Roots(), VerifyOptions{Role: role})
				wantReason(t, err, bad.Reason)
			}
		})
	}
}

// "Leaf SVIDs SHOULD include this extension [...]. When included, fields id-kp-serverAuth and id-kp-clientAuth MUST be set." (SPIFFE
// X509-SVID, Section 4.4.) We ask of a peer the one of the role that it plays.
func TestVerifyAsksForTheExtendedKeyUsageOfTheRole(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, test := range []struct {
		name           string
		usages         []x509.ExtKeyUsage
		client, server observe.Reason
	}{
		{"both", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, "", ""},
		{"client only", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, "", observe.PeerExtKeyUsage},
		{"server only", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, observe.PeerExtKeyUsage, ""},
		{"any", []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, observe.PeerExtKeyUsage, observe.PeerExtKeyUsage},
		{"absent", nil, observe.PeerExtKeyUsage, observe.PeerExtKeyUsage},
	} {
		chain := presented(t, ca.Leaf(t, testkit.WithExtKeyUsage(test.usages...)))
		for role, want := range map[Role]observe.Reason{Client: test.client, Server: test.server} {
			t.Run(test.name+" as "+role.String(), func(t *testing.T) {
				_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: role})
				if want != "" {
					wantReason(t, err, want)
				} else if err != nil {
					t.Errorf("refused: %v", err)
				}
			})
		}
	}
}

func TestVerifyNeedsARole(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	_, err := Verify(presented(t, ca.Leaf(t)), ca.Roots(), VerifyOptions{})
	wantReason(t, err, observe.Internal)
}

func TestVerifyRefusesWhoPresentsNothing(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, chain := range [][]*x509.Certificate{nil, {}, {nil}, {presented(t, ca.Leaf(t))[0], nil}} {
		_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client})
		wantReason(t, err, observe.PeerNoCertificate)
	}
}

func TestVerifyBoundsTheChain(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	chain := presented(t, ca.Leaf(t))
	for len(chain) < DefaultMaxChain {
		chain = append(chain, ca.Root)
	}
	if _, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client}); err != nil {
		t.Errorf("%d certificates: %v", len(chain), err)
	}
	_, err := Verify(append(chain, ca.Root), ca.Roots(), VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerChainTooLong)
	_, err = Verify(chain, ca.Roots(), VerifyOptions{Role: Client, MaxChain: 3})
	wantReason(t, err, observe.PeerChainTooLong)
}

// "An authority of one trust domain cannot vouch for another": the root stands in the pool of its own trust domain.
func TestVerifyUsesOnlyTheRootsOfTheLeafsTrustDomain(t *testing.T) {
	t.Parallel()
	ours, partner := testkit.NewCA(t, "example.org"), testkit.NewCA(t, "partner.test")
	roots := ours.Roots()
	partner.AddRoots(roots)
	if _, err := Verify(presented(t, partner.Leaf(t)), roots, VerifyOptions{Role: Client}); err != nil {
		t.Errorf("federated peer: %v", err)
	}
	impersonator := partner.Leaf(t, testkit.WithURIs("spiffe://example.org/workload"))
	_, err := Verify(presented(t, impersonator)[:1], roots, VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerUntrusted)
	fromRoot := partner.Leaf(t, testkit.WithURIs("spiffe://example.org/workload"), testkit.FromRoot())
	_, err = Verify(presented(t, fromRoot), roots, VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerUntrusted)
	delete(roots, partner.TrustDomain)
	_, err = Verify(presented(t, partner.Leaf(t)), roots, VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerForeignTrustDomain)
}

func TestVerifyJudgesTimeByTheGivenClock(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	chain := presented(t, ca.Leaf(t))
	leaf := chain[0]
	for _, test := range []struct {
		name string
		now  time.Time
		want observe.Reason
	}{
		{"first moment", leaf.NotBefore, ""},
		{"last moment", leaf.NotAfter, ""},
		{"before", leaf.NotBefore.Add(-time.Second), observe.PeerNotYetValid},
		{"after", leaf.NotAfter.Add(time.Second), observe.PeerExpired},
	} {
		_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client, Now: test.now})
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		wantReason(t, err, test.want)
	}
}

// authority is a signing certificate beneath the testkit's root.
func authority(t testing.TB, ca *testkit.CA, change func(*x509.Certificate)) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := testkit.NewKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "signing"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	change(template)
	return sign(t, template, ca.Root, key.Public(), ca.RootKey), key
}

func TestVerifyJudgesPresentedAuthorities(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	uri := func(raw string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: raw}} }
	}
	for _, test := range []struct {
		name   string
		change func(*x509.Certificate)
		want   observe.Reason
	}{
		{"no URI SAN", func(*x509.Certificate) {}, ""},
		{"of the same trust domain", uri("example.org"), ""},
		{"of another trust domain", uri("partner.test"), observe.PeerUntrusted},
		{"with a path", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/a"}} }, observe.PeerUntrusted},
		{"with a URI that is no SPIFFE ID", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.org"}} }, observe.PeerUntrusted},
		{"with two URIs", func(c *x509.Certificate) { c.URIs = []*url.URL{ca.TrustDomain.ID().URL(), ca.TrustDomain.ID().URL()} }, observe.PeerUntrusted},
		{"ended", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, observe.PeerExpired},
		{"not begun", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, observe.PeerNotYetValid},
		{"no authority at all", func(c *x509.Certificate) { c.IsCA = false }, observe.PeerUntrusted},
		{"without keyCertSign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, observe.PeerUntrusted},
		{"for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, observe.PeerExtKeyUsage},
		{"with a name that permits others", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"partner.test"} }, observe.PeerUntrusted},
		{"with an extension that nobody knows", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, observe.PeerUntrusted},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			signing, key := authority(t, ca, test.change)
			good := ca.Leaf(t).Leaf
			leaf := sign(t, good, signing, good.PublicKey, key)
			_, err := Verify([]*x509.Certificate{leaf, signing}, ca.Roots(), VerifyOptions{Role: Client})
			if test.want != "" {
				wantReason(t, err, test.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// weakRSA is a public key that nobody should use; no one needs its private half.
func weakRSA(bits uint, exponent int) *rsa.PublicKey {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), bits-1))
	n.SetBit(n, int(bits)-1, 1).SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: exponent}
}

func TestVerifyRefusesWeakKeysAnywhereInTheChain(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	even := weakRSA(2048, 65537)
	even.N.SetBit(even.N, 0, 0)
	for name, key := range map[string]crypto.PublicKey{
		"RSA 1024":                  weakRSA(1024, 65537),
		"RSA 2047":                  weakRSA(2047, 65537),
		"RSA 16384":                 weakRSA(16384, 65537),
		"RSA with exponent 3":       weakRSA(2048, 3),
		"RSA with an even exponent": weakRSA(2048, 65538),
		"RSA with an even modulus":  even,
		"P-224":                     p224.Public(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := ca.Leaf(t).Leaf
			leaf := sign(t, good, ca.Signing, key, ca.SigningKey)
			_, err := Verify([]*x509.Certificate{leaf, ca.Signing}, ca.Roots(), VerifyOptions{Role: Client})
			wantReason(t, err, observe.PeerWeakKey)

			weak := *ca.Signing
			weak.PublicKey = key
			_, err = Verify([]*x509.Certificate{good, &weak}, ca.Roots(), VerifyOptions{Role: Client})
			wantReason(t, err, observe.PeerWeakKey)
		})
	}
}

func TestVerifyRefusesWeakSignaturesAnywhereInTheChain(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, algorithm := range []x509.SignatureAlgorithm{
		x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA, x509.DSAWithSHA256, x509.UnknownSignatureAlgorithm,
	} {
		for i := range 2 {
			chain := presented(t, ca.Leaf(t))
			chain[i].SignatureAlgorithm = algorithm
			_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client})
			wantReason(t, err, observe.PeerWeakKey)
		}
	}
}

// What RFC 5280 demands of every certificate and crypto/x509 lets pass.
func TestVerifyRefusesMalformedCertificates(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	drop := func(c *x509.Certificate, oid asn1.ObjectIdentifier) {
		c.Extensions = slices.DeleteFunc(slices.Clone(c.Extensions), func(e pkix.Extension) bool { return e.Id.Equal(oid) })
	}
	uncritical := func(c *x509.Certificate, oid asn1.ObjectIdentifier) {
		c.Extensions = slices.Clone(c.Extensions)
		for i := range c.Extensions {
			if c.Extensions[i].Id.Equal(oid) {
				c.Extensions[i].Critical = false
			}
		}
	}
	for _, test := range []struct {
		name    string
		element int
		change  func(*x509.Certificate)
	}{
		{`"The serial number MUST be a positive integer" (Section 4.1.2.2)`, 0, func(c *x509.Certificate) { c.SerialNumber = new(big.Int) }},
		{"negative serial number", 0, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(-1) }},
		{"no serial number", 1, func(c *x509.Certificate) { c.SerialNumber = nil }},
		{`"Conforming CAs MUST NOT use serialNumber values longer than 20 octets"`, 0, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }},
		{`"The keyIdentifier field of the authorityKeyIdentifier extension MUST be included" (4.2.1.1)`, 0, func(c *x509.Certificate) { c.AuthorityKeyId = nil }},
		{"authority without authority key id", 1, func(c *x509.Certificate) { c.AuthorityKeyId = nil }},
		{`subject key identifier "MUST appear in all conforming CA certificates" (4.2.1.2)`, 1, func(c *x509.Certificate) { c.SubjectKeyId = nil }},
		{`"MUST mark the [basic constraints] extension as critical" (4.2.1.9)`, 1, func(c *x509.Certificate) { uncritical(c, oidBasicConstraints) }},
		{"authority without basic constraints", 1, func(c *x509.Certificate) { drop(c, oidBasicConstraints) }},
		{`"If the subject field contains an empty sequence, [...] MUST mark subjectAltName as critical" (4.2.1.6)`, 0, func(c *x509.Certificate) {
			c.RawSubject = emptyName
			uncritical(c, oidSubjectAltName)
		}},
		{`name constraints "MUST be used only in a CA certificate" (4.2.1.10)`, 0, func(c *x509.Certificate) {
			c.Extensions = append(slices.Clone(c.Extensions), pkix.Extension{Id: oidNameConstraints, Value: []byte{0x30, 0}})
		}},
		{"version 1", 1, func(c *x509.Certificate) { c.Version = 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			chain := presented(t, ca.Leaf(t))
			test.change(chain[test.element])
			_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client})
			wantReason(t, err, observe.PeerUntrusted)
		})
	}
}

// sanOf encodes a SAN extension with these URIs, byte for byte.
func sanOf(t testing.TB, uris ...string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: true, Value: value}
}

// url.URL reads these as "spiffe://example.org/workload", which none of them is.
func TestVerifyReadsTheSPIFFEIDFromTheBytes(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	for _, uri := range []string{
		"SPIFFE://example.org/workload", "spiffe://example.org/workload#", "spiffe://EXAMPLE.org/workload", "spiffe://example.org/work%6Coad",
		"spiffe://example.org/workload?", "spiffe://example.org:/workload", "spiffe://@example.org/workload", "spiffe://example.org//workload",
		"spiffe://example.org/./workload", "spiffe://example.org/workload/",
	} {
		leaf := ca.Leaf(t, testkit.WithURIs(), testkit.With(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{sanOf(t, uri)}
		}))
		for _, role := range roles {
			_, err := Verify(presented(t, leaf), ca.Roots(), VerifyOptions{Role: role})
			wantReason(t, err, observe.PeerInvalidID)
		}
	}
	good := ca.Leaf(t, testkit.WithURIs(), testkit.With(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{sanOf(t, "spiffe://example.org/workload")}
	}))
	if _, err := Verify(presented(t, good), ca.Roots(), VerifyOptions{Role: Client}); err != nil {
		t.Errorf("the ID itself: %v", err)
	}
}

func TestVerifyKeepsPeersTextOutOfLogs(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	chain := presented(t, ca.Leaf(t))
	for i := range chain[0].Extensions {
		if chain[0].Extensions[i].Id.Equal(oidSubjectAltName) {
			chain[0].Extensions[i] = sanOf(t, "spiffe://example.org/\n\x1b[31m level=error "+strings.Repeat("x", 5000))
		}
	}
	_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerInvalidID)
	if text := err.Error(); len(text) > 1024 || strings.ContainsAny(text, "\n\x1b") {
		t.Errorf("error has %d bytes, or control characters: %q", len(text), text)
	}
}

func TestForeignErrorIsBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	cause := errors.New("certificate of \x1b[31m\n" + strings.Repeat("x", 5000))
	err := error(foreignError{cause})
	if text := err.Error(); len(text) > 2*maxText || strings.ContainsAny(text, "\n\x1b") {
		t.Errorf("text is %q", text)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}

func TestVerifyRefusesWhatIsRevoked(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	chain := presented(t, ca.Leaf(t))
	for _, subject := range revocation.Subjects(append(slices.Clone(chain), ca.Root), ca.ID(t, "/workload")) {
		t.Run(string(subject.Kind)+" "+subject.Value, func(t *testing.T) {
			t.Parallel()
			index := revocation.NewIndex([]revocation.Revocation{{ID: "1", Kind: subject.Kind, Value: subject.Value}})
			for _, role := range roles {
				_, err := Verify(chain, ca.Roots(), VerifyOptions{Role: role, Revocations: index})
				wantReason(t, err, observe.PeerRevoked)
			}
		})
	}
}

func TestVerifyRefusesALeafThatStandsInTheBundle(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	chain := presented(t, ca.Leaf(t))
	pool := x509.NewCertPool()
	pool.AddCert(chain[0])
	_, err := Verify(chain[:1], map[spiffeid.TrustDomain]*x509.CertPool{ca.TrustDomain: pool}, VerifyOptions{Role: Client})
	wantReason(t, err, observe.PeerUntrusted)
}

func BenchmarkVerify(b *testing.B) {
	ca := testkit.NewCA(b, "example.org")
	chain, roots := presented(b, ca.Leaf(b)), ca.Roots()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(chain, roots, VerifyOptions{Role: Client}); err != nil {
			b.Fatal(err)
		}
	}
}
