package registration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
)

var (
	td       = spiffeid.RequireTrustDomainFromString("example.org")
	testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// office is a registry over a real store and a real log.
type office struct {
	*Registry
	t   *testing.T
	st  store.Store
	dir string
}

func newOffice(t *testing.T, opts store.BoltOptions) *office {
	t.Helper()
	dir := t.TempDir()
	st, err := store.OpenBolt(filepath.Join(dir, "state", "store.db"), opts)
	if err != nil {
		t.Fatal(err)
	}
	events, err := audit.Open(filepath.Join(dir, "audit"), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(st.Close(), events.Close()); err != nil {
			t.Error(err)
		}
	})
	r := New(td, st, events, func() time.Time { return testTime })
	return &office{Registry: r, t: t, st: st, dir: filepath.Join(dir, "audit")}
}

func (o *office) create(e Entry) Entry {
	o.t.Helper()
	e, err := o.Create(o.t.Context(), e, "uid:0")
	if err != nil {
		o.t.Fatal(err)
	}
	return e
}

func (o *office) events() []string {
	o.t.Helper()
	var out []string
	for e, err := range audit.Read(o.dir, 1) {
		if err != nil {
			o.t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", e.Actor, e.Type, e.Target, e.Detail["spiffe_id"]))
	}
	return out
}

func web(name string) Entry {
	return Entry{SPIFFEID: "spiffe://example.org/" + name, Selectors: []string{"unix:user:" + name, "unix:gid:5"}, Owner: "team-a"}
}

func equal(x, y Entry) bool { return fmt.Sprintf("%+v", x) == fmt.Sprintf("%+v", y) }

func TestEntryLivesFromCreateToDelete(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	in := web("web")
	in.TTL, in.DNSNames, in.Node = time.Minute, []string{"b.example", "a.example"}, "spiffe://example.org/node/n1"
	in.Origin = OriginConfig
	in.ID, in.Revision, in.Created = "mine", 77, time.Time{} // not the caller's to choose
	e := o.create(in)
	if e.ID == "mine" || e.ID == "" || !e.Created.Equal(testTime) || e.Revision != 2 || e.Selectors[0] != "unix:gid:5" {
		t.Errorf("created %+v", e)
	}
	if got, err := o.Get(t.Context(), e.ID); err != nil || !equal(got, e) {
		t.Errorf("get = %+v, %v; want %+v", got, err, e)
	}

	e.Purpose, e.Selectors, e.Created, e.Origin = "shop", []string{"unix:user:shop"}, time.Time{}, ""
	updated, err := o.Update(t.Context(), e, "uid:1000")
	if err != nil || updated.Revision != 3 || updated.Purpose != "shop" || !updated.Created.Equal(testTime) || updated.Origin != OriginConfig {
		t.Fatalf("update = %+v, %v", updated, err)
	}
	if got, err := o.Get(t.Context(), e.ID); err != nil || !equal(got, updated) {
		t.Errorf("get = %+v, %v; want %+v", got, err, updated)
	}

	if gone, err := o.Delete(t.Context(), e.ID, "uid:0"); err != nil || gone.ID != e.ID {
		t.Errorf("delete = %+v, %v", gone, err)
	}
	if _, err := o.Get(t.Context(), e.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	want := []string{
		"uid:0 entry_created " + e.ID + " spiffe://example.org/web",
		"uid:1000 entry_updated " + e.ID + " spiffe://example.org/web",
		"uid:0 entry_deleted " + e.ID + " spiffe://example.org/web",
	}
	if got := o.events(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if items, _, err := store.All(t.Context(), o.st, ""); err != nil || len(items) != 0 {
		t.Errorf("the store keeps %v, %v", items, err)
	}
}

// Facts row I2: "second create of same (parent, selectors, id) -> AlreadyExists with the existing id".
func TestSecondEntryOfTheSameIsRefusedWithTheIDOfTheFirst(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	first := o.create(web("web"))
	again := web("web")
	slices.Reverse(again.Selectors)
	again.Owner = "team-b"
	_, err := o.Create(t.Context(), again, "uid:0")
	var exists *ExistsError
	if !errors.As(err, &exists) || exists.ID != first.ID || !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v, want ErrExists with %q", err, first.ID)
	}
	second := o.create(web("api"))
	second.SPIFFEID, second.Selectors = first.SPIFFEID, first.Selectors
	if _, err := o.Update(t.Context(), second, "uid:0"); !errors.As(err, &exists) || exists.ID != first.ID {
		t.Errorf("update to the same: %v, want ErrExists with %q", err, first.ID)
	}
	if _, err := o.Delete(t.Context(), first.ID, "uid:0"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Update(t.Context(), second, "uid:0"); err != nil {
		t.Errorf("update to what is free again: %v", err)
	}
	o.create(web("api")) // and what the second had been is free too
	if len(o.events()) != 5 {
		t.Errorf("events: %q; want those of changes only", o.events())
	}
}

func TestOneOfManyConcurrentCreatorsSucceeds(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	var wg sync.WaitGroup
	results := make(chan error, 20)
	for range cap(results) {
		wg.Go(func() {
			_, err := o.Create(t.Context(), web("web"), "uid:0")
			results <- err
		})
	}
	wg.Wait()
	close(results)
	created := 0
	for err := range results {
		if err == nil {
			created++
		} else if !errors.Is(err, ErrExists) {
			t.Errorf("loser got %v", err)
		}
	}
	if created != 1 {
		t.Errorf("%d created it, want 1", created)
	}
}

func TestUpdateOfAnOldRevisionIsRefused(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	old := o.create(web("web"))
	now := old
	now.Owner = "team-b"
	if _, err := o.Update(t.Context(), now, "uid:0"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Update(t.Context(), old, "uid:0"); !errors.Is(err, ErrConflict) {
		t.Errorf("update of the old: %v, want ErrConflict", err)
	}
	if e, err := o.Get(t.Context(), old.ID); err != nil || e.Owner != "team-b" {
		t.Errorf("entry is %+v, %v", e, err)
	}
	if _, err := o.Update(t.Context(), Entry{ID: "none"}, "uid:0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("update of nothing: %v, want ErrNotFound", err)
	}
	if _, err := o.Delete(t.Context(), "", "uid:0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete of nothing: %v, want ErrNotFound", err)
	}
}

func TestInvalidEntryIsRefusedWithAllItsProblems(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	_, err := o.Create(t.Context(), Entry{
		SPIFFEID:  "spiffe://other.org/a",
		Node:      "spiffe://example.org/{unix.uid}",
		Selectors: []string{"unix:uid:x", SelfSelector, "unix:uid:1", "unix:uid:2"},
		TTL:       time.Second,
		DNSNames:  []string{"*.example.org", "A.example", "1.2.3.4", "a..b"},
		Origin:    "elsewhere",
		Hint:      strings.Repeat("h", 257),
		Owner:     "a\nb",
		Purpose:   "\xff",
	}, "uid:0")
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("create: %v, want an InvalidError", err)
	}
	var fields []string
	for _, p := range invalid.Problems {
		fields = append(fields, p.Field)
	}
	want := "spiffe_id node selectors[0] selectors[2] selectors[3] ttl dns_names[0] dns_names[1] dns_names[2] dns_names[3] origin hint owner purpose"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("problems in %s\nwant %s\n%v", got, want, err)
	}
	for name, e := range map[string]Entry{
		"no selectors":       {SPIFFEID: "spiffe://example.org/a"},
		"root":               {SPIFFEID: "spiffe://example.org", Selectors: []string{"unix:uid:1"}},
		"self as template":   {SPIFFEID: "spiffe://example.org/{unix.uid}", Selectors: []string{SelfSelector}},
		"too many selectors": {SPIFFEID: "spiffe://example.org/a", Selectors: manySelectors(MaxSelectors + 1)},
		"too long a life":    {SPIFFEID: "spiffe://example.org/a", Selectors: []string{"unix:uid:1"}, TTL: MaxTTL + 1},
		"negative life":      {SPIFFEID: "spiffe://example.org/a", Selectors: []string{"unix:uid:1"}, TTL: -MinTTL},
	} {
		if _, err := o.Create(t.Context(), e, "uid:0"); !errors.As(err, &invalid) {
			t.Errorf("%s: %v, want an InvalidError", name, err)
		}
	}
	e := o.create(web("web"))
	e.Selectors = nil
	if _, err := o.Update(t.Context(), e, "uid:0"); !errors.As(err, &invalid) {
		t.Errorf("update: %v, want an InvalidError", err)
	}
}

func manySelectors(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("unix:supplementary_gid:%d", i))
	}
	return out
}

