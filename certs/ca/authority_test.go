package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/store"
)

func TestFirstOpenMakesARootAndASigningAuthority(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	infos := a.Authorities()
	if len(infos) != 2 || infos[0].Use != Root || infos[1].Use != Signing || infos[0].Stage != Active || infos[1].Stage != Active {
		t.Fatalf("authorities are %+v", infos)
	}
	bundle := a.Bundle()
	if len(bundle.Authorities) != 1 || !bundle.Authorities[0].Equal(infos[0].Certificate) || bundle.Sequence != 1 || bundle.TrustDomain != domain {
		t.Errorf("bundle is %+v", bundle)
	}
	if !bytes.Equal(bundle.ActiveAuthority, infos[1].Certificate.SubjectKeyId) {
		t.Error("active authority of the bundle is not the signing authority")
	}
	if n := len(p.eventLines(t, "authority_activated")); n != 2 {
		t.Errorf("%d events of activation, want 2", n)
	}
}

func TestReopenedAuthorityIsTheSame(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	before := a.Authorities()
	first := issue(t, a, request(t, "/a"))
	p.reopen(t)
	a = p.authority(t, nil)
	after := a.Authorities()
	if !slices.EqualFunc(before, after, func(x, y Info) bool { return x.ID == y.ID && x.Stage == y.Stage && x.Certificate.Equal(y.Certificate) }) {
		t.Errorf("authorities were %+v and are %+v", before, after)
	}
	second := issue(t, a, request(t, "/b"))
	for _, issued := range []*Issued{first, second} {
		if err := verify(issued.Chain, a.Bundle(), time.Now(), nil); err != nil {
			t.Error(err)
		}
	}
}

func TestAuthoritiesHaveTheProfileOfTheStandard(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	root, signing := a.Authorities()[0].Certificate, a.Authorities()[1].Certificate
	for name, cert := range map[string]*x509.Certificate{"root": root, "signing": signing} {
		if !cert.IsCA || !cert.BasicConstraintsValid {
			t.Errorf(`%s: "Signing certificates MUST set the cA field to true" (X509-SVID, Section 4.1)`, name)
		}
		if cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf(`%s: "SVID signing certificates MUST set keyCertSign. They MAY set cRLSign." (Section 4.3): %b`, name, cert.KeyUsage)
		}
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://example.org" {
			t.Errorf(`%s: "the SPIFFE ID of a signing certificate MUST NOT have a path component" (Section 3.2): %v`, name, cert.URIs)
		}
		if len(cert.SubjectKeyId) != 20 || len(cert.AuthorityKeyId) != 20 {
			t.Errorf("%s: key identifiers are missing", name)
		}
		if cert.SerialNumber.BitLen() != 127 {
			t.Errorf("%s: serial number has %d bits", name, cert.SerialNumber.BitLen())
		}
		if len(cert.PermittedURIDomains) > 0 {
			t.Errorf("%s: has name constraints, which rustls refuses", name)
		}
	}
	if !signing.MaxPathLenZero || signing.MaxPathLen != 0 {
		t.Error("signing authority could make another authority")
	}
	if life := root.NotAfter.Sub(root.NotBefore); life != DefaultRootTTL+backdate {
		t.Errorf("root lives %s", life)
	}
	if life := signing.NotAfter.Sub(signing.NotBefore); life != DefaultSigningTTL+backdate {
		t.Errorf("signing authority lives %s", life)
	}
	if signing.NotBefore.Before(root.NotBefore) {
		t.Error("signing authority begins before its root")
	}
}

