package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/store"
)

func watchYieldsAll(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "1")
	b.commit(store.Txn{Then: []store.Op{put("c", "1"), put("b", "1"), {Key: "a", Delete: true}, {Key: "z", Delete: true}}})
	b.put("a", "2")
	b.wantEvents(b.collect("", 1, 5), "2 put a=1", "3 del a", "3 put b=1", "3 put c=1", "4 put a=2")
}

// A watcher that has many changes to catch up with reads them in several steps, which may end within a revision.
func watchCatchesUp(t *testing.T, open Open) {
	b := start(t, open)
	const commits, ops = 10, 100
	var want []string
	for i := range commits {
		var txn store.Txn
		for n := range ops {
			key := fmt.Sprintf("%c/%02d", "ab"[n%2], n)
			txn.Then = append(txn.Then, put(key, ""))
			if n%2 == 1 {
				want = append(want, fmt.Sprintf("%d put %s=", i+2, key))
			}
		}
		b.commit(txn)
	}
	b.wantEvents(b.collect("b/", 1, len(want)), want...)
	if got := b.collect("", 1, commits*ops); got[len(got)-1].Item.Key != "b/99" {
		t.Errorf("the last of all is %s", show(got[len(got)-1]))
	}
}

// Every change made while watchers and committers run side by side reaches every watcher once and in order.
func watchFromListing(t *testing.T, open Open) {
	b := start(t, open)
	const writers, each = 4, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := b.st.Commit(b.ctx(), store.Txn{Then: []store.Op{put(fmt.Sprintf("k/%d/%d", w, i), "")}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			items, rev, err := store.All(b.ctx(), b.st, "k/")
			if err != nil {
				t.Error(err)
				return
			}
			seen := map[string]bool{}
			for _, item := range items {
				seen[item.Key] = true
			}
			last := rev
			for len(seen) < writers*each {
				events, err := take(b.st.Watch(b.ctx(), "k/", last), 1)
				if err != nil {
					t.Error(err)
					return
				}
				e := events[0]
				if e.Item.Modified <= last || seen[e.Item.Key] {
					t.Errorf("event %s after revision %d", show(e), last)
				}
				last, seen[e.Item.Key] = e.Item.Modified, true
			}
		})
	}
	wg.Wait()
}

func watchFromZero(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "1")
	events := b.st.Watch(b.ctx(), "", 0)
	b.put("a", "2")
	b.wantEvents(b.take(events, 1), "3 put a=2")
}

func watchResumes(t *testing.T, open Open) {
	b := start(t, open)
	for i := range 10 {
		b.put("a", fmt.Sprint(i))
	}
	last := store.Revision(1)
	for i := range 10 {
		e := b.collect("a", last, 1)[0]
		if string(e.Item.Value) != fmt.Sprint(i) {
			t.Fatalf("step %d: %s", i, show(e))
		}
		last = e.Item.Modified
	}
}

func watchSeesPrefix(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a/1", "")
	b.put("b/1", "")
	b.commit(store.Txn{Then: []store.Op{put("a/2", ""), put("b/2", "")}})
	b.delete("b/1")
	b.wantEvents(b.collect("b/", 1, 3), "3 put b/1=", "4 put b/2=", "5 del b/1")
}

func watchCompacted(t *testing.T, open Open) {
	b := start(t, open)
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for range (keepAtMost + keepAtMost/5) / 50 {
				if _, err := b.st.Commit(b.ctx(), store.Txn{Then: []store.Op{put(fmt.Sprint("k", w), "")}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rev, err := b.st.Revision(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	compacted := func(from store.Revision) error {
		for _, err := range b.st.Watch(b.ctx(), "", from) {
			return err
		}
		return nil
	}
	if err := compacted(1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from 1 at revision %d: %v, want ErrCompacted", rev, err)
	}
	if err := compacted(rev - 100); err != nil {
		t.Errorf("watch from a hundred revisions ago: %v", err)
	}
	b.st = b.reopen()
	if err := compacted(1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from 1 after reopening: %v, want ErrCompacted", err)
	}
	if events := b.collect("", rev-100, 100); events[0].Item.Modified != rev-99 || events[99].Item.Modified != rev {
		t.Errorf("after reopening the last hundred events are %s to %s", show(events[0]), show(events[99]))
	}
}

func watchAhead(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "1")
	for _, err := range b.st.Watch(b.ctx(), "", 3) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from revision 3 at revision 2: %v, want ErrCompacted", err)
		}
		return
	}
	t.Error("watch ended without an error")
}

func slowWatcher(t *testing.T, open Open) {
	b := start(t, open)
	const commits = 90
	b.put("a", "1")
	got := 0
	for e, err := range b.st.Watch(b.ctx(), "", 1) {
		if err != nil {
			t.Fatal(err)
		}
		if got == 0 { // the watcher does not come back while these are made
			for range commits - 1 {
				b.put("a", "1")
			}
		}
		got++
		if want := store.Revision(got + 1); e.Item.Modified != want {
			t.Fatalf("event of revision %d, want %d", e.Item.Modified, want)
		}
		if got == commits {
			return
		}
	}
	t.Errorf("watch ended after %d events, want %d", got, commits)
}

func watchEnds(t *testing.T, open Open) {
	b := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	watching := make(chan struct{}, 2)
	watch := func(ctx context.Context) {
		var last error
		for _, err := range b.st.Watch(ctx, "", 1) {
			if err == nil {
				watching <- struct{}{}
			}
			last = err
		}
		ended <- last
	}
	go watch(ctx)
	b.put("a", "1")
	b.wait(watching, "the first event")
	cancel()
	if err := b.waitErr(ended); err != nil {
		t.Errorf("watch whose context ended yielded %v", err)
	}
	go watch(t.Context())
	b.wait(watching, "the first event of the second watch")
	if err := b.st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.waitErr(ended); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch of a closed store ended with %v, want ErrClosed", err)
	}
}

