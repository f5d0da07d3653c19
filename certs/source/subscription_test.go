package source

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/certs/registration"
)

func TestWorkloadGetsWhatItsSelectorsEarnOldestEntryFirst(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		second, hinted := entry("bb", "/second", "unix:gid:5"), entry("ccc", "/third", "unix:gid:5", "unix:uid:1")
		hinted.Hint = "internal"
		w.SetEntries([]registration.Entry{
			hinted, second, entry("a", "/first", "unix:uid:1"),
			entry("dddd", "/elsewhere", "unix:uid:1", "unix:path:/bin/other"), entry("eeeee", "/somebody", "unix:uid:2"),
		})
		subscription := w.Subscribe([]string{"unix:gid:5", "unix:path:/bin/orders", "unix:uid:1"})
		defer subscription.Close()
		w.settle()
		update := subscription.Current()
		if got := paths(update); !slices.Equal(got, []string{"/first", "/second", "/third"}) || update.Pending || update.Denied {
			w.t.Fatalf("granted %q, %+v", got, update)
		}
		if update.SVIDs[2].Hint != "internal" || update.SVIDs[2].EntryID != "ccc" || !update.Bundles.Has(w.trustDomain) {
			w.t.Errorf("granted %+v", update.SVIDs[2])
		}
	})
}

func TestAgeAndNotTheIDOfAnEntryMakesTheDefault(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		older, twin, newer := entry("z", "/older", "unix:uid:1"), entry("y", "/twin", "unix:uid:1"), entry("a", "/newer", "unix:uid:1")
		older.Created, twin.Created, newer.Created = time.Unix(1, 0), time.Unix(2, 0), time.Unix(2, 0)
		w.SetEntries([]registration.Entry{newer, twin, older})
		subscription := w.Subscribe([]string{"unix:uid:1"})
		defer subscription.Close()
		w.settle()
		if got := paths(subscription.Current()); !slices.Equal(got, []string{"/older", "/newer", "/twin"}) {
			w.t.Errorf("granted %q", got)
		}
	})
}

func TestWaitingWorkloadIsToldOfANewEntryWithoutTimePassing(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{entry("a", "/first", "unix:uid:1")})
		subscription, other := w.Subscribe([]string{"unix:uid:2"}), w.Subscribe([]string{"unix:uid:3"})
		defer subscription.Close()
		defer other.Close()
		changed, otherChanged := subscription.Changed(), other.Changed()
		if update := subscription.Current(); !update.Denied || update.Pending {
			w.t.Fatalf("without an entry: %+v", update)
		}
		other.Current()
		before := time.Now()
		hang := make(chan struct{})
		w.issuer.set(func() { w.issuer.hang = hang })
		w.SetEntries([]registration.Entry{entry("a", "/first", "unix:uid:1"), entry("bb", "/second", "unix:uid:2")})
		if !isClosed(changed) {
			w.t.Fatal("not told of the entry")
		}
		changed = subscription.Changed()
		if update := subscription.Current(); update.Denied || !update.Pending {
			w.t.Errorf("before the SVID is there: %+v", update)
		}
		close(hang)
		w.settle()
		if !isClosed(changed) || !slices.Equal(paths(subscription.Current()), []string{"/second"}) || time.Since(before) != 0 {
			w.t.Errorf("told %t, granted %q after %s", isClosed(changed), paths(subscription.Current()), time.Since(before))
		}
		if isClosed(otherChanged) {
			w.t.Error("a workload that the entry is not for was told")
		}
		changed = subscription.Changed()
		w.SetEntries([]registration.Entry{entry("a", "/first", "unix:uid:1")})
		if update := subscription.Current(); !isClosed(changed) || !update.Denied {
			w.t.Errorf("after the entry is gone: told %t, %+v", isClosed(changed), update)
		}
	})
}

