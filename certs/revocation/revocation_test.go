package revocation

import (
	"crypto/x509"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/internal/testkit"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// peer is a chain as a peer presents it, and its identity.
type peer struct {
	chain []*x509.Certificate
	id    spiffeid.ID
	root  *x509.Certificate
}

func newPeer(t testing.TB) peer {
	t.Helper()
	ca := testkit.NewCA(t, "example.org")
	leaf := ca.Leaf(t)
	return peer{chain: []*x509.Certificate{leaf.Leaf, ca.Signing}, id: ca.ID(t, "/workload"), root: ca.Root}
}

func TestIndexFindsAChainByEverythingThatCanBeRevoked(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	leaf, signing := p.chain[0], p.chain[1]
	for _, test := range []struct {
		name string
		r    Revocation
	}{
		{"serial of the leaf", Revocation{Kind: Serial, Value: SerialString(leaf.SerialNumber)}},
		{"serial of the signing authority", Revocation{Kind: Serial, Value: SerialString(signing.SerialNumber)}},
		{"SPIFFE ID", Revocation{Kind: SPIFFEID, Value: p.id.String()}},
		{"key of the leaf", Revocation{Kind: Key, Value: KeyString(leaf)}},
		{"key of the signing authority", Revocation{Kind: Key, Value: KeyString(signing)}},
		{"signing authority", Revocation{Kind: Authority, Value: AuthorityString(signing.SubjectKeyId)}},
		{"root that the peer did not present", Revocation{Kind: Authority, Value: AuthorityString(p.root.SubjectKeyId)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.r.ID = test.name
			got, ok := NewIndex([]Revocation{test.r}).Match(p.chain, p.id, noon)
			if !ok || got.ID != test.name {
				t.Errorf("Match = %v, %v; want the revocation", got, ok)
			}
			if !test.r.Concerns(p.chain, p.id) {
				t.Error("Concerns and Match disagree")
			}
			if err := test.r.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func TestIndexLeavesOtherPeersAlone(t *testing.T) {
	t.Parallel()
	p, other := newPeer(t), newPeer(t)
	var revocations []Revocation
	for _, s := range Subjects(p.chain, spiffeid.RequireFromString("spiffe://example.org/revoked")) {
		revocations = append(revocations, Revocation{Kind: s.Kind, Value: s.Value})
	}
	if got, ok := NewIndex(revocations).Match(other.chain, other.id, noon); ok {
		t.Errorf("Match found %v for a peer that nobody revoked", got)
	}
}

func TestIndexAndSubjectsLookUnderTheSameKeys(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	subjects := Subjects(append(p.chain, p.root), p.id)
	seen := map[Subject]bool{}
	for _, s := range subjects {
		if seen[s] {
			t.Errorf("subject %v stands twice", s)
		}
		seen[s] = true
		if _, ok := NewIndex([]Revocation{{Kind: s.Kind, Value: s.Value}}).Match(append(p.chain, p.root), p.id, noon); !ok {
			t.Errorf("connection is registered under %v, but the index does not find it there", s)
		}
	}
	if want := 1 + 3*2 + 2; len(subjects) != want { // ID; three serials and keys; two authorities
		t.Errorf("%d subjects, want %d: %v", len(subjects), want, subjects)
	}
}

func TestRevocationEndsByItself(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	index := NewIndex([]Revocation{{Kind: SPIFFEID, Value: p.id.String(), Until: noon}})
	if _, ok := index.Match(p.chain, p.id, noon.Add(-time.Second)); !ok {
		t.Error("revocation is not in force before its end")
	}
	if _, ok := index.Match(p.chain, p.id, noon); ok {
		t.Error("revocation is in force at its end")
	}
}

func TestLongestRevocationOfASubjectAnswers(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	value := p.id.String()
	short := Revocation{ID: "short", Kind: SPIFFEID, Value: value, Until: noon.Add(time.Hour)}
	long := Revocation{ID: "long", Kind: SPIFFEID, Value: value, Until: noon.Add(2 * time.Hour)}
	forever := Revocation{ID: "forever", Kind: SPIFFEID, Value: value}
	for _, test := range []struct {
		name  string
		given []Revocation
		want  string
	}{
		{"longer last", []Revocation{short, long}, "long"},
		{"longer first", []Revocation{long, short}, "long"},
		{"endless first", []Revocation{forever, long}, "forever"},
		{"endless last", []Revocation{short, forever}, "forever"},
	} {
		if got, _ := NewIndex(test.given).Match(nil, p.id, noon); got.ID != test.want {
			t.Errorf("%s: %q answers, want %q", test.name, got.ID, test.want)
		}
	}
}

func TestNilIndexIsEmpty(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	var index *Index
	if _, ok := index.Match(p.chain, p.id, noon); ok {
		t.Error("a nil index matches")
	}
	if _, ok := index.MatchKey(nil, noon); ok {
		t.Error("a nil index matches a key")
	}
	if index.All() != nil || index.Len() != 0 {
		t.Error("a nil index lists something")
	}
}

func TestIndexSurvivesCertificatesWithoutParts(t *testing.T) {
	t.Parallel()
	huge := new(big.Int).Lsh(big.NewInt(1), 400)
	index := NewIndex([]Revocation{{Kind: Serial, Value: "1"}, {Kind: Key, Value: strings.Repeat("0", 64)}, {Kind: Authority, Value: "00"}})
	for _, cert := range []*x509.Certificate{{}, {SerialNumber: huge}, {SerialNumber: big.NewInt(-1)}, {SerialNumber: new(big.Int)}} {
		if got, ok := index.Match([]*x509.Certificate{cert, cert}, spiffeid.ID{}, noon); ok {
			t.Errorf("Match found %v", got)
		}
	}
}

func TestValidateTakesOneFormOfEachValue(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for _, test := range []struct {
		name string
		r    Revocation
	}{
		{"unknown kind", Revocation{Kind: "issuer", Value: "1"}},
		{"no kind", Revocation{Value: "1"}},
		{"empty serial", Revocation{Kind: Serial}},
		{"serial with a leading zero", Revocation{Kind: Serial, Value: "01"}},
		{"serial in upper case", Revocation{Kind: Serial, Value: "AB"}},
		{"serial with colons", Revocation{Kind: Serial, Value: "ab:cd"}},
		{"serial of more than 20 octets", Revocation{Kind: Serial, Value: strings.Repeat("1", 41)}},
		{"ID that is none", Revocation{Kind: SPIFFEID, Value: "example.org/a"}},
		{"ID of a trust domain", Revocation{Kind: SPIFFEID, Value: "spiffe://example.org"}},
		{"short key hash", Revocation{Kind: Key, Value: hash[:62]}},
		{"key hash in upper case", Revocation{Kind: Key, Value: strings.ToUpper(hash)}},
		{"empty authority", Revocation{Kind: Authority}},
		{"odd authority", Revocation{Kind: Authority, Value: "abc"}},
		{"endless reason", Revocation{Kind: Serial, Value: "1", Reason: strings.Repeat("x", MaxReason+1)}},
		{"endless actor", Revocation{Kind: Serial, Value: "1", By: strings.Repeat("x", MaxBy+1)}},
		{"endless id", Revocation{Kind: Serial, Value: "1", ID: strings.Repeat("x", MaxID+1)}},
		{"end before the beginning", Revocation{Kind: Serial, Value: "1", At: noon, Until: noon}},
	} {
		err := test.r.Validate()
		if err == nil {
			t.Errorf("%s: accepted", test.name)
			continue
		}
		if len(err.Error()) > 500 {
			t.Errorf("%s: the error repeats its whole input", test.name)
		}
	}
}

func TestRevocationKeepsItsFormInJSON(t *testing.T) {
	t.Parallel()
	for _, r := range []Revocation{
		{ID: "1", Kind: Serial, Value: "ab", Reason: "stolen", By: "uid:0", At: noon, Until: noon.Add(time.Hour)},
		{ID: "2", Kind: SPIFFEID, Value: "spiffe://example.org/a", At: noon},
	} {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Revocation
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if back != r {
			t.Errorf("%s became %v", data, back)
		}
		if r.Until.IsZero() && strings.Contains(string(data), "until") {
			t.Errorf("%s has an end", data)
		}
	}
}

func TestIndexIsNotChangedThroughItsSlices(t *testing.T) {
	t.Parallel()
	given := []Revocation{{ID: "1", Kind: Serial, Value: "ab"}}
	index := NewIndex(given)
	given[0].ID = "changed"
	index.All()[0].ID = "changed"
	if index.All()[0].ID != "1" {
		t.Error("the index shares its slice")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	p := newPeer(t)
	index := bigIndex(t)
	if n := testing.AllocsPerRun(100, func() { index.Match(p.chain, p.id, noon) }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

// bigIndex has 10,000 revocations of each kind, of nobody here.
func bigIndex(t testing.TB) *Index {
	t.Helper()
	var all []Revocation
	for i := range 10_000 {
		serial := SerialString(big.NewInt(int64(i) + 1))
		hash := KeyHash([]byte(serial))
		all = append(
			all,
			Revocation{Kind: Serial, Value: serial},
			Revocation{Kind: Key, Value: hash},
			Revocation{Kind: Authority, Value: hash[:40]},
			Revocation{Kind: SPIFFEID, Value: "spiffe://example.org/revoked/" + serial},
		)
	}
	return NewIndex(all)
}

func BenchmarkMatch(b *testing.B) {
	p := newPeer(b)
	index := bigIndex(b)
	b.ReportAllocs()
	for b.Loop() {
		index.Match(p.chain, p.id, noon)
	}
}
