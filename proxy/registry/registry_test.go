package registry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// fake is a connection that records what the registry did to it.
type fake struct {
	*Entry
	mu              sync.Mutex
	drained, closed []observe.Reason
}

func (f *fake) note(to *[]observe.Reason, why observe.Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*to = append(*to, why)
}

// seen returns how often the connection was drained and closed.
func (f *fake) seen() (drained, closed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.drained), len(f.closed)
}

func (r *Registry) fake(c Conn) *fake {
	f := &fake{}
	c.Drain = func(why observe.Reason) { f.note(&f.drained, why) }
	c.Close = func(why observe.Reason) { f.note(&f.closed, why) }
	f.Entry = r.Add(c)
	return f
}

func subject(kind revocation.Kind, value string) revocation.Subject {
	return revocation.Subject{Kind: kind, Value: value}
}

func TestRevocationClosesWhatItConcernsAndNothingElse(t *testing.T) {
	r := New(Options{})
	web := subject(revocation.SPIFFEID, "spiffe://example.org/web")
	authority := subject(revocation.Authority, "aa")
	in := r.fake(Conn{Subjects: []revocation.Subject{web, authority, subject(revocation.Serial, "1")}})
	out := r.fake(Conn{Direction: Dialled, Subjects: []revocation.Subject{web, authority, subject(revocation.Serial, "2")}})
	other := r.fake(Conn{Subjects: []revocation.Subject{subject(revocation.SPIFFEID, "spiffe://example.org/other"), authority}})

	if n := r.CloseSubjects([]revocation.Subject{subject(revocation.Serial, "1")}, observe.Revoked); n != 1 {
		t.Fatalf("closed %d by serial, want 1", n)
	}
	// Both subjects name what is left of web; it is closed, and counted, once.
	if n := r.CloseSubjects([]revocation.Subject{web, subject(revocation.Serial, "2")}, observe.Revoked); n != 1 {
		t.Fatalf("closed %d by id, want 1", n)
	}
	for name, f := range map[string]*fake{"accepted": in, "dialled": out} {
		if len(f.closed) != 1 || f.closed[0] != observe.Revoked || f.Reason() != observe.Revoked {
			t.Errorf("%s: closed %v, reason %v", name, f.closed, f.Reason())
		}
	}
	if len(other.closed) != 0 || r.Count(Accepted) != 1 || r.Count(Dialled) != 0 {
		t.Fatalf("other closed %v; counts %d, %d", other.closed, r.Count(Accepted), r.Count(Dialled))
	}
	if n := r.CloseSubjects([]revocation.Subject{authority}, observe.Revoked); n != 1 {
		t.Fatalf("closed %d by authority, want 1", n)
	}
}

func TestRemovedConnectionIsLeftAlone(t *testing.T) {
	r := New(Options{})
	owner := new(int)
	f := r.fake(Conn{Owner: owner})
	f.Remove()
	f.Remove()
	f.Drain(observe.Drained)
	if n := r.CloseOwner(owner, observe.Drained); n != 0 || f.Close(observe.Drained) || len(f.closed)+len(f.drained) != 0 {
		t.Fatalf("closed %d, %v", n, f.closed)
	}
	for i := range r.shards {
		if len(r.shards[i].index) != 0 {
			t.Fatal("the index keeps something of a removed connection")
		}
	}
}

func TestIDsAreNotUsedAgain(t *testing.T) {
	r := New(Options{})
	first := r.fake(Conn{})
	first.Remove()
	second := r.fake(Conn{})
	if r.CloseID(first.ID(), observe.Drained) || len(second.closed) != 0 {
		t.Fatal("an old id closed another connection")
	}
	if !r.CloseID(second.ID(), observe.Drained) || r.CloseID(second.ID(), observe.Drained) {
		t.Fatal("a live id must close its connection once")
	}
}

