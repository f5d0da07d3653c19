package translate

import (
	"bytes"
	"crypto/x509"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/posternpb"
	"github.com/postern-proxy/postern/internal/testkit"
)

var domain = spiffeid.RequireTrustDomainFromString("example.org")

// overTheWire encodes and decodes, as a stream does.
func overTheWire[M proto.Message](t testing.TB, in, out M) M {
	t.Helper()
	encoded, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(encoded, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func someEntry() registration.Entry {
	return registration.Entry{
		ID: "e1", SPIFFEID: "spiffe://example.org/exe/{unix.path}", Selectors: []string{"unix:uid:1000"}, TTL: 20 * time.Minute,
		DNSNames: []string{"web.internal"}, Hint: "internal", Owner: "team-a", Purpose: "shop", Revision: 7,
		Created: time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC),
	}
}

func somePolicy(t testing.TB) config.Policy {
	t.Helper()
	p, err := config.ParsePolicy([]byte(`{"name": "orders-read", "service": "orders", "rules": [
		{"allow": {"from": ["spiffe://example.org/web"], "http": {"methods": ["GET"], "paths": ["/v1/orders/{id}"]}}},
		{"deny": {"http": {"paths": ["/admin/{rest...}"]}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEntryArrivesAsItWasSent(t *testing.T) {
	for name, entry := range map[string]registration.Entry{
		"full":      someEntry(),
		"bare":      {ID: "e2", SPIFFEID: "spiffe://example.org/web", Selectors: []string{"unix:uid:0"}},
		"own, self": {ID: "e3", SPIFFEID: "spiffe://example.org/proxy", Selectors: []string{registration.SelfSelector}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ToEntry(entry.ID, domain, overTheWire(t, FromEntry(entry), &posternpb.Entry{}))
			if err != nil || !reflect.DeepEqual(got, entry) {
				t.Errorf("got %+v, %v; want %+v", got, err, entry)
			}
		})
	}
}

// A node is not told of other nodes.
func TestEntryDoesNotSayWhoseItIs(t *testing.T) {
	entry := someEntry()
	entry.Node = "spiffe://example.org/node/web-1"
	encoded, err := proto.Marshal(FromEntry(entry))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(encoded, []byte("web-1")) {
		t.Error("the resource names the node")
	}
}

func TestWrongEntryIsRejected(t *testing.T) {
	for name, change := range map[string]func(*posternpb.Entry){
		"other name":           func(m *posternpb.Entry) { m.Id = "e2" },
		"foreign trust domain": func(m *posternpb.Entry) { m.SpiffeId = "spiffe://other.org/web" },
		"no SPIFFE ID":         func(m *posternpb.Entry) { m.SpiffeId = "" },
		"no selectors":         func(m *posternpb.Entry) { m.Selectors = nil },
		"strange selector":     func(m *posternpb.Entry) { m.Selectors = []string{"unix"} },
		"endless life":         func(m *posternpb.Entry) { m.Ttl = durationpb.New(100 * 365 * 24 * time.Hour) },
		"impossible life":      func(m *posternpb.Entry) { m.Ttl = &durationpb.Duration{Seconds: 1 << 62} },
		"negative life":        func(m *posternpb.Entry) { m.Ttl = durationpb.New(-time.Hour) },
		"impossible creation":  func(m *posternpb.Entry) { m.Created = &timestamppb.Timestamp{Seconds: 1 << 62} },
	} {
		t.Run(name, func(t *testing.T) {
			m := FromEntry(someEntry())
			change(m)
			if got, err := ToEntry("e1", domain, m); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestBundleArrivesAsItWasSent(t *testing.T) {
	a, b := testkit.NewCA(t, "example.org"), testkit.NewCA(t, "example.org")
	bundle := Bundle{TrustDomain: domain, Authorities: []*x509.Certificate{a.Root, b.Root}, Sequence: 9, ActiveAuthority: a.Signing.SubjectKeyId}
	got, err := ToBundle("example.org", overTheWire(t, FromBundle(bundle), &posternpb.Bundle{}))
	if err != nil || !reflect.DeepEqual(got, bundle) {
		t.Errorf("got %+v, %v", got, err)
	}
	empty, err := ToBundle("example.org", FromBundle(Bundle{TrustDomain: domain}))
	if err != nil || len(empty.Authorities) != 0 {
		t.Errorf("empty bundle: %+v, %v", empty, err)
	}
}

func TestWrongBundleIsRejected(t *testing.T) {
	a := testkit.NewCA(t, "example.org")
	root, leaf := a.Root.Raw, a.Leaf(t).Certificate[0]
	for name, m := range map[string]*posternpb.Bundle{
		"other name":       {TrustDomain: "other.org"},
		"no trust domain":  {},
		"not a name":       {TrustDomain: "Example.org"},
		"leaf":             {TrustDomain: "example.org", X509Authorities: [][]byte{leaf}},
		"garbage":          {TrustDomain: "example.org", X509Authorities: [][]byte{root, {1}}},
		"two in one":       {TrustDomain: "example.org", X509Authorities: [][]byte{append(bytes.Clone(root), root...)}},
		"nothing in one":   {TrustDomain: "example.org", X509Authorities: [][]byte{{}}},
		"too many":         {TrustDomain: "example.org", X509Authorities: make([][]byte, maxAuthorities+1)},
		"key id too large": {TrustDomain: "example.org", ActiveAuthority: make([]byte, maxKeyID+1)},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ToBundle("example.org", m); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestRevocationArrivesAsItWasSent(t *testing.T) {
	at := time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC)
	for name, r := range map[string]revocation.Revocation{
		"for ever": {ID: "r1", Kind: revocation.SPIFFEID, Value: "spiffe://example.org/web", Reason: "stolen", By: "uid:0", At: at},
		"ends":     {ID: "r1", Kind: revocation.Serial, Value: "1f", At: at, Until: at.Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ToRevocation("r1", overTheWire(t, FromRevocation(r), &posternpb.Revocation{}))
			if err != nil || got != r {
				t.Errorf("got %+v, %v; want %+v", got, err, r)
			}
		})
	}
}

func TestWrongRevocationIsRejected(t *testing.T) {
	for name, m := range map[string]*posternpb.Revocation{
		"other name":      {Id: "r2", Kind: "serial", Value: "1f"},
		"no kind":         {Id: "r1", Value: "1f"},
		"strange kind":    {Id: "r1", Kind: "mood", Value: "1f"},
		"strange value":   {Id: "r1", Kind: "serial", Value: "0x1F"},
		"impossible time": {Id: "r1", Kind: "serial", Value: "1f", At: &timestamppb.Timestamp{Nanos: -1}},
		"ends before":     {Id: "r1", Kind: "serial", Value: "1f", At: timestamppb.New(time.Unix(9, 0)), Until: timestamppb.New(time.Unix(1, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ToRevocation("r1", m); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestPolicyArrivesAsItWasSent(t *testing.T) {
	policy := somePolicy(t)
	got, err := ToPolicy(policy.Name, overTheWire(t, FromPolicy(policy), &posternpb.Policy{}))
	if err != nil || !reflect.DeepEqual(got, policy) {
		t.Errorf("got %+v, %v; want %+v", got, err, policy)
	}
}

func TestWrongPolicyIsRejected(t *testing.T) {
	good := FromPolicy(somePolicy(t))
	for name, m := range map[string]*posternpb.Policy{
		"nothing":          {Name: good.GetName()},
		"other name":       {Name: "x", Declaration: good.GetDeclaration()},
		"what we can't do": {Name: good.GetName(), Declaration: bytes.Replace(good.GetDeclaration(), []byte(`"service"`), []byte(`"moon_phase":"full","service"`), 1)},
		"far too large":    {Name: good.GetName(), Declaration: []byte(strings.Repeat(" ", maxDeclaration+1))},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ToPolicy(good.GetName(), m); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestTypesAreThoseOfTheMessages(t *testing.T) {
	for i, m := range []proto.Message{&posternpb.Bundle{}, &posternpb.Revocation{}, &posternpb.Policy{}, &posternpb.Entry{}} {
		if got := "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()); got != Types()[i] {
			t.Errorf("type %d is %q, the message's %q", i, Types()[i], got)
		}
	}
}

// FuzzDecode: whatever bytes stand for a resource, what is accepted is sent and accepted again as the same value.
func FuzzDecode(f *testing.F) {
	a := testkit.NewCA(f, "example.org")
	policy := somePolicy(f)
	for kind, m := range []proto.Message{
		FromEntry(someEntry()), FromBundle(Bundle{TrustDomain: domain, Authorities: []*x509.Certificate{a.Root}}),
		FromRevocation(revocation.Revocation{ID: "r1", Kind: revocation.Serial, Value: "1f", At: time.Unix(1, 0)}), FromPolicy(policy),
	} {
		encoded, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(kind), encoded) //nolint:gosec // one of four
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		switch kind % 4 {
		case 0:
			again(t, data, &posternpb.Entry{}, func(m *posternpb.Entry) (registration.Entry, error) { return ToEntry(m.GetId(), domain, m) }, FromEntry)
		case 1:
			again(t, data, &posternpb.Bundle{}, func(m *posternpb.Bundle) (Bundle, error) { return ToBundle(m.GetTrustDomain(), m) }, FromBundle)
		case 2:
			again(t, data, &posternpb.Revocation{}, func(m *posternpb.Revocation) (revocation.Revocation, error) { return ToRevocation(m.GetId(), m) }, FromRevocation)
		case 3:
			again(t, data, &posternpb.Policy{}, func(m *posternpb.Policy) (config.Policy, error) { return ToPolicy(m.GetName(), m) }, FromPolicy)
		}
	})
}

func again[M proto.Message, V any](t *testing.T, data []byte, m M, to func(M) (V, error), from func(V) M) {
	t.Helper()
	if proto.Unmarshal(data, m) != nil {
		return
	}
	first, err := to(m)
	if err != nil {
		return
	}
	sent := from(first)
	second, err := to(sent)
	if err != nil {
		t.Fatalf("%v was accepted and is not accepted again: %v", sent, err)
	}
	if !proto.Equal(sent, from(second)) {
		t.Fatalf("%v comes back as %v", sent, from(second))
	}
}
