package ca

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-proxy/postern/internal/audit"
)

// stages describes the authorities in a word each, in their order.
func stages(a *Authority) string {
	var words []string
	for _, info := range a.Authorities() {
		words = append(words, string(info.Use)+":"+string(info.Stage))
	}
	return strings.Join(words, " ")
}

func wantStages(t *testing.T, a *Authority, want string) {
	t.Helper()
	if got := stages(a); got != want {
		t.Errorf("authorities are\n%s, want\n%s", got, want)
	}
}

func step(t *testing.T, a *Authority) time.Time {
	t.Helper()
	next, err := a.advance(t.Context())
	if err != nil {
		t.Fatalf("advance: %v", err)
	}
	return next
}

func TestSigningAuthorityIsPreparedAtHalfAndReplacedAtFiveSixths(t *testing.T) {
	t.Parallel()
	clock := newClock()
	p := newPlace(t)
	a := p.authority(t, func(o *Options) { o.Clock = clock.now })
	first := a.Authorities()[1]
	old := issue(t, a, request(t, "/a"))

	next := step(t, a)
	if until := next.Sub(clock.now()).Round(2 * time.Minute); until != 12*time.Hour {
		t.Errorf("next step is in %s", until)
	}
	clock.advance(12 * time.Hour)
	step(t, a)
	wantStages(t, a, "root:active signing:active signing:prepared")
	if issued := issue(t, a, request(t, "/a")); issued.Authority != first.ID {
		t.Error("a prepared authority signs")
	}
	clock.advance(8 * time.Hour)
	step(t, a)
	wantStages(t, a, "root:active signing:replaced signing:active")
	second := a.Authorities()[2]
	if issued := issue(t, a, request(t, "/a")); issued.Authority != second.ID {
		t.Error("the replaced authority still signs")
	}
	if !bytes.Equal(a.Bundle().ActiveAuthority, second.Certificate.SubjectKeyId) || a.Bundle().Sequence != 1 {
		t.Error("bundle does not name the new signing authority, or has changed")
	}
	if _, err := p.keys.Load(t.Context(), first.ID); err == nil {
		t.Error("the replaced authority's key is kept")
	}
	if err := verify(old.Chain, a.Bundle(), old.NotAfter, nil); err != nil {
		t.Errorf("what it signed before: %v", err)
	}
	clock.advance(4*time.Hour + margin + time.Second)
	step(t, a)
	wantStages(t, a, "root:active signing:active signing:prepared")
}