func TestOwnerIsDrainedOnceAndThenClosed(t *testing.T) {
	closed := map[observe.Reason]int{}
	r := New(Options{Closed: func(_ Direction, why observe.Reason) { closed[why]++ }})
	a, b := new(int), new(int)
	of, other := r.fake(Conn{Owner: a}), r.fake(Conn{Owner: b})
	r.DrainOwner(a, observe.Drained)
	r.DrainAll(Accepted, observe.Drained)
	if len(of.drained) != 1 || len(other.drained) != 1 || !of.Draining() {
		t.Fatalf("drained %v and %v", of.drained, other.drained)
	}
	if n := r.CloseAll(Accepted, observe.Drained); n != 2 || closed[observe.Drained] != 2 {
		t.Fatalf("closed %d, told of %v", n, closed)
	}
}

func TestConnectionIsDrainedBeforeAndClosedAtItsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		start := time.Now()
		late := r.fake(Conn{NotAfter: start.Add(time.Hour)})
		soon := r.fake(Conn{NotAfter: start.Add(20 * time.Second)})
		gone := r.fake(Conn{NotAfter: start.Add(10 * time.Second)})
		gone.Remove()
		for _, step := range []struct {
			at              time.Duration
			drained, closed int
		}{{17900 * time.Millisecond, 0, 0}, {18100 * time.Millisecond, 1, 0}, {19900 * time.Millisecond, 1, 0}, {20 * time.Second, 1, 1}} {
			time.Sleep(time.Until(start.Add(step.at)))
			synctest.Wait()
			if drained, closed := soon.seen(); drained != step.drained || closed != step.closed {
				t.Errorf("after %v: drained %v, closed %v", step.at, drained, closed)
			}
		}
		lateDrained, _ := late.seen()
		_, goneClosed := gone.seen()
		if soon.Reason() != observe.CredentialExpired || lateDrained+goneClosed != 0 {
			t.Errorf("reason %v, late drained %v, removed closed %v", soon.Reason(), lateDrained, goneClosed)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestExpiryFollowsAWallClockThatJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		r := New(Options{Now: func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		f := r.fake(Conn{NotAfter: time.Now().Add(24 * time.Hour)})
		synctest.Wait() // Run sleeps until what it takes for tomorrow
		jump.Store(int64(25 * time.Hour))
		time.Sleep(clockCheck + time.Millisecond)
		synctest.Wait()
		if _, closed := f.seen(); closed != 1 {
			t.Error("the clock passed the expiry and the connection lives")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrentUseClosesEachConnectionExactlyOnce(t *testing.T) {
	r := New(Options{})
	var closed atomic.Int64
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := range 200 {
				id := subject(revocation.SPIFFEID, fmt.Sprint(i%7))
				e := r.Add(Conn{Subjects: []revocation.Subject{id}, NotAfter: time.Now().Add(time.Hour),
					Close: func(observe.Reason) { closed.Add(1) }})
				switch (i + w) % 3 {
				case 0:
					r.CloseSubjects([]revocation.Subject{id}, observe.Revoked)
				case 1:
					e.Close(observe.Drained)
				}
			}
		})
	}
	workers.Wait()
	r.CloseAll(Accepted, observe.Drained)
	if closed.Load() != 8*200 || r.Count(Accepted) != 0 || len(r.expiry.queue) != 0 {
		t.Fatalf("closed %d, left %d, queued %d", closed.Load(), r.Count(Accepted), len(r.expiry.queue))
	}
}

func BenchmarkAddRemove(b *testing.B) {
	r := New(Options{})
	subjects := []revocation.Subject{subject(revocation.SPIFFEID, "spiffe://example.org/a"), subject(revocation.Serial, "1"), subject(revocation.Key, "2"), subject(revocation.Authority, "3")}
	for b.Loop() {
		r.Add(Conn{Subjects: subjects, NotAfter: time.Now().Add(time.Hour)}).Remove()
	}
}