// zlintFindings returns what zlint's RFC 5280 lints have to say, notices left out.
func zlintFindings(t *testing.T, cert *x509.Certificate) []string {
	t.Helper()
	parsed, err := zx509.ParseCertificate(cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	if len(registry.Names()) < 50 {
		t.Fatalf("only %d lints: nothing is being checked", len(registry.Names()))
	}
	var findings []string
	for name, result := range zlint.LintCertificateEx(parsed, registry).Results {
		if result.Status >= lint.Warn {
			findings = append(findings, name+": "+result.Status.String()+" "+result.Details)
		}
	}
	slices.Sort(findings)
	return findings
}

func TestZlintHasNoFindings(t *testing.T) {
	t.Parallel()
	for _, keyType := range []keys.Type{keys.ECP256, keys.ECP384, keys.RSA2048} {
		a := newPlace(t).authority(t, func(o *Options) { o.KeyType = keyType })
		plain, named := request(t, "/plain"), request(t, "/named")
		named.DNSNames = []string{"named.example.org", "named"}
		for name, cert := range map[string]*x509.Certificate{
			"root": a.Authorities()[0].Certificate, "signing authority": a.Authorities()[1].Certificate,
			"leaf": issue(t, a, plain).Chain[0], "leaf with DNS names": issue(t, a, named).Chain[0],
		} {
			for _, finding := range zlintFindings(t, cert) {
				t.Errorf("%s, %s: %s", keyType, name, finding)
			}
		}
	}
}

func TestOpenRefusesTheStoreOfAnotherTrustDomain(t *testing.T) {
	t.Parallel()
	_, p := newAuthority(t)
	opts := p.options()
	opts.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	if _, err := Open(t.Context(), opts); !errors.Is(err, ErrWrongTrustDomain) {
		t.Errorf("Open: %v, want ErrWrongTrustDomain", err)
	}
}

func TestOpenNeverMakesANewRootWhereThereWasOne(t *testing.T) {
	t.Parallel()
	remove := func(t *testing.T, p *place, keep ...string) {
		t.Helper()
		for item, err := range items(t.Context(), p.store, "") {
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(keep, func(prefix string) bool { return strings.HasPrefix(item.Key, prefix) }) {
				continue
			}
			if _, err := p.store.Commit(t.Context(), store.Txn{Then: []store.Op{{Key: item.Key, Delete: true}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name string
		left []string
	}{
		{"only credentials are left", []string{credentialPrefix, "keys/sealing"}},
		{"only keys are left", []string{"keys/"}},
		{"the state is left without its keys", []string{statePrefix, "keys/sealing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, p := newAuthority(t)
			issue(t, a, request(t, "/a"))
			remove(t, p, test.left...)
			before, _ := p.store.Revision(t.Context())
			if _, err := Open(t.Context(), p.options()); !errors.Is(err, ErrStateLost) {
				t.Errorf("Open: %v, want ErrStateLost", err)
			}
			if after, _ := p.store.Revision(t.Context()); after != before {
				t.Error("the store was changed")
			}
		})
	}
}

func TestOpenRefusesOptionsThatCannotWork(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before, _ := p.store.Revision(t.Context())
	for name, change := range map[string]func(*Options){
		"no store":             func(o *Options) { o.Store = nil },
		"no keys":              func(o *Options) { o.Keys = nil },
		"no events":            func(o *Options) { o.Events = nil },
		"no trust domain":      func(o *Options) { o.TrustDomain = spiffeid.TrustDomain{} },
		"lives of a second":    func(o *Options) { o.DefaultTTL = time.Second },
		"nodes of a second":    func(o *Options) { o.NodeTTL = time.Second },
		"most below default":   func(o *Options) { o.DefaultTTL, o.MaxTTL = time.Hour, time.Minute },
		"hasty signing":        func(o *Options) { o.SigningTTL = time.Second },
		"root like signing":    func(o *Options) { o.RootTTL = DefaultSigningTTL },
		"negative deadline":    func(o *Options) { o.PropagationDeadline = -1 },
		"key type that is not": func(o *Options) { o.KeyType = "dsa" },
	} {
		opts := p.options()
		change(&opts)
		if _, err := Open(t.Context(), opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if after, _ := p.store.Revision(t.Context()); after != before {
		t.Error("a refused Open changed the store")
	}
}

func TestFoundingSurvivesACrash(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		p := newPlace(t)
		opts := p.options()
		opts.Store = &faulty{Store: p.store, lost: lost}
		if _, err := Open(t.Context(), opts); !errors.Is(err, errDied) {
			t.Fatalf("Open: %v", err)
		}
		a := p.authority(t, nil)
		if n := len(a.Authorities()); n != 2 {
			t.Errorf("after the crash there are %d authorities", n)
		}
		issue(t, a, request(t, "/a"))
	}
}

func TestLongerLivesAreRecordedBeforeTheyAreGiven(t *testing.T) {
	t.Parallel()
	_, p := newAuthority(t)
	a := p.authority(t, func(o *Options) { o.MaxTTL = 30 * 24 * time.Hour })
	if got := a.current.Load().signing.LongestTTL; got != 30*24*time.Hour {
		t.Errorf("longest life on record is %s", got)
	}
	if a = p.authority(t, nil); a.current.Load().signing.LongestTTL != 30*24*time.Hour {
		t.Error("a shorter configuration forgot the longer lives given before")
	}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	registry := prometheus.NewRegistry()
	a := p.authority(t, func(o *Options) { o.Registerer = registry })
	issue(t, a, request(t, "/a"))
	if _, err := a.IssueX509(t.Context(), Request{}); err == nil {
		t.Fatal("an empty request was accepted")
	}
	if err := a.Rotate(t.Context(), Signing, "uid:0"); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP postern_ca_issued_total X.509-SVIDs asked for, by kind of holder (workload, node) and result (ok, refused, error).
# TYPE postern_ca_issued_total counter
postern_ca_issued_total{kind="node",result="error"} 0
postern_ca_issued_total{kind="node",result="ok"} 0
postern_ca_issued_total{kind="node",result="refused"} 0
postern_ca_issued_total{kind="workload",result="error"} 0
postern_ca_issued_total{kind="workload",result="ok"} 1
postern_ca_issued_total{kind="workload",result="refused"} 1
# HELP postern_ca_rotations_total Authorities that took over from another, by use (root, signing).
# TYPE postern_ca_rotations_total counter
postern_ca_rotations_total{use="root"} 0
postern_ca_rotations_total{use="signing"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "postern_ca_issued_total", "postern_ca_rotations_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("names of metrics: %v, %v", problems, err)
	}
}
