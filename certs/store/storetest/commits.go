package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/postern-proxy/postern/certs/store"
)

func newStoreIsEmpty(t *testing.T, open Open) {
	b := start(t, open)
	b.wantRevision(1)
	if page := b.list("", "", 0); len(page.Items) != 0 || page.More || page.Revision != 1 {
		t.Errorf("listing of a new store: %+v", page)
	}
	b.wantAbsent("a")
}

func itemIsReadAsPut(t *testing.T, open Open) {
	b := start(t, open)
	first := b.put("a", "1")
	b.put("b", "")
	third := b.put("a", "2")
	item := b.get("a")
	if string(item.Value) != "2" || item.Created != first || item.Modified != third || !item.Expires.IsZero() || item.Key != "a" {
		t.Errorf("item = %+v; created at %d, changed at %d", item, first, third)
	}
	b.wantValue("b", "")
}

func valueBelongsToTheCaller(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "kept")
	copy(b.get("a").Value, "lost")
	copy(b.list("", "", 0).Items[0].Value, "lost")
	b.wantValue("a", "kept")
}

func revisionsHaveNoGaps(t *testing.T, open Open) {
	b := start(t, open)
	for want := store.Revision(2); want < 8; want++ {
		if got := b.commit(store.Txn{Then: []store.Op{put("a", "1"), put("b", "2"), {Key: "c", Delete: true}}}); got != want {
			t.Fatalf("commit made revision %d, want %d", got, want)
		}
		b.wantRevision(want)
	}
}

func nothingChanged(t *testing.T, open Open) {
	b := start(t, open)
	rev := b.put("a", "1")
	for name, txn := range map[string]store.Txn{
		"no operations":      {If: []store.Condition{{Key: "a", Modified: rev}}},
		"absent key deleted": {Then: []store.Op{{Key: "z", Delete: true}}},
	} {
		if got := b.commit(txn); got != rev {
			t.Errorf("%s: revision %d, want %d", name, got, rev)
		}
		b.wantRevision(rev)
	}
}

func allOrNothing(t *testing.T, open Open) {
	b := start(t, open)
	rev := b.put("a", "1")
	_, err := b.st.Commit(b.ctx(), store.Txn{
		If:   []store.Condition{{Key: "a", Modified: rev}, {Key: "b", Modified: rev}},
		Then: []store.Op{put("a", "2"), put("c", "3")},
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("commit = %v, want ErrConflict", err)
	}
	b.wantValue("a", "1")
	b.wantAbsent("c")
	b.wantRevision(rev)
}

func conditionMissed(t *testing.T, open Open) {
	b := start(t, open)
	first := b.put("a", "1")
	second := b.put("a", "2")
	for _, c := range []struct {
		name string
		cond store.Condition
		have store.Revision
	}{
		{"stale revision", store.Condition{Key: "a", Modified: first}, second},
		{"key exists", store.Condition{Key: "a"}, second},
		{"key is absent", store.Condition{Key: "z", Modified: first}, 0},
	} {
		_, err := b.st.Commit(b.ctx(), store.Txn{If: []store.Condition{c.cond}, Then: []store.Op{put("a", "3")}})
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			t.Errorf("%s: %v, want a ConflictError", c.name, err)
			continue
		}
		if conflict.Key != c.cond.Key || conflict.Want != c.cond.Modified || conflict.Have != c.have {
			t.Errorf("%s: %+v, want revision %d to stand in the way", c.name, *conflict, c.have)
		}
	}
	b.wantValue("a", "2")
}

// Facts row T1: one-time tokens rest on this.
func oneCreator(t *testing.T, open Open) {
	b := start(t, open)
	const callers = 100
	won := make(chan int, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			_, err := b.st.Commit(b.ctx(), store.Txn{
				If:   []store.Condition{{Key: "token"}},
				Then: []store.Op{put("token", strconv.Itoa(i))},
			})
			if err == nil {
				won <- i
			} else if !errors.Is(err, store.ErrConflict) {
				t.Errorf("loser got %v, want ErrConflict", err)
			}
		})
	}
	wg.Wait()
	close(won)
	var winners []int
	for i := range won {
		winners = append(winners, i)
	}
	if len(winners) != 1 {
		t.Fatalf("%d callers created the key, want 1", len(winners))
	}
	b.wantValue("token", strconv.Itoa(winners[0]))
	b.wantRevision(2)
}