func TestNodeThatWasNotToldItsEntriesDeniesNobody(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		subscription := w.Subscribe([]string{"unix:uid:1"})
		defer subscription.Close()
		changed := subscription.Changed()
		if update := subscription.Current(); update.Denied || !update.Pending {
			w.t.Errorf("before the first assignment: %+v", update)
		}
		w.SetEntries(nil)
		if update := subscription.Current(); !update.Denied || !isClosed(changed) {
			w.t.Errorf("after an empty assignment: %+v, told %t", update, isClosed(changed))
		}
	})
}

func TestIdentityOfTheProcessItselfIsNoWorkloads(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/postern"), entry("bb", "/role", "postern:role:proxy")})
		subscription := w.Subscribe([]string{registration.SelfSelector, "postern:role:proxy", "unix:uid:0"})
		defer subscription.Close()
		w.settle()
		if update := subscription.Current(); !update.Denied {
			w.t.Errorf("granted %q", paths(update))
		}
	})
}

func TestOwnIdentitiesAreHeldByNameAndByDefault(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		orders, unknown := w.Identity(id("/orders")), w.Identity(id("/unknown"))
		w.SetEntries([]registration.Entry{own("bb", "/orders"), own("a", "/first"), entry("ccc", "/unknown", "unix:uid:1")})
		w.settle()
		if got := w.want(orders); got.ID != id("/orders") {
			w.t.Errorf("holds %q", got.ID)
		}
		if got := w.want(w.Default()); got.ID != id("/first") {
			w.t.Errorf("default is %q, want the oldest", got.ID)
		}
		if unknown.Get() != nil {
			w.t.Error("a workload's identity is taken for the process's own")
		}
		if w.Identity(id("/orders")) != orders {
			w.t.Error("another holder for the same identity")
		}
		w.SetEntries([]registration.Entry{own("bb", "/orders")})
		if got := w.want(w.Default()); got.ID != id("/orders") {
			w.t.Errorf("default is %q after the oldest is gone", got.ID)
		}
	})
}

const template = "/exe/{unix.path}"

func TestTemplateMakesAnIdentityForEachWorkloadThatAsks(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{entry("a", template, "unix:uid:1")})
		w.settle()
		if n := w.issuer.requests(); n != 0 {
			w.t.Fatalf("%d SVIDs issued ahead of need", n)
		}
		orders := w.Subscribe([]string{"unix:uid:1", "unix:path:/bin/orders"})
		defer orders.Close()
		again := w.Subscribe([]string{"unix:uid:1", "unix:path:/bin/orders"})
		defer again.Close()
		pathless := w.Subscribe([]string{"unix:uid:1"})
		defer pathless.Close()
		orders.Current()
		w.settle()
		if got := paths(orders.Current()); !slices.Equal(got, []string{"/exe/bin/orders"}) {
			w.t.Errorf("granted %q", got)
		}
		if orders.Current().SVIDs[0].X509 != again.Current().SVIDs[0].X509 || w.issuer.requests() != 1 {
			w.t.Errorf("%d SVIDs for two connections of one program", w.issuer.requests())
		}
		if update := pathless.Current(); !update.Denied {
			w.t.Errorf("a workload without path was granted %q", paths(update))
		}
		w.sleep(33 * time.Minute)
		if n := w.issuer.requests(); n != 2 {
			w.t.Errorf("%d requests after half of life, want a renewal", n)
		}
	})
}

func TestIdentityOnDemandThatNobodyUsesIsKeptForItsLifeAndNotRenewed(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{entry("a", template, "unix:uid:1")})
		selectors := []string{"unix:uid:1", "unix:path:/bin/orders"}
		subscription := w.Subscribe(selectors)
		subscription.Current()
		w.settle()
		first := subscription.Current().SVIDs[0].X509
		subscription.Close()
		w.sleep(20 * time.Minute)
		subscription = w.Subscribe(selectors)
		if got := subscription.Current(); len(got.SVIDs) != 1 || got.SVIDs[0].X509 != first {
			w.t.Errorf("after 20 minutes idle: %+v, want the SVID from before", got)
		}
		subscription.Close()
		w.sleep(39 * time.Minute)
		if n := w.issuer.requests(); n != 1 {
			w.t.Errorf("%d requests, want no renewal while idle", n)
		}
		subscription = w.Subscribe(selectors)
		subscription.Current()
		w.settle()
		if n := w.issuer.requests(); n != 2 {
			w.t.Errorf("%d requests, want the overdue renewal when somebody asks", n)
		}
		subscription.Close()
		w.sleep(time.Hour)
		if len(w.slots) != 0 || testutil.ToFloat64(w.metrics.held) != 0 || w.onDemand != 0 || w.idle.Len() != 0 {
			w.t.Errorf("%d slots, %d on demand, %d idle after their life", len(w.slots), w.onDemand, w.idle.Len())
		}
	})
}

