package source

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/testkit"
)

var errOutage = errors.New("the authority does not answer")

func TestAWeekOfRenewalsHasAValidSVIDAtEveryMoment(t *testing.T) {
	const week = 7 * 24 * time.Hour
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		keys := make(map[string]bool)
		var generation uint64
		for range int(week / (5 * time.Minute)) {
			x := w.want(holder)
			if left := time.Until(x.NotAfter); left < 25*time.Minute {
				w.t.Fatalf("%s of an hour left at %s", left, time.Now())
			}
			if x.Generation < generation {
				w.t.Fatalf("generation went back from %d to %d", generation, x.Generation)
			}
			generation = x.Generation
			keys[string(x.Chain()[0].RawSubjectPublicKeyInfo)] = true
			w.sleep(5 * time.Minute)
		}
		// Every 27 to 33 minutes.
		if n := w.issuer.requests(); n < 305 || n > 374 {
			w.t.Errorf("%d SVIDs asked for in a week, want about 336", n)
		}
		if n := w.issuer.requests(); len(keys) < n-1 {
			w.t.Errorf("%d keys for %d SVIDs: a renewal must not use a key again", len(keys), n)
		}
		if n := testutil.ToFloat64(w.metrics.rotations); int(n) != w.issuer.requests()-1 {
			w.t.Errorf("%v rotations counted, want %d", n, w.issuer.requests()-1)
		}
	})
}

func TestRenewalsOfWhatWasIssuedTogetherAreSpread(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		var entries []registration.Entry
		for i := range 200 {
			entries = append(entries, entry(fmt.Sprintf("e%03d", i), fmt.Sprintf("/s/%d", i), "unix:uid:1"))
		}
		w.SetEntries(entries)
		w.sleep(40 * time.Minute)
		var after []time.Duration
		for _, call := range w.issuer.calls {
			if at := call.at.Sub(start); at > 0 {
				after = append(after, slices.Repeat([]time.Duration{at}, len(call.requests))...)
			}
		}
		slices.Sort(after)
		if len(after) != 200 || after[0] < 27*time.Minute || after[199] > 33*time.Minute {
			w.t.Fatalf("%d renewals between %s and %s, want 200 between 27m and 33m", len(after), after[0], after[len(after)-1])
		}
		if middle := after[150] - after[50]; middle < 2*time.Minute {
			w.t.Errorf("half of them within %s, want about 3m", middle)
		}
	})
}

func TestOutageIsServedThroughToTheTrueExpiryAndRecoveredFrom(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		x := w.want(holder)
		w.issuer.set(func() { w.issuer.fail = errOutage })
		w.sleep(time.Hour - time.Nanosecond)
		if got := holder.Get(); got != x {
			w.t.Fatalf("the SVID was given up before its end: %v", got)
		}
		failed := w.issuer.requests() - 1
		if failed < 25 || failed > 80 {
			w.t.Errorf("%d attempts in half an hour of outage, want about one a minute", failed)
		}
		changed := holder.Changed()
		w.sleep(time.Nanosecond)
		if holder.Get() != nil || !isClosed(changed) {
			w.t.Error("the SVID is handed out after its end, or nobody was told")
		}
		w.sleep(time.Hour)
		w.issuer.set(func() { w.issuer.fail = nil })
		w.sleep(unknownLifeBackoffCap)
		if x := w.want(holder); !time.Now().Before(x.NotAfter) {
			w.t.Errorf("SVID of the past: %s", x.NotAfter)
		}
		if n := testutil.ToFloat64(w.metrics.renewals.WithLabelValues(resultFailed)); n < 25 {
			w.t.Errorf("%v failures counted", n)
		}
	})
}

func TestReconnectionIsUsedWithinASecond(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.issuer.set(func() { w.issuer.fail = errOutage })
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		w.sleep(10 * time.Minute)
		w.issuer.set(func() { w.issuer.fail = nil })
		w.Reconnected()
		w.sleep(reconnectSpread)
		w.want(w.Identity(id("/orders")))
	})
}