func concurrentIncrements(t *testing.T, open Open) {
	b := start(t, open)
	b.put("n", "0")
	const callers, each = 8, 10
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for done := 0; done < each; {
				item, err := b.st.Get(b.ctx(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(item.Value))
				_, err = b.st.Commit(b.ctx(), store.Txn{
					If:   []store.Condition{{Key: "n", Modified: item.Modified}},
					Then: []store.Op{put("n", strconv.Itoa(n+1)), put(fmt.Sprintf("own/%d/%d", i, done), "")},
				})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.wantValue("n", strconv.Itoa(callers*each))
	b.wantRevision(2 + callers*each)
	if got := len(b.list("own/", "", 0).Items); got != callers*each {
		t.Errorf("%d other keys, want %d", got, callers*each)
	}
}

func deletedKey(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "1")
	b.delete("a")
	b.wantAbsent("a")
	rev := b.commit(store.Txn{If: []store.Condition{{Key: "a"}}, Then: []store.Op{put("a", "2")}})
	if item := b.get("a"); item.Created != rev || item.Modified != rev {
		t.Errorf("item = %+v, want it created at %d", item, rev)
	}
}

func listingIsPaged(t *testing.T, open Open) {
	b := start(t, open)
	for _, key := range []string{"p/b", "p/a", "p/\xff", "p/Z", "p", "p/a/b", "q/a", "o"} {
		b.put(key, key)
	}
	want := []string{"p/Z", "p/a", "p/a/b", "p/b", "p/\xff"}
	for _, limit := range []int{1, 2, 5, 6, 0} {
		var got []string
		for after, more := "", true; more; {
			page := b.list("p/", after, limit)
			if limit > 0 && len(page.Items) > limit {
				t.Fatalf("page of %d items, want at most %d", len(page.Items), limit)
			}
			if page.Revision != 9 {
				t.Errorf("page is of revision %d, want 9", page.Revision)
			}
			for _, item := range page.Items {
				got = append(got, item.Key)
				after = item.Key
			}
			more = page.More
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("limit %d: listed %q, want %q", limit, got, want)
		}
	}
	all, rev, err := store.All(b.ctx(), b.st, "p/")
	if err != nil || len(all) != len(want) || rev != 9 {
		t.Errorf("All = %d items at revision %d, %v", len(all), rev, err)
	}
}

func largeValuesMakeShortPages(t *testing.T, open Open) {
	b := start(t, open)
	large := string(bytes.Repeat([]byte("x"), store.MaxValue))
	for i := range 12 {
		b.put(fmt.Sprintf("a%02d", i), large)
	}
	page := b.list("a", "", 0)
	if len(page.Items) == 12 || !page.More {
		t.Errorf("one page holds all %d items of 1 MiB, and more = %t", len(page.Items), page.More)
	}
	if all, _, err := store.All(b.ctx(), b.st, "a"); err != nil || len(all) != 12 {
		t.Errorf("all pages hold %d items, %v; want 12", len(all), err)
	}
	if events := b.collect("", 1, 12); len(events[11].Item.Value) != store.MaxValue {
		t.Errorf("last event has %d bytes", len(events[11].Item.Value))
	}
}

func limitsAreRefused(t *testing.T, open Open) {
	b := start(t, open)
	ops := make([]store.Op, store.MaxOps+1)
	conds := make([]store.Condition, store.MaxOps+1)
	for i := range ops {
		ops[i] = put(fmt.Sprintf("k%d", i), "")
		conds[i] = store.Condition{Key: fmt.Sprintf("k%d", i)}
	}
	long := strings.Repeat("k", store.MaxKey)
	for name, txn := range map[string]store.Txn{
		"key":        {Then: []store.Op{put(long+"k", "")}},
		"value":      {Then: []store.Op{{Key: "a", Value: make([]byte, store.MaxValue+1)}}},
		"operations": {Then: ops},
		"conditions": {If: conds, Then: ops[:1]},
	} {
		if _, err := b.st.Commit(b.ctx(), txn); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("too large %s: %v, want ErrTooLarge", name, err)
		}
	}
	for name, txn := range map[string]store.Txn{
		"empty key":     {Then: []store.Op{put("", "")}},
		"key twice":     {Then: []store.Op{put("a", "1"), {Key: "a", Delete: true}}},
		"negative life": {Then: []store.Op{{Key: "a", TTL: -1}}},
	} {
		if _, err := b.st.Commit(b.ctx(), txn); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	b.wantRevision(1)
	b.commit(store.Txn{If: conds[1:], Then: append(ops[2:], store.Op{Key: long, Value: make([]byte, store.MaxValue)})})
	if got := len(b.get(long).Value); got != store.MaxValue {
		t.Errorf("largest value came back with %d bytes", got)
	}
}

func endedContext(t *testing.T, open Open) {
	b := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.st.Commit(ctx, store.Txn{Then: []store.Op{put("a", "1")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("commit = %v, want context.Canceled", err)
	}
	if _, err := b.st.Get(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("get = %v, want context.Canceled", err)
	}
	if _, err := b.st.List(ctx, "", "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("list = %v, want context.Canceled", err)
	}
	b.wantRevision(1)
	b.wantAbsent("a")
}

func reopened(t *testing.T, open Open) {
	b := start(t, open)
	b.put("a", "1")
	rev := b.put("a", "2")
	b.put("b", "1")
	b.delete("b")
	before := b.get("a")
	b.st = b.reopen()
	if after := b.get("a"); after.Modified != before.Modified || after.Created != before.Created || string(after.Value) != "2" {
		t.Errorf("item = %+v, was %+v", after, before)
	}
	b.wantRevision(5)
	b.wantEvents(b.collect("", rev, 2), "4 put b=1", "5 del b")
	if got := b.put("c", "1"); got != 6 {
		t.Errorf("first commit after reopening makes revision %d, want 6", got)
	}
}

func closedStore(t *testing.T, open Open) {
	b := start(t, open)
	if err := b.st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.st.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	_, commitErr := b.st.Commit(b.ctx(), store.Txn{Then: []store.Op{put("a", "1")}})
	_, getErr := b.st.Get(b.ctx(), "a")
	_, listErr := b.st.List(b.ctx(), "", "", 0)
	_, revErr := b.st.Revision(b.ctx())
	var watchErr error
	for _, watchErr = range b.st.Watch(b.ctx(), "", 1) {
		break
	}
	for call, err := range map[string]error{"commit": commitErr, "get": getErr, "list": listErr, "revision": revErr, "watch": watchErr} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s = %v, want ErrClosed", call, err)
		}
	}
}