func TestIdentitiesOnDemandAreBounded(t *testing.T) {
	run(t, ManagerOptions{MaxOnDemand: 3}, func(w *world) {
		w.SetEntries([]registration.Entry{entry("a", template, "unix:uid:1")})
		subscribe := func(i int) *Subscription {
			s := w.Subscribe([]string{"unix:uid:1", fmt.Sprintf("unix:path:/bin/p%d", i)})
			s.Current()
			w.settle()
			return s
		}
		for i := range 10 { // come and go
			subscribe(i).Close()
		}
		if len(w.slots) != 3 {
			w.t.Errorf("%d identities held, want 3", len(w.slots))
		}
		var using []*Subscription
		for i := range 3 {
			using = append(using, subscribe(100+i))
		}
		over := subscribe(200)
		if update := over.Current(); len(update.SVIDs) != 0 || !update.Pending || update.Denied {
			w.t.Errorf("beyond the bound: %+v", update)
		}
		if n := testutil.ToFloat64(w.metrics.refused); n == 0 {
			w.t.Error("not counted")
		}
		using[0].Close()
		over.Current()
		w.settle()
		if got := paths(over.Current()); !slices.Equal(got, []string{"/exe/bin/p200"}) {
			w.t.Errorf("granted %q after a place became free", got)
		}
		over.Close()
		for _, s := range using {
			s.Close()
		}
	})
}

func TestEntriesBeyondTheBoundAreIssuedWhenSomebodyAsks(t *testing.T) {
	run(t, ManagerOptions{MaxHeld: 2}, func(w *world) {
		w.SetEntries([]registration.Entry{
			entry("a", "/1", "unix:uid:1"), entry("bb", "/2", "unix:uid:2"), entry("ccc", "/3", "unix:uid:3"), own("dddd", "/self"),
		})
		w.settle()
		if n := w.issuer.requests(); n != 3 {
			w.t.Errorf("%d issued ahead of need, want two and the process's own", n)
		}
		subscription := w.Subscribe([]string{"unix:uid:3"})
		defer subscription.Close()
		subscription.Current()
		w.settle()
		if got := paths(subscription.Current()); !slices.Equal(got, []string{"/3"}) {
			w.t.Errorf("granted %q", got)
		}
		// A place becomes free: the entry is held ahead of need from now on.
		w.SetEntries([]registration.Entry{entry("bb", "/2", "unix:uid:2"), entry("ccc", "/3", "unix:uid:3"), own("dddd", "/self")})
		if w.onDemand != 0 || !slices.Equal(paths(subscription.Current()), []string{"/3"}) {
			w.t.Errorf("%d on demand, granted %q", w.onDemand, paths(subscription.Current()))
		}
	})
}

func TestClosedSubscriptionLeavesNothingBehind(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{entry("a", "/first", "unix:uid:1")})
		subscription := w.Subscribe([]string{"unix:uid:1"})
		subscription.Current()
		subscription.Close()
		subscription.Close()
		for _, s := range w.slots {
			if len(s.subscribers) != 0 {
				w.t.Error("the slot still knows the subscriber")
			}
		}
		if len(w.subscribers) != 0 || !subscription.Current().Denied {
			w.t.Errorf("%d subscribers, %+v", len(w.subscribers), subscription.Current())
		}
	})
}