func TestWaitBetweenAttemptsGrowsAndStaysBounded(t *testing.T) {
	for _, test := range []struct {
		name     string
		attempts int
		life     time.Duration
		longest  time.Duration
	}{
		{"first failure", 1, time.Hour, 100 * time.Millisecond},
		{"second", 2, time.Hour, 200 * time.Millisecond},
		{"tenth, of an hour's SVID", 10, time.Hour, 51200 * time.Millisecond},
		{"hundredth, of an hour's SVID", 100, time.Hour, time.Minute},
		{"hundredth, of a 20 s SVID", 100, 20 * time.Second, time.Second},
		{"hundredth, of a day's SVID", 100, 24 * time.Hour, time.Minute},
		{"hundredth, never issued", 100, 0, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(map[time.Duration]bool)
			for range 100 {
				wait := retryAfter(test.attempts, test.life)
				if wait < test.longest/2 || wait > test.longest {
					t.Fatalf("%s, want between %s and %s", wait, test.longest/2, test.longest)
				}
				seen[wait] = true
			}
			if len(seen) < 50 {
				t.Errorf("%d different waits of 100", len(seen))
			}
		})
	}
}

func TestRevokedSVIDIsReplacedAtOnceWithANewKey(t *testing.T) {
	for _, test := range []struct {
		name  string
		value func(x *X509) revocation.Revocation
	}{
		{"by serial", func(x *X509) revocation.Revocation {
			return revocation.Revocation{Kind: revocation.Serial, Value: x.Chain()[0].SerialNumber.Text(16)}
		}},
		{"by key", func(x *X509) revocation.Revocation {
			return revocation.Revocation{Kind: revocation.Key, Value: spkiHash(x)}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run(t, ManagerOptions{}, func(w *world) {
				w.SetEntries([]registration.Entry{own("a", "/orders"), own("bb", "/other")})
				holder, other := w.Identity(id("/orders")), w.Identity(id("/other"))
				w.settle()
				before, untouched := w.want(holder), w.want(other)
				r := test.value(before)
				r.ID, r.At = "r1", time.Now()
				w.issuer.set(func() { w.issuer.hang = make(chan struct{}) })
				w.SetRevocations(revocation.NewIndex([]revocation.Revocation{r}))
				if holder.Get() != nil {
					w.t.Error("the revoked SVID is still handed out")
				}
				close(w.issuer.hang)
				w.settle() // no time passes
				after := w.want(holder)
				if after.Chain()[0].SerialNumber.Cmp(before.Chain()[0].SerialNumber) == 0 || spkiHash(after) == spkiHash(before) {
					w.t.Error("the new SVID has the serial or the key of the revoked one")
				}
				if other.Get() != untouched {
					w.t.Error("an SVID that nobody revoked was replaced")
				}
			})
		})
	}
}

func TestRevokedIdentityIsDroppedAndNotAskedForUntilItIsLifted(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders"), entry("bb", "/orders", "unix:uid:1")})
		holder := w.Identity(id("/orders"))
		subscription := w.Subscribe([]string{"unix:uid:1"})
		defer subscription.Close()
		w.settle()
		w.want(holder)
		changed := subscription.Changed()
		subscription.Current()
		before := w.issuer.requests()
		w.SetRevocations(revocation.NewIndex([]revocation.Revocation{
			{ID: "r1", Kind: revocation.SPIFFEID, Value: id("/orders").String(), At: time.Now()},
		}))
		if update := subscription.Current(); holder.Get() != nil || !isClosed(changed) || !update.Denied {
			w.t.Errorf("after the revocation: %v, told %t, %+v", holder.Get(), isClosed(changed), update)
		}
		w.sleep(24 * time.Hour)
		if n := w.issuer.requests(); n != before {
			w.t.Errorf("a revoked identity was asked for %d times", n-before)
		}
		w.SetRevocations(nil)
		w.settle()
		w.want(holder)
		if update := subscription.Current(); len(update.SVIDs) != 1 {
			w.t.Errorf("after it was lifted: %+v", update)
		}
	})
}

func TestIdentityRevokedForATimeComesBackAfterIt(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.SetRevocations(revocation.NewIndex([]revocation.Revocation{
			{ID: "r1", Kind: revocation.SPIFFEID, Value: id("/orders").String(), At: time.Now(), Until: time.Now().Add(time.Hour)},
		}))
		w.sleep(time.Hour - time.Second)
		if holder.Get() != nil {
			w.t.Error("an SVID of a revoked identity")
		}
		w.sleep(2 * time.Minute)
		w.want(holder)
	})
}

