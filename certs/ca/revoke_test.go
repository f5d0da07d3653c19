package ca

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
)

func revoke(t testing.TB, a *Authority, kind revocation.Kind, value string) revocation.Revocation {
	t.Helper()
	r, err := a.Revoke(t.Context(), revocation.Revocation{Kind: kind, Value: value, Reason: "stolen"}, "uid:1000")
	if err != nil {
		t.Fatalf("Revoke: %v", err)
	}
	return r
}

func index(t testing.TB, a *Authority) *revocation.Index {
	t.Helper()
	all, err := a.Revocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return revocation.NewIndex(all)
}

func TestRevokedSerialEndsWithItsSVID(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	issued := issue(t, a, request(t, "/a"))
	r := revoke(t, a, revocation.Serial, issued.Serial)
	if !r.Until.Equal(issued.NotAfter) || r.ID == "" || r.By != "uid:1000" || r.At.IsZero() {
		t.Errorf("revocation is %+v, the SVID ends at %s", r, issued.NotAfter)
	}
	if err := verify(issued.Chain, a.Bundle(), time.Now(), index(t, a)); err == nil {
		t.Error("the SVID is still accepted")
	}
	item, err := p.store.Get(t.Context(), revocationPrefix+r.ID)
	if err != nil || item.Expires.Before(issued.NotAfter) {
		t.Errorf("record goes away at %s, %v", item.Expires, err)
	}
	if lines := p.eventLines(t, "revocation_added"); len(lines) != 1 || !strings.Contains(lines[0], `"actor":"uid:1000"`) {
		t.Errorf("events are %q", lines)
	}
	issue(t, a, request(t, "/a")) // a serial says nothing of the identity
}

func TestRevokedIdentityAndKeyGetNoNewSVID(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	byID, byKey := request(t, "/revoked"), request(t, "/a")
	issued := issue(t, a, byKey)
	revoke(t, a, revocation.SPIFFEID, byID.ID.String())
	revoke(t, a, revocation.Key, revocation.KeyString(issued.Chain[0]))
	check := func() {
		t.Helper()
		for _, req := range []Request{byID, byKey} {
			if _, err := a.IssueX509(t.Context(), req); !errors.Is(err, ErrRevoked) || !errors.Is(err, ErrRefused) {
				t.Errorf("%q: %v, want ErrRevoked", req.ID, err)
			}
		}
	}
	check()
	p.reopen(t)
	a = p.authority(t, nil)
	check()
	fresh := byKey
	fresh.PublicKey = request(t, "/a").PublicKey
	issue(t, a, fresh)
}

// A store that lets a test act between the check of an issuance and its record.
type hooked struct {
	store.Store
	before func(store.Txn)
}

func (h hooked) Commit(ctx context.Context, txn store.Txn) (store.Revision, error) {
	h.before(txn)
	return h.Store.Commit(ctx, txn)
}

func TestRevocationDuringIssuanceKeepsTheSVIDBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var a *Authority
	h := hooked{Store: p.store, before: func(txn store.Txn) {
		if strings.HasPrefix(txn.Then[0].Key, credentialPrefix) {
			revoke(t, a, revocation.SPIFFEID, "spiffe://example.org/a")
		}
	}}
	a = p.authority(t, func(o *Options) { o.Store = h })
	if issued, err := a.IssueX509(t.Context(), request(t, "/a")); !errors.Is(err, ErrRevoked) || issued != nil {
		t.Errorf("issued %v, %v", issued, err)
	}
}

