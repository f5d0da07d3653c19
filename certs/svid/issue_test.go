package svid

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/internal/testkit"
)

// goodLeaf is a leaf that the testkit's authority may sign.
func goodLeaf(t testing.TB, ca *testkit.CA) Leaf {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	return Leaf{
		ID: ca.ID(t, "/workload"), PublicKey: testkit.NewKey(t).Public(), Serial: big.NewInt(1 << 40),
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), DNSNames: []string{"workload.test"}, Authority: ca.Signing,
	}
}

func TestTemplateBecomesAnSVIDWithTheProfileOfTheStandard(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	given := goodLeaf(t, ca)
	template, err := Template(given)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sign(t, template, ca.Signing, given.PublicKey, ca.SigningKey)
	if err := CheckIssued(leaf, ca.Signing); err != nil {
		t.Fatalf("CheckIssued: %v", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://example.org/workload" {
		t.Errorf(`"An X.509 SVID MUST contain exactly one URI SAN" (Section 2): URIs are %v`, leaf.URIs)
	}
	if !bytes.Equal(leaf.RawSubject, emptyName) || !critical(leaf, oidSubjectAltName) {
		t.Error(`"the URI SAN extension MUST be marked as critical if Subject is omitted" (Section 3.1)`)
	}
	if !leaf.BasicConstraintsValid || leaf.IsCA {
		t.Error(`"leaf certificates MUST set the cA field to false" (Section 4.1)`)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || !critical(leaf, []int{2, 5, 29, 15}) {
		t.Error(`"The key usage extension MUST be set on all SVIDs, and MUST be marked critical. [...] Leaf SVIDs MUST set digitalSignature [...] MUST NOT set keyCertSign or cRLSign" (Section 4.3)`)
	}
	if !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Error(`"fields id-kp-serverAuth and id-kp-clientAuth MUST be set" (Section 4.4)`)
	}
	if len(leaf.SubjectKeyId) != 20 || !bytes.Equal(leaf.AuthorityKeyId, ca.Signing.SubjectKeyId) {
		t.Error("key identifiers are missing or wrong")
	}
	if !slices.Equal(leaf.DNSNames, given.DNSNames) {
		t.Errorf("DNS names are %q", leaf.DNSNames)
	}
	for _, role := range roles {
		if _, err := Verify([]*x509.Certificate{leaf, ca.Signing}, ca.Roots(), VerifyOptions{Role: role}); err != nil {
			t.Errorf("our own verifier, as %s: %v", role, err)
		}
	}
}

func TestTemplateRefusesWhatMayNotBeSigned(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	leafAsAuthority := ca.Leaf(t).Leaf
	for _, test := range []struct {
		name   string
		change func(*Leaf)
	}{
		{`"Leaf certificate SPIFFE IDs MUST have a non-root path component" (Section 3.1)`, func(l *Leaf) { l.ID = ca.TrustDomain.ID() }},
		{"no ID", func(l *Leaf) { l.ID = spiffeid.ID{} }},
		{"an ID of 2049 bytes (SPIFFE-ID, Section 2.3)", func(l *Leaf) { l.ID = ca.ID(t, "/"+strings.Repeat("a", maxID-len("spiffe://example.org"))) }},
		{"weak key", func(l *Leaf) { l.PublicKey = p224.Public() }},
		{"RSA 1024", func(l *Leaf) { l.PublicKey = weakRSA(1024, 65537) }},
		{"no key", func(l *Leaf) { l.PublicKey = nil }},
		{"serial number 0", func(l *Leaf) { l.Serial = new(big.Int) }},
		{"no serial number", func(l *Leaf) { l.Serial = nil }},
		{"serial number of 21 octets", func(l *Leaf) { l.Serial = new(big.Int).Lsh(big.NewInt(1), 160) }},
		{"ends before it begins", func(l *Leaf) { l.NotAfter = l.NotBefore }},
		{"begins before its authority", func(l *Leaf) { l.NotBefore = ca.Signing.NotBefore.Add(-time.Second) }},
		{"outlives its authority", func(l *Leaf) { l.NotAfter = ca.Signing.NotAfter.Add(time.Second) }},
		{"no authority", func(l *Leaf) { l.Authority = nil }},
		{"a leaf as authority", func(l *Leaf) { l.Authority = leafAsAuthority }},
		{"wildcard", func(l *Leaf) { l.DNSNames = []string{"*.example.org"} }},
		{"upper-case name", func(l *Leaf) { l.DNSNames = []string{"Example.org"} }},
		{"name with a final dot", func(l *Leaf) { l.DNSNames = []string{"example.org."} }},
		{"name with an empty label", func(l *Leaf) { l.DNSNames = []string{"a..b"} }},
		{"name with a hyphen at the end", func(l *Leaf) { l.DNSNames = []string{"a-.b"} }},
		{"name with a NUL", func(l *Leaf) { l.DNSNames = []string{"a\x00.b"} }},
		{"name twice", func(l *Leaf) { l.DNSNames = []string{"a.b", "a.b"} }},
		{"empty name", func(l *Leaf) { l.DNSNames = []string{""} }},
		{"long label", func(l *Leaf) { l.DNSNames = []string{strings.Repeat("a", 64)} }},
		{"long name", func(l *Leaf) { l.DNSNames = []string{strings.Repeat("a.", 127) + "a"} }},
		{"too many names", func(l *Leaf) { l.DNSNames = make([]string, MaxDNSNames+1) }},
	} {
		leaf := goodLeaf(t, ca)
		test.change(&leaf)
		if _, err := Template(leaf); err == nil {
			t.Errorf("%s: accepted", test.name)
		}
	}
}

func TestCheckIssuedNoticesWhatWentWrongInSigning(t *testing.T) {
	t.Parallel()
	ca, impostor := testkit.NewCA(t, "example.org"), testkit.NewCA(t, "example.org")
	for _, bad := range ca.BadLeaves(t) {
		switch bad.Reason { //nolint:exhaustive // time and trust domain are the authority's to check
		case "peer_expired", "peer_not_yet_valid":
			continue
		}
		if err := CheckIssued(bad.Certificate.Leaf, ca.Signing); err == nil {
			t.Errorf("%s: accepted", bad.Name)
		}
	}
	if err := CheckIssued(ca.Leaf(t).Leaf, impostor.Signing); err == nil {
		t.Error("a leaf of another key was accepted")
	}
}

func TestValidateCSRTakesOnlyTheKey(t *testing.T) {
	t.Parallel()
	key := testkit.NewKey(t)
	uri, _ := url.Parse("spiffe://example.org/admin")
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, URIs: []*url.URL{uri, uri}, DNSNames: []string{"admin"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ValidateCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(got) {
		t.Error("another key came out")
	}
	broken := bytes.Clone(der)
	broken[len(broken)-1] ^= 1
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	weak, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p224)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"broken signature": broken, "weak key": weak, "nothing": nil, "more behind it": append(bytes.Clone(der), 0), "too much": make([]byte, maxCSRBytes+1),
	} {
		if _, err := ValidateCSR(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseChainReadsPEMAndDER(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	leaf := ca.Leaf(t)
	want := presented(t, leaf)
	for name, data := range map[string][]byte{
		"PEM":                    testkit.ChainPEM(leaf),
		"PEM with its key":       append(testkit.KeyPEM(t, leaf), testkit.ChainPEM(leaf)...),
		"PEM with text before":   append([]byte("subject: us\n"), testkit.ChainPEM(leaf)...),
		"DER":                    bytes.Join(leaf.Certificate, nil),
		"what MarshalPEM writes": MarshalPEM(want),
	} {
		got, err := ParseChain(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
			t.Errorf("%s: another chain came out", name)
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "only a key": testkit.KeyPEM(t, leaf), "half a certificate": ca.Root.Raw[:100],
		"too much": make([]byte, maxChainBytes+1), "too many": bytes.Repeat(ca.Root.Raw, maxChainCerts+1),
	} {
		if _, err := ParseChain(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSubjectKeyIDFollowsRFC7093(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t, "example.org")
	leaf := ca.Leaf(t).Leaf
	id, err := SubjectKeyID(leaf.PublicKey)
	if err != nil || len(id) != 20 {
		t.Fatalf("SubjectKeyID = %x, %v", id, err)
	}
	if _, err := SubjectKeyID("no key"); err == nil {
		t.Error("a string has a key id")
	}
}