func TestRemovedEntryIsDroppedAndItsResultOnTheWayIsNotUsed(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		w.want(holder)
		changed := holder.Changed()
		w.SetEntries(nil)
		if holder.Get() != nil || !isClosed(changed) {
			w.t.Error("the identity of a removed entry is handed out, or nobody was told")
		}
		w.issuer.set(func() { w.issuer.hang = make(chan struct{}) })
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		w.settle()
		w.SetEntries(nil)
		close(w.issuer.hang)
		w.settle()
		if holder.Get() != nil {
			w.t.Error("an SVID that came after its entry was removed is handed out")
		}
		if n := testutil.ToFloat64(w.metrics.held); n != 0 {
			w.t.Errorf("%v SVIDs held", n)
		}
	})
}

func TestSVIDsOfAFormerAuthorityAreRenewedSpreadOverTime(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		var entries []registration.Entry
		for i := range 100 {
			entries = append(entries, entry(fmt.Sprintf("e%03d", i), fmt.Sprintf("/s/%d", i), "unix:uid:1"))
		}
		w.SetEntries(entries)
		w.settle()
		former, next := w.issuer.ca, testkit.NewCA(w.t, "example.org")
		w.trust(former, next) // prepared: nothing to do
		w.sleep(time.Minute)
		if n := w.issuer.requests(); n != 100 {
			w.t.Fatalf("%d requests before the activation, want 100", n)
		}
		w.issuer.set(func() { w.issuer.ca = next; w.issuer.calls = nil })
		w.trust(next, former)
		w.sleep(10 * time.Second)
		if n := w.issuer.requests(); n < 15 || n > 60 {
			w.t.Errorf("%d of 100 renewed after 10 s, want about a third", n)
		}
		w.sleep(20 * time.Second)
		if n := w.issuer.requests(); n != 100 {
			w.t.Errorf("%d renewed after 30 s, want 100", n)
		}
		w.sleep(10 * time.Minute)
		if n := w.issuer.requests(); n != 100 {
			w.t.Errorf("%d renewals altogether, want one each", n)
		}
	})
}

func TestAnnouncedAuthorityThatDoesNotIssueYetStartsNoCircle(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		w.settle()
		w.trust(testkit.NewCA(w.t, "example.org"), w.issuer.ca)
		w.sleep(20 * time.Minute)
		if n := w.issuer.requests(); n != 2 {
			w.t.Errorf("%d requests, want the first and one early renewal", n)
		}
	})
}

func TestChangedBundleComesWithTheSameCertificateAsANewValue(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		before := w.want(holder)
		if before.Generation == 0 || before.Roots[before.ID.TrustDomain()] == nil {
			w.t.Fatalf("generation %d, roots %v", before.Generation, before.Roots)
		}
		w.trust(w.issuer.ca) // the same again
		if holder.Get() != before {
			w.t.Error("the same bundle made a new value")
		}
		changed := holder.Changed()
		w.trust(w.issuer.ca, testkit.NewCA(w.t, "example.org"))
		after := w.want(holder)
		if !isClosed(changed) || after.Generation <= before.Generation || !after.Certificate.Leaf.Equal(before.Certificate.Leaf) {
			w.t.Errorf("told %t, generation %d after %d", isClosed(changed), after.Generation, before.Generation)
		}
		bundle, _ := after.Bundles.Get(after.ID.TrustDomain())
		if n := len(bundle.X509Authorities()); n != 2 {
			w.t.Errorf("%d authorities beside the SVID, want 2", n)
		}
		if bundle, _ := before.Bundles.Get(before.ID.TrustDomain()); len(bundle.X509Authorities()) != 1 {
			w.t.Error("the earlier value was changed")
		}
		w.SetBundles(nil)
		if holder.Get() != nil {
			w.t.Error("an SVID without the bundle of its trust domain is handed out")
		}
	})
}