func TestRevokeRefusesWhatItCannotRecord(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	root, signing := a.Authorities()[0], a.Authorities()[1]
	for _, test := range []struct {
		name  string
		kind  revocation.Kind
		value string
		want  error
	}{
		{"malformed", revocation.Serial, "xyz", ErrInvalidRequest},
		{"unknown kind", "issuer", "ab", ErrInvalidRequest},
		{"unknown serial", revocation.Serial, "abc", ErrNotFound},
		{"active signing authority", revocation.Authority, signing.ID, ErrActiveAuthority},
		{"active root", revocation.Authority, root.ID, ErrActiveAuthority},
		{"serial of the signing authority", revocation.Serial, revocation.SerialString(signing.Certificate.SerialNumber), ErrActiveAuthority},
		{"key of the root", revocation.Key, revocation.KeyString(root.Certificate), ErrActiveAuthority},
	} {
		_, err := a.Revoke(t.Context(), revocation.Revocation{Kind: test.kind, Value: test.value}, "uid:0")
		if !errors.Is(err, test.want) || !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if n := index(t, a).Len(); n != 0 {
		t.Errorf("%d revocations on record", n)
	}
	until := time.Now().Add(time.Hour)
	if _, err := a.Revoke(t.Context(), revocation.Revocation{Kind: revocation.Serial, Value: "abc", Until: until}, "uid:0"); err != nil {
		t.Errorf("a foreign serial with its end: %v", err)
	}
}

func TestRevocationThatIsNotDurableIsNotAnswered(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	broken := &faulty{Store: p.store}
	broken.left.Store(100)
	a := p.authority(t, func(o *Options) { o.Store = broken })
	broken.left.Store(0)
	r := revocation.Revocation{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/a"}
	if _, err := a.Revoke(t.Context(), r, "uid:0"); !errors.Is(err, errDied) {
		t.Errorf("Revoke: %v", err)
	}
	// An event that is lost does not take the revocation back: it is in force, and the caller knows that something is wrong.
	a = p.authority(t, func(o *Options) { o.Events = deaf{} })
	if _, err := a.Revoke(t.Context(), r, "uid:0"); !errors.Is(err, errDied) {
		t.Errorf("Revoke without audit log: %v", err)
	}
	if index(t, a).Len() != 1 {
		t.Error("the revocation is not in force")
	}
}

func TestRevokingTwiceIsOneRevocation(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	issued := issue(t, a, request(t, "/a"))
	for _, subject := range []revocation.Subject{{Kind: revocation.Serial, Value: issued.Serial}, {Kind: revocation.SPIFFEID, Value: "spiffe://example.org/a"}} {
		if first, second := revoke(t, a, subject.Kind, subject.Value), revoke(t, a, subject.Kind, subject.Value); first.ID != second.ID {
			t.Errorf("%s: %q and %q", subject.Kind, first.ID, second.ID)
		}
	}
}

func TestLiftedRevocationIsOver(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	r := revoke(t, a, revocation.SPIFFEID, "spiffe://example.org/a")
	if err := a.Lift(t.Context(), r.ID, "uid:1001"); err != nil {
		t.Fatal(err)
	}
	issue(t, a, request(t, "/a"))
	if err := a.Lift(t.Context(), r.ID, "uid:1001"); !errors.Is(err, ErrNotFound) {
		t.Errorf("lifted twice: %v", err)
	}
	if lines := p.eventLines(t, "revocation_lifted"); len(lines) != 1 || !strings.Contains(lines[0], `"actor":"uid:1001"`) {
		t.Errorf("events are %q", lines)
	}
	p.reopen(t)
	issue(t, p.authority(t, nil), request(t, "/a"))
}

func TestRevokedAuthorityLeavesTheBundle(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	oldRoot, oldSigning := a.Authorities()[0].ID, a.Authorities()[1].ID
	old := issue(t, a, request(t, "/a"))
	if err := a.Rotate(t.Context(), Root, "uid:0"); err != nil {
		t.Fatal(err)
	}
	sequence := a.Bundle().Sequence
	revoke(t, a, revocation.Authority, oldRoot)
	bundle := a.Bundle()
	if len(bundle.Authorities) != 1 || bundle.Sequence != sequence+1 {
		t.Errorf("bundle has %d roots and sequence %d after %d", len(bundle.Authorities), bundle.Sequence, sequence)
	}
	if slices.ContainsFunc(a.Authorities(), func(i Info) bool { return i.ID == oldRoot || i.ID == oldSigning }) {
		t.Error("the old authorities are still there")
	}
	for _, id := range []string{oldRoot, oldSigning} {
		if _, err := p.keys.Load(t.Context(), id); err == nil {
			t.Errorf("key of %q is still there", id)
		}
	}
	if err := verify(old.Chain, bundle, time.Now(), nil); err == nil {
		t.Error("what the old root vouched for is accepted")
	}
	if err := verify(issue(t, a, request(t, "/a")).Chain, bundle, time.Now(), index(t, a)); err != nil {
		t.Errorf("what the new root vouches for: %v", err)
	}
	p.reopen(t)
	if got := p.authority(t, nil).Bundle(); got.Sequence != bundle.Sequence || len(got.Authorities) != 1 {
		t.Errorf("after reopening, the bundle is %+v", got)
	}
}

func TestWatchBeginsWithAllRevocationsAndFollows(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	first := revoke(t, a, revocation.SPIFFEID, "spiffe://example.org/a")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	known := map[string]bool{}
	var second revocation.Revocation
	steps := 0
	for update, err := range a.WatchRevocations(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if update.Full {
			clear(known)
		}
		for _, r := range update.Set {
			known[r.ID] = true
		}
		for _, id := range update.Removed {
			delete(known, id)
		}
		switch steps++; steps {
		case 1:
			if !update.Full || !known[first.ID] {
				t.Fatalf("first update is %+v", update)
			}
			if second, err = a.Revoke(ctx, revocation.Revocation{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/b"}, "uid:0"); err != nil {
				t.Fatal(err)
			}
		case 2:
			if update.Full || !known[first.ID] || !known[second.ID] {
				t.Fatalf("second update is %+v", update)
			}
			if err := a.Lift(ctx, first.ID, "uid:0"); err != nil {
				t.Fatal(err)
			}
		case 3:
			if known[first.ID] || !known[second.ID] {
				t.Fatalf("third update is %+v", update)
			}
			stop()
		}
	}
	if steps != 3 {
		t.Errorf("%d updates", steps)
	}
}

// forgetful is a store whose first watch has lost what comes next.
type forgetful struct {
	store.Store
	watched bool
}

func (f *forgetful) Watch(ctx context.Context, prefix string, from store.Revision) iter.Seq2[store.Event, error] {
	if f.watched {
		return f.Store.Watch(ctx, prefix, from)
	}
	f.watched = true
	return func(yield func(store.Event, error) bool) { yield(store.Event{}, store.ErrCompacted) }
}

func TestWatchBeginsAnewWhenTheStoreHasForgotten(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	a := p.authority(t, func(o *Options) { o.Store = &forgetful{Store: p.store} })
	full := 0
	for update, err := range a.WatchRevocations(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !update.Full {
			t.Fatalf("update %+v", update)
		}
		if full++; full == 2 {
			break
		}
	}
}
