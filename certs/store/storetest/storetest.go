// Package storetest holds the behaviour that every engine of package store shows, as tests that an engine runs unchanged.
//
// What only one engine promises (its file, its crash, its full disk) is tested beside that engine.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/store"
)

// Open gives a test an empty store of its own, whose wall clock is clock and whose background work runs until the test ends. It
// keeps at least 100 and at most 1,000 revisions for watchers. reopen closes the store and opens what it kept. Both are closed when
// the test ends.
type Open func(t *testing.T, clock func() time.Time) (st store.Store, reopen func() store.Store)

// keepAtMost is the number of revisions after which an engine under test has forgotten the first.
const keepAtMost = 1000

// patience bounds every wait of a test. It is reached only when something is wrong.
const patience = 20 * time.Second

// Run runs the suite.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"NewStoreIsEmptyAtRevisionOne", newStoreIsEmpty},
		{"ItemIsReadAsItWasPut", itemIsReadAsPut},
		{"ValueBelongsToTheCaller", valueBelongsToTheCaller},
		{"RevisionsHaveNoGaps", revisionsHaveNoGaps},
		{"TransactionThatChangesNothingMakesNoRevision", nothingChanged},
		{"TransactionIsMadeWholeOrNotAtAll", allOrNothing},
		{"ConditionNamesTheRevisionItMissed", conditionMissed},
		{"OnlyOneOfManyCreatesAKey", oneCreator},
		{"ConcurrentIncrementsAreAllCounted", concurrentIncrements},
		{"DeletedKeyIsAbsentAndStartsAnew", deletedKey},
		{"ListingIsInByteOrderAndPaged", listingIsPaged},
		{"LargeValuesMakeShortPages", largeValuesMakeShortPages},
		{"LimitsAreRefused", limitsAreRefused},
		{"EndedContextStopsCalls", endedContext},
		{"WatchYieldsEveryChangeOnce", watchYieldsAll},
		{"WatchCatchesUpInSteps", watchCatchesUp},
		{"WatchFromAListingMissesNothing", watchFromListing},
		{"WatchFromZeroBeginsNow", watchFromZero},
		{"WatchResumesWhereItStopped", watchResumes},
		{"WatchSeesOnlyItsPrefix", watchSeesPrefix},
		{"WatchOfForgottenRevisionIsCompacted", watchCompacted},
		{"WatchAheadOfTheStoreIsCompacted", watchAhead},
		{"SlowWatcherHoldsNobodyUp", slowWatcher},
		{"WatchEndsWithItsContextOrTheStore", watchEnds},
		{"ExpiredKeyIsAbsentAtOnce", expiredKeyIsAbsent},
		{"ExpiredKeyIsDeletedForWatchers", expiredKeyIsDeleted},
		{"PutWithoutTTLMakesAKeyPermanent", putMakesPermanent},
		{"ReopenedStoreHasEverything", reopened},
		{"ClosedStoreSaysSo", closedStore},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open)
		})
	}
}

// Clock is a wall clock that stands until it is moved.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at an arbitrary time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

// Now returns the time it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves it on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bench is one store under test with the script words.
type bench struct {
	t      *testing.T
	st     store.Store
	reopen func() store.Store
	clock  *Clock
}

func start(t *testing.T, open Open) *bench {
	t.Helper()
	clock := NewClock()
	st, reopen := open(t, clock.Now)
	return &bench{t: t, st: st, reopen: reopen, clock: clock}
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *bench) commit(txn store.Txn) store.Revision {
	b.t.Helper()
	rev, err := b.st.Commit(b.ctx(), txn)
	if err != nil {
		b.t.Fatalf("commit: %v", err)
	}
	return rev
}

func (b *bench) put(key, value string) store.Revision {
	b.t.Helper()
	return b.commit(store.Txn{Then: []store.Op{put(key, value)}})
}

func (b *bench) delete(key string) {
	b.t.Helper()
	b.commit(store.Txn{Then: []store.Op{{Key: key, Delete: true}}})
}

func (b *bench) get(key string) store.Item {
	b.t.Helper()
	item, err := b.st.Get(b.ctx(), key)
	if err != nil {
		b.t.Fatalf("get %q: %v", key, err)
	}
	return item
}

func (b *bench) wantValue(key, value string) {
	b.t.Helper()
	if got := string(b.get(key).Value); got != value {
		b.t.Errorf("key %q has the value %q, want %q", key, got, value)
	}
}

func (b *bench) wantAbsent(key string) {
	b.t.Helper()
	if item, err := b.st.Get(b.ctx(), key); !errors.Is(err, store.ErrNotFound) {
		b.t.Errorf("get %q = %+v, %v; want ErrNotFound", key, item, err)
	}
}

func (b *bench) wantRevision(want store.Revision) {
	b.t.Helper()
	if got, err := b.st.Revision(b.ctx()); err != nil || got != want {
		b.t.Errorf("revision = %d, %v; want %d", got, err, want)
	}
}

func (b *bench) list(prefix, after string, limit int) store.Page {
	b.t.Helper()
	page, err := b.st.List(b.ctx(), prefix, after, limit)
	if err != nil {
		b.t.Fatalf("list %q: %v", prefix, err)
	}
	return page
}

// collect reads n events.
func (b *bench) collect(prefix string, from store.Revision, n int) []store.Event {
	b.t.Helper()
	return b.take(b.st.Watch(b.ctx(), prefix, from), n)
}

func (b *bench) take(events iter.Seq2[store.Event, error], n int) []store.Event {
	b.t.Helper()
	got, err := take(events, n)
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

// take reads n events.
func take(events iter.Seq2[store.Event, error], n int) ([]store.Event, error) {
	var got []store.Event
	for e, err := range events {
		if err != nil {
			return nil, fmt.Errorf("watch, after %d events: %w", len(got), err)
		}
		if got = append(got, e); len(got) == n {
			return got, nil
		}
	}
	return nil, fmt.Errorf("watch ended after %d events, want %d", len(got), n)
}

func put(key, value string) store.Op { return store.Op{Key: key, Value: []byte(value)} }

// show writes an event as "3 put a=1" or "4 del a".
func show(e store.Event) string {
	if e.Deleted {
		return fmt.Sprintf("%d del %s", e.Item.Modified, e.Item.Key)
	}
	return fmt.Sprintf("%d put %s=%s", e.Item.Modified, e.Item.Key, e.Item.Value)
}

func (b *bench) wantEvents(got []store.Event, want ...string) {
	b.t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			b.t.Errorf("event %d is missing: %s", i, want[i])
		case i >= len(want):
			b.t.Errorf("event %d is too many: %s", i, show(got[i]))
		case show(got[i]) != want[i]:
			b.t.Errorf("event %d is %q, want %q", i, show(got[i]), want[i])
		}
	}
}