func TestWrongAnswerOfTheIssuerIsNotTaken(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		holder := w.Identity(id("/orders"))
		stranger := w.issuer.ca.Leaf(w.t, testkit.WithURIs(id("/orders").String()))
		authority := w.issuer.ca
		for i, corrupt := range []func(IssueRequest, *IssueResult){
			func(_ IssueRequest, r *IssueResult) { r.Chain[0] = stranger.Leaf },
			func(_ IssueRequest, r *IssueResult) { r.Chain = nil },
			func(_ IssueRequest, r *IssueResult) { r.Err = errOutage },
		} {
			w.issuer.set(func() { w.issuer.corrupt = corrupt })
			w.SetEntries([]registration.Entry{own(fmt.Sprintf("a%d", i), "/orders")})
			w.sleep(time.Minute)
			if x := holder.Get(); x != nil {
				w.t.Errorf("case %d: took %v", i, x.ID)
			}
		}
		w.issuer.set(func() { w.issuer.corrupt = nil })
		for i, option := range []testkit.LeafOption{
			testkit.WithURIs(id("/admin").String()),
			testkit.WithURIs(id("/orders").String(), id("/admin").String()),
			testkit.WithTTL(-time.Second),
			testkit.AsAuthority(),
			testkit.WithURIs(authority.TrustDomain.IDString()),
		} {
			w.issuer.set(func() { w.issuer.options = func(IssueRequest) testkit.LeafOption { return option } })
			w.SetEntries([]registration.Entry{own(fmt.Sprintf("b%d", i), "/orders")})
			w.sleep(time.Minute)
			if x := holder.Get(); x != nil {
				w.t.Errorf("leaf %d: took %v", i, x.ID)
			}
		}
		w.issuer.set(func() { w.issuer.options = nil })
		w.sleep(unknownLifeBackoffCap)
		w.want(holder)
	})
}

func TestRequestsTravelInBoundedBatches(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		hang := make(chan struct{})
		w.issuer.set(func() { w.issuer.hang = hang })
		entries := []registration.Entry{own("zzzzzz", "/self")} // the youngest
		for i := range 600 {
			entries = append(entries, entry(fmt.Sprintf("e%03d", i), fmt.Sprintf("/s/%d", i), "unix:uid:1"))
		}
		w.SetEntries(entries)
		w.settle()
		if n := w.issuer.busiest; n != maxActive {
			w.t.Errorf("%d calls at once, want %d", n, maxActive)
		}
		close(hang)
		w.settle()
		own := false
		for _, call := range w.issuer.calls {
			if len(call.requests) > maxBatch {
				w.t.Errorf("a batch of %d", len(call.requests))
			}
			for _, request := range call.requests[:1] {
				own = own || request.EntryID == "zzzzzz"
			}
		}
		if !own {
			w.t.Error("the process's own identity does not come first")
		}
		if w.issuer.busiest > maxActive || w.issuer.requests() != 601 || testutil.ToFloat64(w.metrics.held) != 601 {
			w.t.Errorf("%d calls at once, %d requests, %v held", w.issuer.busiest, w.issuer.requests(), testutil.ToFloat64(w.metrics.held))
		}
	})
}

func TestChangedLifeOrNamesOfAnEntryIsIssuedAnewWithoutAGap(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		e := own("a", "/orders")
		w.SetEntries([]registration.Entry{e})
		holder := w.Identity(id("/orders"))
		w.settle()
		before := w.want(holder)
		e.Owner, e.Revision = "team-a", 7
		w.SetEntries([]registration.Entry{e})
		w.settle()
		if holder.Get() != before {
			w.t.Error("a new owner made a new SVID")
		}
		e.DNSNames = []string{"orders.example.org"}
		w.issuer.set(func() { w.issuer.hang = make(chan struct{}) })
		w.SetEntries([]registration.Entry{e})
		w.settle()
		if holder.Get() != before {
			w.t.Error("the SVID at hand was dropped before the new one came")
		}
		close(w.issuer.hang)
		w.settle()
		if holder.Get() == before {
			w.t.Error("new names made no new SVID")
		}
	})
}