func TestRotatedSigningAuthoritySignsAtOnce(t *testing.T) {
	t.Parallel()
	a, p := newAuthority(t)
	before, changed := a.Authorities()[1].ID, a.Changed()
	old := issue(t, a, request(t, "/a"))
	if err := a.Rotate(t.Context(), Signing, "uid:1000"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	wantStages(t, a, "root:active signing:replaced signing:active")
	fresh := issue(t, a, request(t, "/a"))
	if fresh.Authority == before {
		t.Error("the old authority signs")
	}
	for _, issued := range []*Issued{old, fresh} {
		if err := verify(issued.Chain, a.Bundle(), time.Now(), nil); err != nil {
			t.Error(err)
		}
	}
	if lines := p.eventLines(t, "authority_activated"); len(lines) != 3 || !strings.Contains(lines[2], "uid:1000") {
		t.Errorf("events are %q", lines)
	}
	if err := a.Rotate(t.Context(), "leaf", "uid:0"); !errors.Is(err, ErrRefused) {
		t.Errorf("a use that is none: %v", err)
	}
}

func TestSigningAuthorityStaysWithinItsRoot(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a := newPlace(t).authority(t, func(o *Options) { o.Clock, o.SigningTTL, o.RootTTL = clock.now, 12*time.Hour, 24*time.Hour })
	root := a.Authorities()[0].Certificate
	for _, jump := range []time.Duration{-30 * time.Second, 20 * time.Hour} {
		clock.advance(jump)
		if err := a.Rotate(t.Context(), Signing, "uid:0"); err != nil {
			t.Fatal(err)
		}
		signing := a.current.Load().signing.cert
		if signing.NotBefore.Before(root.NotBefore) || signing.NotAfter.After(root.NotAfter) {
			t.Errorf("signing authority lives from %s to %s, its root from %s to %s", signing.NotBefore, signing.NotAfter, root.NotBefore, root.NotAfter)
		}
	}
}

func TestRotatingWithoutEndIsRefused(t *testing.T) {
	t.Parallel()
	a, _ := newAuthority(t)
	for range maxAuthorities - 2 {
		if err := a.Rotate(t.Context(), Signing, "uid:0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Rotate(t.Context(), Signing, "uid:0"); !errors.Is(err, ErrTooMany) || !errors.Is(err, ErrRefused) {
		t.Errorf("Rotate: %v, want ErrTooMany", err)
	}
	issue(t, a, request(t, "/a"))
}

func TestNewRootTakesOverOnlyWhenTheNodesKnowIt(t *testing.T) {
	t.Parallel()
	asked, acknowledge := make(chan uint64), make(chan struct{})
	a := newPlace(t).authority(t, func(o *Options) {
		o.Propagated = func(ctx context.Context, sequence uint64) error {
			asked <- sequence
			select {
			case <-acknowledge:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	old := a.Bundle()
	done := make(chan error)
	go func() { done <- a.Rotate(t.Context(), Root, "uid:0") }()
	if sequence := <-asked; sequence != old.Sequence+1 {
		t.Errorf("asked for sequence %d, the bundle was %d", sequence, old.Sequence)
	}
	wantStages(t, a, "root:active signing:active root:prepared")
	if n := len(a.Bundle().Authorities); n != 2 {
		t.Errorf("bundle has %d roots while the nodes learn the new one", n)
	}
	if err := verify(issue(t, a, request(t, "/a")).Chain, old, time.Now(), nil); err != nil {
		t.Errorf("a node with the old bundle: %v", err)
	}
	// The wait keeps nobody from revoking.
	revoke(t, a, "spiffe_id", "spiffe://example.org/b")
	close(acknowledge)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantStages(t, a, "root:replaced signing:replaced root:active signing:active")
	fresh := issue(t, a, request(t, "/a"))
	if err := verify(fresh.Chain, a.Bundle(), time.Now(), nil); err != nil {
		t.Error(err)
	}
	if err := verify(fresh.Chain, old, time.Now(), nil); err == nil {
		t.Error("the new authority is still beneath the old root")
	}
}

func TestOldRootStaysUntilItsLastLeafHasEnded(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a := newPlace(t).authority(t, func(o *Options) {
		o.Clock, o.MaxTTL, o.NodeTTL = clock.now, 2*time.Hour, 2*time.Hour
	})
	req := request(t, "/a")
	req.TTL = 2 * time.Hour
	last := issue(t, a, req)
	if err := a.Rotate(t.Context(), Root, "uid:0"); err != nil {
		t.Fatal(err)
	}
	sequence := a.Bundle().Sequence
	clock.advance(last.NotAfter.Sub(clock.now()))
	step(t, a)
	if err := verify(last.Chain, a.Bundle(), clock.now(), nil); err != nil {
		t.Errorf("last leaf, in its last moment: %v", err)
	}
	clock.advance(margin + 2*time.Second)
	step(t, a)
	wantStages(t, a, "root:active signing:active")
	if got := a.Bundle(); len(got.Authorities) != 1 || got.Sequence != sequence+1 {
		t.Errorf("bundle is %+v", got)
	}
}

func TestNodesThatDoNotAnswerDelayARootNoLongerThanTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, early := range []bool{true, false} {
			p := newPlace(t)
			a := p.authority(t, func(o *Options) {
				o.Propagated = func(ctx context.Context, _ uint64) error {
					if early {
						return errors.New("no node answers")
					}
					<-ctx.Done()
					return ctx.Err()
				}
			})
			start := time.Now()
			if err := a.Rotate(t.Context(), Root, "uid:0"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != DefaultPropagationDeadline {
				t.Errorf("rotation took %s", took)
			}
			if n := len(p.eventLines(t, audit.AuthorityUnpropagated)); n != 1 {
				t.Errorf("%d warnings", n)
			}
			p.close(t)
		}
	})
}

func TestRotationThatTheCallerGaveUpIsCompletedByRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		answering := false
		a := p.authority(t, func(o *Options) {
			o.Propagated = func(ctx context.Context, _ uint64) error {
				if answering {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
		})
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := a.Rotate(short, Root, "uid:1000"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Rotate: %v", err)
		}
		wantStages(t, a, "root:active signing:active root:prepared")
		answering = true
		running(t, a, func() { time.Sleep(time.Second) })
		wantStages(t, a, "root:replaced signing:replaced root:active signing:active")
		if lines := p.eventLines(t, "authority_activated"); !strings.Contains(lines[2], "uid:1000") {
			t.Errorf("who asked for it is forgotten: %q", lines)
		}
		p.close(t)
	})
}

// running runs the authority while f runs.
func running(t *testing.T, a *Authority, f func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	f()
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Every commit of a rotation is made to fail in turn, before and after it took effect; the reopened authority must sign, be trusted by
// whoever has the bundle, and complete what was asked.
func TestRotationSurvivesACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, use := range []Use{Signing, Root} {
		for _, lost := range []bool{false, true} {
			for commits := range int64(3) {
				clock := newClock()
				p := newPlace(t)
				broken := &faulty{Store: p.store, lost: lost}
				broken.left.Store(100)
				a := p.authority(t, func(o *Options) { o.Store, o.Clock = broken, clock.now })
				old := issue(t, a, request(t, "/old"))
				broken.left.Store(commits)
				err := a.Rotate(t.Context(), use, "uid:0")

				p.reopen(t)
				clock.advance(time.Second)
				a = p.authority(t, func(o *Options) { o.Clock = clock.now })
				clock.advance(DefaultPropagationDeadline)
				step(t, a)
				bundle := a.Bundle()
				for _, issued := range []*Issued{old, issue(t, a, request(t, "/new"))} {
					if err := verify(issued.Chain, bundle, clock.now(), nil); err != nil {
						t.Errorf("%s, %d commits, lost %v: %v", use, commits, lost, err)
					}
				}
				rotated := slices.ContainsFunc(a.Authorities(), func(i Info) bool { return i.Use == use && i.Stage == Replaced })
				// What was durable before the crash is completed; what was not has never been.
				if want := err == nil || lost || commits > 0; rotated != want {
					t.Errorf("%s, %d commits, lost %v: rotated is %v (%v): %s", use, commits, lost, rotated, err, stages(a))
				}
				if roots := len(bundle.Authorities); use == Signing && roots != 1 || roots > 2 {
					t.Errorf("%s, %d commits, lost %v: %d roots", use, commits, lost, roots)
				}
			}
		}
	}
}

func TestSigningAuthorityThatEndedMeanwhileIsReplacedOnOpen(t *testing.T) {
	t.Parallel()
	clock := newClock()
	_, p := newAuthority(t)
	clock.advance(48 * time.Hour)
	a := p.authority(t, func(o *Options) { o.Clock = clock.now })
	issued := issue(t, a, request(t, "/a"))
	if err := verify(issued.Chain, a.Bundle(), clock.now(), nil); err != nil {
		t.Error(err)
	}
	if a.Bundle().Sequence != 1 {
		t.Error("the bundle changed")
	}
}

func TestRootThatEndedIsLeftToTheOperator(t *testing.T) {
	t.Parallel()
	clock := newClock()
	_, p := newAuthority(t)
	clock.advance(11 * 365 * 24 * time.Hour) // or a clock that is wrong
	a := p.authority(t, func(o *Options) { o.Clock = clock.now })
	step(t, a)
	wantStages(t, a, "root:active signing:active")
	if _, err := a.IssueX509(t.Context(), request(t, "/a")); !errors.Is(err, ErrExpired) {
		t.Errorf("IssueX509: %v, want ErrExpired", err)
	}
	if err := a.Rotate(t.Context(), Root, "uid:0"); err != nil {
		t.Fatal(err)
	}
	if err := verify(issue(t, a, request(t, "/a")).Chain, a.Bundle(), clock.now(), nil); err != nil {
		t.Error(err)
	}
}

// peer is a node as the others see it: a chain that it presents and a bundle with which it judges theirs.
type peer struct {
	mu     sync.Mutex
	name   string
	lag    time.Duration // how late it hears of a bundle
	eager  bool          // renews at once when another authority issues
	issued *Issued
	bundle Bundle
}

func (p *peer) acknowledged() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bundle.Sequence
}

// follow keeps the peer's bundle and SVID as a node does, and calls check after each change.
func (p *peer) follow(ctx context.Context, t *testing.T, a *Authority, check func(*peer)) {
	for ctx.Err() == nil {
		changed, bundle := a.Changed(), a.Bundle()
		if p.acknowledged() != 0 {
			time.Sleep(p.lag)
		}
		p.mu.Lock()
		p.bundle = bundle
		issued := p.issued
		p.mu.Unlock()
		check(p)
		half := func() time.Time { return issued.NotBefore.Add(issued.NotAfter.Sub(issued.NotBefore) / 2) }
		other := issued != nil && !bytes.Equal(issued.Chain[1].SubjectKeyId, bundle.ActiveAuthority)
		if issued == nil || !time.Now().Before(half()) || p.eager && other {
			var err error
			if issued, err = a.IssueX509(ctx, request(t, "/"+p.name)); err != nil {
				if ctx.Err() == nil {
					t.Errorf("issue: %v", err)
				}
				return
			}
			p.mu.Lock()
			p.issued = issued
			p.mu.Unlock()
			check(p)
		}
		timer := time.NewTimer(time.Until(half()))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// A week with two signing authorities or more a day and a root every 40 hours: at every change, each node must accept every other, also while
// one has heard of the new bundle and another has not.
func TestAWeekOfRotationsNeverSeparatesTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		peers := []*peer{
			{name: "prompt", eager: true},
			{name: "lagging", eager: true, lag: 20 * time.Second},
			{name: "lazy", lag: 10 * time.Second},
		}
		a := p.authority(t, func(o *Options) {
			o.SigningTTL, o.RootTTL, o.DefaultTTL, o.MaxTTL, o.NodeTTL = 12*time.Hour, 48*time.Hour, 4*time.Hour, 4*time.Hour, 4*time.Hour
			o.Propagated = func(ctx context.Context, sequence uint64) error {
				for slices.ContainsFunc(peers, func(p *peer) bool { return p.acknowledged() < sequence }) {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(time.Second):
					}
				}
				return nil
			}
		})
		checks := 0
		var mu sync.Mutex
		check := func(changed *peer) {
			mu.Lock()
			defer mu.Unlock()
			checks++
			for _, other := range peers {
				if other != changed {
					changed.wantTrust(t, other)
					other.wantTrust(t, changed)
				}
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = a.Run(ctx) })
		for _, peer := range peers {
			group.Go(func() { peer.follow(ctx, t, a, check) })
		}
		time.Sleep(7 * 24 * time.Hour)
		stop()
		group.Wait()

		if n := a.Bundle().Sequence; n < 7 { // a root joins and another leaves every 40 hours
			t.Errorf("bundle has sequence %d: roots did not rotate", n)
		}
		if n := len(p.eventLines(t, audit.AuthorityUnpropagated)); n != 0 {
			t.Errorf("%d roots took over unacknowledged", n)
		}
		if n := len(a.Authorities()); n > 6 {
			t.Errorf("%d authorities are left: nothing is taken out: %s", n, stages(a))
		}
		t.Logf("%d checks, bundle sequence %d, %d SVIDs", checks, a.Bundle().Sequence, len(p.eventLines(t, "svid_issued")))
		p.close(t)
	})
}

// wantTrust reports when a peer does not accept another.
func (p *peer) wantTrust(t *testing.T, other *peer) {
	t.Helper()
	p.mu.Lock()
	bundle := p.bundle
	p.mu.Unlock()
	other.mu.Lock()
	issued := other.issued
	other.mu.Unlock()
	if issued == nil || bundle.Sequence == 0 { // still starting
		return
	}
	if err := verify(issued.Chain, bundle, time.Now(), nil); err != nil {
		t.Errorf("%s: %s refuses %s: %v", time.Now().Format(time.DateTime), p.name, other.name, err)
	}
}
