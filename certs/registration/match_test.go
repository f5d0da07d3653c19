package registration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func ids(entries []Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.ID)
	}
	return out
}

func TestEntryMatchesWorkloadThatHasAllItsSelectors(t *testing.T) {
	entries := []Entry{
		{ID: "uid", Selectors: []string{"unix:uid:1"}},
		{ID: "both", Selectors: []string{"unix:path:/a", "unix:uid:1"}},
		{ID: "other", Selectors: []string{"unix:path:/b", "unix:uid:1"}},
		{ID: "self", Selectors: []string{SelfSelector}},
		{ID: "none"},
	}
	index := NewIndex(entries)
	for _, test := range []struct{ have, want []string }{
		{[]string{"unix:uid:1"}, []string{"uid"}},
		{[]string{"unix:uid:1", "unix:path:/a", "unix:gid:5", "unix:uid:1"}, []string{"uid", "both"}},
		{[]string{SelfSelector}, []string{"self"}},
		{[]string{"unix:path:/a"}, nil},
		{nil, nil},
	} {
		if got := ids(index.Match(test.have)); !slices.Equal(got, test.want) {
			t.Errorf("%q match %q, want %q", test.have, got, test.want)
		}
	}
	if got := (*Index)(nil).Match([]string{"unix:uid:1"}); got != nil {
		t.Errorf("nil index matches %q", ids(got))
	}
}

// inOrder looks at every entry: what an index must not differ from.
func inOrder(entries []Entry, selectors []string) []Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return !covers(selectorSet(selectors), e.Selectors) })
}

func TestIndexAnswersAsTheListDoes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(n int) []string {
		var out []string
		for range n {
			out = append(out, fmt.Sprintf("unix:uid:%d", random.IntN(8)))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	for range 200 {
		var entries []Entry
		for i := range random.IntN(30) {
			entries = append(entries, Entry{ID: fmt.Sprint(i), Selectors: pick(1 + random.IntN(3))})
		}
		have := pick(random.IntN(6))
		if want, got := ids(inOrder(entries, have)), ids(NewIndex(entries).Match(have)); !slices.Equal(want, got) {
			t.Fatalf("%q match %q in the index, %q in the list", have, got, want)
		}
	}
}

// BenchmarkMatch asks with the selectors of one process on a node with 10,000 entries, which all share a uid.
func BenchmarkMatch(b *testing.B) {
	var entries []Entry
	for i := range 10_000 {
		entries = append(entries, Entry{ID: fmt.Sprint(i), Selectors: []string{"unix:uid:0", fmt.Sprintf("unix:path:/opt/%d", i)}})
	}
	have := []string{"unix:uid:0", "unix:gid:0", "unix:user:root", "unix:group:root", "unix:path:/opt/77", "unix:supplementary_gid:1", "unix:supplementary_gid:2"}
	index := NewIndex(entries)
	b.Run("index", func(b *testing.B) {
		for b.Loop() {
			if len(index.Match(have)) != 1 {
				b.Fatal("no match")
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			NewIndex(entries)
		}
	})
}