func TestLargestEntryFitsTheStore(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	e := Entry{SPIFFEID: "spiffe://example.org/" + strings.Repeat("a", 2000), Purpose: strings.Repeat("p", maxPurpose)}
	for i := range MaxSelectors - 1 {
		e.Selectors = append(e.Selectors, fmt.Sprintf("unix:supplementary_gid:%d", i))
		e.DNSNames = append(e.DNSNames, fmt.Sprintf("h%d.%s", i, strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 60)+".", 4), ".")))
	}
	e.Selectors = append(e.Selectors, "unix:path:/"+strings.Repeat("\"", 4095)) // escaped in JSON
	o.create(e)
}

func TestListIsFilteredAndPaged(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	for i := range 7 {
		e := web(fmt.Sprint("web", i))
		if i%2 == 1 {
			e.Owner, e.Node = "team-b", "spiffe://example.org/node/n1"
		}
		if i == 0 {
			e.Origin = OriginConfig
		}
		o.create(e)
	}
	for _, test := range []struct {
		name  string
		query Query
		want  int
	}{
		{"all", Query{}, 7},
		{"owner", Query{Owner: "team-b"}, 3},
		{"node", Query{Node: "spiffe://example.org/node/n1"}, 3},
		{"own node", Query{OwnNode: true}, 4},
		{"SPIFFE ID", Query{SPIFFEID: "spiffe://example.org/web3"}, 1},
		{"origin", Query{Origin: OriginConfig}, 1},
		{"nothing", Query{Owner: "team-b", OwnNode: true}, 0},
	} {
		for _, limit := range []int{0, 1, 2, 3, 7} {
			q, seen := test.query, map[string]bool{}
			for q.Limit = limit; ; {
				page, err := o.List(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if limit > 0 && len(page.Entries) > limit {
					t.Errorf("%s: page of %d, want at most %d", test.name, len(page.Entries), limit)
				}
				for _, e := range page.Entries {
					seen[e.ID] = true
				}
				if q.After = page.Next; q.After == "" {
					break
				}
			}
			if len(seen) != test.want {
				t.Errorf("%s, limit %d: %d entries, want %d", test.name, limit, len(seen), test.want)
			}
		}
	}
}

func TestWatchBeginsWithEverythingAndFollows(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	first := o.create(web("web"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var second Entry
	step := 0
	for c, err := range o.Watch(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		step++
		switch step {
		case 1:
			if !c.Reset || len(c.Entries) != 1 || !equal(c.Entries[0], first) {
				t.Errorf("first change: %+v", c)
			}
			second = o.create(web("api"))
		case 2:
			if c.Reset || len(c.Entries) != 1 || !equal(c.Entries[0], second) || c.Revision != second.Revision {
				t.Errorf("change after create: %+v, want %+v", c, second)
			}
			if _, err := o.Delete(t.Context(), first.ID, "uid:0"); err != nil {
				t.Fatal(err)
			}
		case 3:
			if len(c.Entries) != 0 || !slices.Equal(c.Deleted, []string{first.ID}) {
				t.Errorf("change after delete: %+v", c)
			}
			cancel()
		}
	}
	if step != 3 {
		t.Errorf("%d changes, want 3", step)
	}
}

func TestWatchThatFellBehindStartsAgain(t *testing.T) {
	o := newOffice(t, store.BoltOptions{KeepRevisions: 5})
	for i := range 20 {
		o.create(web(fmt.Sprint("web", i)))
	}
	for c, err := range o.Watch(t.Context(), 2) {
		if err != nil || !c.Reset || len(c.Entries) != 20 {
			t.Errorf("change: reset=%t with %d entries, %v; want all 20", c.Reset, len(c.Entries), err)
		}
		break
	}
	for c, err := range o.Watch(t.Context(), 20) {
		if err != nil || c.Reset || c.Revision != 21 {
			t.Errorf("change after 20: %+v, %v", c, err)
		}
		break
	}
}

type fullSink struct{}

func (fullSink) Append(context.Context, audit.Event) (uint64, error) {
	return 0, errors.New("disk full")
}

func TestUnrecordedChangeIsReported(t *testing.T) {
	o := newOffice(t, store.BoltOptions{})
	r := New(td, o.st, fullSink{}, nil)
	e, err := r.Create(t.Context(), web("web"), "uid:0")
	if !errors.Is(err, ErrUnrecorded) || e.ID == "" {
		t.Fatalf("create = %+v, %v; want the entry and ErrUnrecorded", e, err)
	}
	if _, err := r.Get(t.Context(), e.ID); err != nil {
		t.Errorf("the change does not stand: %v", err)
	}
}
