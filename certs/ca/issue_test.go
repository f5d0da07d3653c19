package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
)

func TestIssuedSVIDIsVerifiedByItsPeers(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	req := request(t, "/a")
	req.DNSNames = []string{"a.example.org"}
	issued := issue(t, a, req)
	if err := verify(issued.Chain, a.Bundle(), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	leaf := issued.Chain[0]
	if issued.ID != req.ID || issued.Serial != revocation.SerialString(leaf.SerialNumber) || !issued.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("what was issued does not describe its leaf: %+v", issued)
	}
	if leaf.SerialNumber.BitLen() != 127 {
		t.Errorf("serial number has %d bits", leaf.SerialNumber.BitLen())
	}
	if len(leaf.DNSNames) != 1 {
		t.Errorf("DNS names are %q", leaf.DNSNames)
	}
}

func TestIssuanceIsRecordedBeforeItIsAnswered(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	req := request(t, "/a")
	issued := issue(t, a, req)
	got, err := a.Credential(t.Context(), issued.Serial)
	if err != nil {
		t.Fatal(err)
	}
	want := Credential{
		Serial: issued.Serial, SPIFFEID: "spiffe://example.org/a", Kind: Workload, Entry: req.EntryID, Node: req.Node,
		Key: revocation.KeyString(issued.Chain[0]), Authority: issued.Authority, NotBefore: issued.NotBefore, NotAfter: issued.NotAfter,
	}
	if got.Serial != want.Serial || got.SPIFFEID != want.SPIFFEID || got.Kind != want.Kind || got.Entry != want.Entry || got.Node != want.Node ||
		got.Key != want.Key || got.Authority != want.Authority || !got.NotBefore.Equal(want.NotBefore) || !got.NotAfter.Equal(want.NotAfter) {
		t.Errorf("credential is %+v, want %+v", got, want)
	}
	item, err := p.store.Get(t.Context(), credentialPrefix+issued.Serial)
	if err != nil {
		t.Fatal(err)
	}
	if off := item.Expires.Sub(issued.NotAfter).Abs(); off > 2*time.Second {
		t.Errorf("record goes away at %s, the SVID ends at %s", item.Expires, issued.NotAfter)
	}
	lines := p.eventLines(t, "svid_issued")
	if len(lines) != 1 || !strings.Contains(lines[0], issued.Serial) || !strings.Contains(lines[0], `"actor":"`+req.Node+`"`) {
		t.Errorf("events are %q", lines)
	}
}

func TestNothingIsHandedOutThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	broken := &faulty{Store: p.store}
	broken.left.Store(100)
	a := p.authority(t, func(o *Options) { o.Store = broken })
	broken.left.Store(0)
	if issued, err := a.IssueX509(t.Context(), request(t, "/a")); !errors.Is(err, errDied) || issued != nil {
		t.Errorf("with a store that fails: %v, %v", issued, err)
	}
	a = p.authority(t, func(o *Options) { o.Events = deaf{} })
	if issued, err := a.IssueX509(t.Context(), request(t, "/a")); !errors.Is(err, errDied) || issued != nil {
		t.Errorf("with an audit log that fails: %v, %v", issued, err)
	}
}

func TestIssueRefusesWhatMayNotBe(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	for _, test := range []struct {
		name   string
		change func(*Request)
		want   error
	}{
		{"no ID", func(r *Request) { r.ID = spiffeid.ID{} }, ErrInvalidRequest},
		{"ID without path", func(r *Request) { r.ID = domain.ID() }, ErrInvalidRequest},
		{"foreign trust domain", func(r *Request) { r.ID = spiffeid.RequireFromString("spiffe://other.test/a") }, ErrForeignTrustDomain},
		{"trust domain with ours as its end", func(r *Request) { r.ID = spiffeid.RequireFromString("spiffe://not.example.org/a") }, ErrForeignTrustDomain},
		{"too short", func(r *Request) { r.TTL = MinTTL - 1 }, ErrTTL},
		{"negative", func(r *Request) { r.TTL = -time.Hour }, ErrTTL},
		{"too long", func(r *Request) { r.TTL = DefaultMaxTTL + 1 }, ErrTTL},
		{"weak key", func(r *Request) { r.PublicKey = p224.Public() }, ErrWeakKey},
		{"no key", func(r *Request) { r.PublicKey = nil }, ErrWeakKey},
		{"private key", func(r *Request) { r.PublicKey = p224 }, ErrWeakKey},
		{"bad DNS name", func(r *Request) { r.DNSNames = []string{"*"} }, ErrInvalidRequest},
	} {
		req := request(t, "/a")
		test.change(&req)
		issued, err := a.IssueX509(t.Context(), req)
		if !errors.Is(err, test.want) || !errors.Is(err, ErrRefused) || issued != nil {
			t.Errorf("%s: %v, %v; want %v", test.name, issued, err, test.want)
		}
	}
	for c, err := range a.Credentials(t.Context(), CredentialFilter{}) {
		t.Fatalf("a refused request left a record: %+v, %v", c, err)
	}
}

