package registration

import "slices"

// Index finds the entries that a workload earns, of one set of entries, in time that depends on the workload's selectors and not on the number of
// entries. It does not change and may be used concurrently.
type Index struct {
	entries []Entry
	// byRarest holds the places of the entries under the one of their selectors that the fewest entries have, so that a
	// selector which thousands share ("unix:uid:0") leads to few candidates.
	byRarest map[string][]int
}

// NewIndex makes an index. It keeps the slice of entries, which must not be changed afterwards.
func NewIndex(entries []Entry) *Index {
	uses := make(map[string]int)
	for _, e := range entries {
		for _, s := range e.Selectors {
			uses[s]++
		}
	}
	index := &Index{entries: entries, byRarest: make(map[string][]int)}
	for i, e := range entries {
		if len(e.Selectors) == 0 {
			continue
		}
		rarest := slices.MinFunc(e.Selectors, func(x, y string) int { return uses[x] - uses[y] })
		index.byRarest[rarest] = append(index.byRarest[rarest], i)
	}
	return index
}

// Match returns the entries of which every selector is among selectors, in the order in which they were given. An entry without selectors
// matches nothing. A nil Index has none.
func (x *Index) Match(selectors []string) []Entry {
	if x == nil {
		return nil
	}
	have := selectorSet(selectors)
	var found []int
	for s := range have {
		for _, i := range x.byRarest[s] {
			if covers(have, x.entries[i].Selectors) {
				found = append(found, i)
			}
		}
	}
	slices.Sort(found)
	out := make([]Entry, 0, len(found))
	for _, i := range found {
		out = append(out, x.entries[i])
	}
	return out
}

func selectorSet(selectors []string) map[string]struct{} {
	set := make(map[string]struct{}, len(selectors))
	for _, s := range selectors {
		set[s] = struct{}{}
	}
	return set
}

func covers(have map[string]struct{}, want []string) bool {
	for _, s := range want {
		if _, ok := have[s]; !ok {
			return false
		}
	}
	return len(want) > 0
}