func TestWallClockThatIsSetForwardEndsLives(t *testing.T) {
	var shift atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
	run(t, ManagerOptions{Clock: clock}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		w.want(holder)
		w.issuer.set(func() { w.issuer.fail = errOutage })
		shift.Store(int64(2 * time.Hour))
		w.sleep(maxSleep)
		if holder.Get() != nil {
			w.t.Error("an SVID whose end has come by the wall clock is handed out")
		}
	})
}

func TestWallClockThatIsSetBackPutsNoRenewalOff(t *testing.T) {
	var shift atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
	run(t, ManagerOptions{Clock: clock}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders")})
		holder := w.Identity(id("/orders"))
		w.settle()
		before := w.want(holder)
		shift.Store(int64(-24 * time.Hour))
		w.sleep(33 * time.Minute)
		if w.want(holder) == before {
			w.t.Error("not renewed after half of its life")
		}
	})
}

func TestOwnSVIDsEndIsAMetricAndGoesWithTheIdentity(t *testing.T) {
	registry := prometheus.NewRegistry()
	run(t, ManagerOptions{Registerer: registry}, func(w *world) {
		w.SetEntries([]registration.Entry{own("a", "/orders"), entry("bb", "/workload", "unix:uid:1")})
		w.settle()
		end := w.want(w.Default()).NotAfter
		if got := testutil.ToFloat64(w.metrics.notAfter.WithLabelValues(id("/orders").String())); got != float64(end.Unix()) {
			w.t.Errorf("metric says %v, want %d", got, end.Unix())
		}
		if n := testutil.CollectAndCount(w.metrics.notAfter); n != 1 {
			w.t.Errorf("%d identities labelled, want the process's own only", n)
		}
		w.SetEntries(nil)
		if n := testutil.CollectAndCount(w.metrics.notAfter); n != 0 {
			w.t.Errorf("%d identities labelled after they are gone", n)
		}
		if _, err := NewManager(ManagerOptions{Issuer: w.issuer, TrustDomain: w.issuer.ca.TrustDomain, Logger: w.logger, Registerer: registry}); err != nil {
			w.t.Errorf("a second source in the process: %v", err)
		}
	})
}

func TestEntriesThatCannotBeHonouredAreLeftOut(t *testing.T) {
	run(t, ManagerOptions{}, func(w *world) {
		foreign := entry("dddd", "/x", "unix:uid:1")
		foreign.SPIFFEID = "spiffe://elsewhere.org/x"
		root := entry("eeeee", "", "unix:uid:1")
		malformed := entry("ffffff", "/../x", "unix:uid:1")
		w.SetEntries([]registration.Entry{entry("a", "/everybody"), foreign, root, malformed, entry("bb", "/good", "unix:uid:1")})
		subscription := w.Subscribe([]string{"unix:uid:1"})
		defer subscription.Close()
		subscription.Current()
		w.settle()
		if got := paths(subscription.Current()); !slices.Equal(got, []string{"/good"}) {
			w.t.Errorf("granted %q", got)
		}
	})
}

func TestNewX509RefusesWhatDoesNotBelongTogether(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	good, other := ca.Leaf(t), ca.Leaf(t, testkit.WithSerial(big.NewInt(7)))
	bundles := bundleSet(ca)
	for _, test := range []struct {
		name  string
		chain []*x509.Certificate
		key   any
	}{
		{"no certificate", nil, good.PrivateKey},
		{"another key", []*x509.Certificate{good.Leaf}, other.PrivateKey},
	} {
		t.Run(test.name, func(t *testing.T) {
			if x, err := NewX509(test.chain, asSigner(test.key), bundles, 1); err == nil {
				t.Errorf("accepted %v", x.ID)
			}
		})
	}
	if _, err := NewX509([]*x509.Certificate{good.Leaf}, asSigner(good.PrivateKey), bundleSet(testkit.NewCA(t, "elsewhere.org")), 1); err == nil {
		t.Error("accepted without the bundle of its trust domain")
	}
	x, err := NewX509([]*x509.Certificate{good.Leaf, ca.Signing}, asSigner(good.PrivateKey), bundles, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Certificate.Certificate) != 2 || x.Certificate.Leaf != good.Leaf || x.NotAfter != good.Leaf.NotAfter {
		t.Errorf("made %+v", x)
	}
}