func TestLeafStaysWithinItsAuthority(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a := newPlace(t).authority(t, func(o *Options) { o.Clock = clock.now })
	signing := a.Authorities()[1].Certificate

	req := request(t, "/a")
	req.TTL = a.MaxTTL() + 1
	if _, err := a.IssueX509(t.Context(), req); !errors.Is(err, ErrTTL) {
		t.Errorf("longer than MaxTTL: %v, want ErrTTL", err)
	}
	req.TTL = a.MaxTTL()
	issued := issue(t, a, req)
	if issued.NotBefore.Before(signing.NotBefore) || issued.NotAfter.After(signing.NotAfter) {
		t.Errorf("leaf lives from %s to %s, its authority from %s to %s", issued.NotBefore, issued.NotAfter, signing.NotBefore, signing.NotAfter)
	}
	clock.advance(23*time.Hour + 30*time.Minute)
	if issued = issue(t, a, request(t, "/a")); !issued.NotAfter.Equal(signing.NotAfter) {
		t.Errorf("leaf ends at %s, its authority at %s", issued.NotAfter, signing.NotAfter)
	}
	if back := clock.now().Sub(issued.NotBefore); back < backdate || back > backdate+time.Second {
		t.Errorf("leaf is dated back by %s", back)
	}
	clock.advance(30*time.Minute - MinTTL + time.Second)
	if _, err := a.IssueX509(t.Context(), request(t, "/a")); !errors.Is(err, ErrExpired) {
		t.Errorf("in the last moments of the authority: %v, want ErrExpired", err)
	}
}

func TestNodeGetsTheLifeOfItsAuthority(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	req := request(t, "/node/a")
	issued, err := a.IssueNode(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !issued.NotAfter.Equal(a.Authorities()[1].Certificate.NotAfter) {
		t.Errorf("node SVID ends at %s", issued.NotAfter)
	}
	req.TTL = DefaultNodeTTL + 1
	if _, err := a.IssueNode(t.Context(), req); !errors.Is(err, ErrTTL) {
		t.Errorf("longer than a node may live: %v", err)
	}
	if got, err := a.Credential(t.Context(), issued.Serial); err != nil || got.Kind != Node {
		t.Errorf("credential is %+v, %v", got, err)
	}
}

func TestClockBeforeTheAuthorityStopsSigning(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a := newPlace(t).authority(t, func(o *Options) { o.Clock = clock.now })
	clock.advance(-backdate + time.Second)
	issue(t, a, request(t, "/a"))
	clock.advance(-time.Minute)
	_, err := a.IssueX509(t.Context(), request(t, "/a"))
	if !errors.Is(err, ErrClock) || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "set it") {
		t.Errorf("error is %v", err)
	}
	clock.advance(time.Hour)
	issue(t, a, request(t, "/a"))
}

func TestCredentialsAreFiltered(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	first, second := request(t, "/a"), request(t, "/b")
	second.EntryID, second.Node = "entry-2", "spiffe://example.org/node/b"
	one, two := issue(t, a, first), issue(t, a, second)
	for _, test := range []struct {
		name   string
		filter CredentialFilter
		want   []string
	}{
		{"all", CredentialFilter{}, []string{one.Serial, two.Serial}},
		{"by ID", CredentialFilter{SPIFFEID: "spiffe://example.org/a"}, []string{one.Serial}},
		{"by entry", CredentialFilter{Entry: "entry-2"}, []string{two.Serial}},
		{"by node", CredentialFilter{Node: "spiffe://example.org/node/b"}, []string{two.Serial}},
		{"by key", CredentialFilter{Key: revocation.KeyString(one.Chain[0])}, []string{one.Serial}},
		{"by authority", CredentialFilter{Authority: one.Authority}, []string{one.Serial, two.Serial}},
		{"by kind", CredentialFilter{Kind: Node}, nil},
	} {
		got := map[string]bool{}
		for c, err := range a.Credentials(t.Context(), test.filter) {
			if err != nil {
				t.Fatal(err)
			}
			got[c.Serial] = true
		}
		if len(got) != len(test.want) {
			t.Errorf("%s: %d credentials, want %d", test.name, len(got), len(test.want))
		}
		for _, serial := range test.want {
			if !got[serial] {
				t.Errorf("%s: %q is missing", test.name, serial)
			}
		}
	}
	if _, err := a.Credential(t.Context(), "abc"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown serial: %v", err)
	}
	if _, err := a.Credential(t.Context(), ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty serial: %v", err)
	}
}

func TestManyIssueAtOnceWithoutSharingASerialNumber(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	var mu sync.Mutex
	seen := map[string]bool{}
	var group sync.WaitGroup
	for range 16 {
		req := request(t, "/a")
		group.Go(func() {
			for range 8 {
				issued, err := a.IssueX509(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[issued.Serial] {
					t.Errorf("serial %q twice", issued.Serial)
				}
				seen[issued.Serial] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(seen) != 16*8 {
		t.Errorf("%d SVIDs", len(seen))
	}
}

// A signer whose result does not verify must not reach anyone: a fault in a key store would otherwise be found by the peers.
func TestSignatureThatDoesNotVerifyIsNotHandedOut(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	c := *a.current.Load()
	other := newPlace(t).authority(t, nil)
	c.signer = other.current.Load().signer
	a.current.Store(&c)
	if issued, err := a.IssueX509(t.Context(), request(t, "/a")); err == nil || issued != nil {
		t.Errorf("issued %v, %v with another's key", issued, err)
	}
}

func BenchmarkIssueX509(b *testing.B) {
	a, _ := newAuthority(b)
	req := request(b, "/a")
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.IssueX509(b.Context(), req); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "svids/s")
}

// BenchmarkSign is the part of an issuance that needs no disk.
func BenchmarkSign(b *testing.B) {
	a, _ := newAuthority(b)
	req := request(b, "/a")
	var cert *x509.Certificate
	for b.Loop() {
		c, err := a.check(req, Workload)
		if err != nil {
			b.Fatal(err)
		}
		if cert, err = c.sign(); err != nil {
			b.Fatal(err)
		}
	}
	_ = cert
}