func (b *bench) wait(c <-chan struct{}, what string) {
	b.t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		b.t.Fatalf("waited in vain for %s", what)
	}
}

func (b *bench) waitErr(c <-chan error) error {
	b.t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		b.t.Fatal("watch does not end")
		return nil
	}
}

func expiredKeyIsAbsent(t *testing.T, open Open) {
	b := start(t, open)
	rev := b.commit(store.Txn{Then: []store.Op{{Key: "t", Value: []byte("1"), TTL: time.Minute}}})
	if item := b.get("t"); !item.Expires.Equal(b.clock.Now().Add(time.Minute)) {
		t.Errorf("expires at %s, one minute after %s was asked", item.Expires, b.clock.Now())
	}
	b.clock.Advance(time.Minute - time.Nanosecond)
	b.wantValue("t", "1")
	b.clock.Advance(time.Nanosecond)
	b.wantAbsent("t")
	if page := b.list("", "", 0); len(page.Items) != 0 {
		t.Errorf("listing holds the expired key: %+v", page.Items)
	}
	_, err := b.st.Commit(b.ctx(), store.Txn{If: []store.Condition{{Key: "t", Modified: rev}}})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("condition on the expired key: %v, want ErrConflict", err)
	}
	rev = b.commit(store.Txn{If: []store.Condition{{Key: "t"}}, Then: []store.Op{put("t", "2")}})
	if item := b.get("t"); item.Created != rev || !item.Expires.IsZero() {
		t.Errorf("key put anew: %+v, want it created at %d and permanent", item, rev)
	}
	b.clock.Advance(time.Hour)
	b.wantValue("t", "2")
}

func expiredKeyIsDeleted(t *testing.T, open Open) {
	b := start(t, open)
	b.commit(store.Txn{Then: []store.Op{
		{Key: "a", TTL: time.Minute}, {Key: "b", TTL: time.Minute}, {Key: "c", TTL: time.Hour}, put("d", ""),
	}})
	b.clock.Advance(time.Minute)
	deleted := map[string]bool{}
	for _, e := range b.collect("", 2, 2) {
		if !e.Deleted || e.Item.Modified < 3 {
			t.Errorf("event %s, want a deletion", show(e))
		}
		deleted[e.Item.Key] = true
	}
	if !deleted["a"] || !deleted["b"] {
		t.Errorf("deleted are %v, want a and b", deleted)
	}
	b.st = b.reopen()
	b.clock.Advance(time.Hour)
	rev := b.collect("c", 2, 1)[0]
	if !rev.Deleted {
		t.Errorf("after reopening: event %s, want the deletion of c", show(rev))
	}
	b.get("d")
}

func putMakesPermanent(t *testing.T, open Open) {
	b := start(t, open)
	b.commit(store.Txn{Then: []store.Op{{Key: "a", TTL: time.Minute}, {Key: "b", TTL: time.Minute}}})
	b.put("a", "permanent")
	b.commit(store.Txn{Then: []store.Op{{Key: "b", Value: []byte("longer"), TTL: time.Hour}}})
	rev := b.commit(store.Txn{Then: []store.Op{{Key: "first", TTL: time.Minute}, {Key: "second", TTL: 2 * time.Hour}}})
	b.clock.Advance(30 * time.Minute)
	b.collect("first", rev, 1) // what has expired was removed
	b.wantValue("a", "permanent")
	b.wantValue("b", "longer")
	b.clock.Advance(2 * time.Hour)
	b.collect("second", rev, 1)
	b.wantValue("a", "permanent")
	b.wantAbsent("b")
}
