// Package registry knows every live connection of the process, accepted and dialled, by what could end it.
//
// A connection is added when its handshake is done and removed when it closes. In between it is found by each subject that a
// revocation can name (serial number, key, SPIFFE ID, authority, of the peer and of our own credential), by its owner (a listener
// or a cluster) and by its id, always through an index: nothing scans. At the end of its credential a connection is drained and
// then closed by the clock.
//
// Ids are never used twice, so an id kept too long finds nothing instead of another connection. The close function of a connection
// is called at most once, without a lock held. The package closes nothing on its own account except expired connections; who is
// concerned by a revocation or a new policy is said by the caller.
//
// A handshake races with a revocation: it may have passed the old index and be added after Close looked. So the caller stores the
// new index first and closes second, and a connection matches the current index once more after Add.
package registry

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// Direction says who opened a connection.
type Direction uint8

// Directions.
const (
	Accepted Direction = iota
	Dialled
)

// String returns "downstream" for an accepted and "upstream" for a dialled connection: the word of metrics.
func (d Direction) String() string {
	if d == Dialled {
		return "upstream"
	}
	return "downstream"
}

// Conn says what a connection is found by and how it ends. It is not changed after Add.
type Conn struct {
	Direction Direction
	// Owner is the listener or cluster it belongs to, a comparable value that its package chooses; nil for none.
	Owner any
	// Subjects are those of the peer and of our own credential together; empty for a plain connection.
	Subjects []revocation.Subject
	// NotAfter is when the first certificate of either side ends; zero means never.
	NotAfter time.Time
	// Drain asks for the end at the next convenient moment; nil if there is none. At most one call, and never after Close.
	Drain func(observe.Reason)
	// Close ends the connection at once. At most one call. Neither function may block. Both may call Entry.Remove.
	Close func(observe.Reason)
}

// Options of a Registry; the zero value is good.
type Options struct {
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Closed is told of each connection that the registry closed; nil means nobody is. It must not block.
	Closed func(Direction, observe.Reason)
}

// Registry holds the live connections. Safe for concurrent use.
type Registry struct {
	options Options
	seed    maphash.Seed
	last    atomic.Uint64
	counts  [2]atomic.Int64
	shards  [shardCount]shard
	expiry  expiry
}

// shard holds the part of the index whose keys hash to it.
type shard struct {
	mu    sync.Mutex
	index map[any]map[*Entry]struct{} // guarded by mu
}

// New returns an empty Registry. Run must run for connections to end at their expiry.
func New(options Options) *Registry {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Closed == nil {
		options.Closed = func(Direction, observe.Reason) {}
	}
	r := &Registry{options: options, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].index = map[any]map[*Entry]struct{}{}
	}
	r.expiry.wake = make(chan struct{}, 1) // one pending wake-up says all there is to say
	return r
}

// everything is the key under which each connection of a direction is found.
type everything Direction

// number is the key of one connection's id.
type number uint64

// New returns an entry that nothing finds yet, so that its functions can refer to it; Entry.Add makes it known.
func (r *Registry) New(c Conn) *Entry {
	return &Entry{id: r.last.Add(1), registry: r, conn: c, slot: -1}
}

// Add registers a connection: New and Entry.Add.
func (r *Registry) Add(c Conn) *Entry {
	e := r.New(c)
	e.Add()
	return e
}

// Count returns how many connections of the direction are registered.
func (r *Registry) Count(d Direction) int { return int(r.counts[d].Load()) }

// CloseSubjects ends every connection that one of the subjects concerns and returns how many it ended.
func (r *Registry) CloseSubjects(subjects []revocation.Subject, reason observe.Reason) int {
	n := 0
	for _, s := range subjects {
		n += r.closeKey(s, reason)
	}
	return n
}

// CloseOwner ends every connection of the owner and returns how many it ended.
func (r *Registry) CloseOwner(owner any, reason observe.Reason) int {
	return r.closeKey(owner, reason)
}

// DrainOwner asks every connection of the owner to end and returns how many there are.
func (r *Registry) DrainOwner(owner any, reason observe.Reason) int {
	return r.each(owner, func(e *Entry) bool { e.Drain(reason); return true })
}

// CloseID ends one connection; false if it has ended already.
func (r *Registry) CloseID(id uint64, reason observe.Reason) bool {
	return r.closeKey(number(id), reason) == 1
}

// CloseAll ends every connection of the direction and returns how many it ended.
func (r *Registry) CloseAll(d Direction, reason observe.Reason) int {
	return r.closeKey(everything(d), reason)
}

// DrainAll asks every connection of the direction to end and returns how many there are.
func (r *Registry) DrainAll(d Direction, reason observe.Reason) int {
	return r.each(everything(d), func(e *Entry) bool { e.Drain(reason); return true })
}

// Run closes connections at their expiry until the context ends.
func (r *Registry) Run(ctx context.Context) error {
	for {
		wait := r.expire()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-r.expiry.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// expire drains and closes what is due and returns how long nothing will be, at most clockCheck: NotAfter is on the wall clock,
// which may jump while a timer runs on the monotonic one.
func (r *Registry) expire() time.Duration {
	now := r.options.Now()
	for {
		e, ended, wait := r.expiry.next(now)
		if e == nil {
			return min(wait, clockCheck)
		}
		if ended {
			e.Close(observe.CredentialExpired)
			continue
		}
		e.Drain(observe.CredentialExpired)
	}
}

func (r *Registry) closeKey(key any, reason observe.Reason) int {
	return r.each(key, func(e *Entry) bool { return e.Close(reason) })
}

// each calls f for every connection under the key, without a lock held, and counts the calls that returned true.
func (r *Registry) each(key any, f func(*Entry) bool) int {
	n := 0
	for _, e := range r.shard(key).list(key) {
		if f(e) {
			n++
		}
	}
	return n
}

func (r *Registry) shard(key any) *shard {
	return &r.shards[maphash.Comparable(r.seed, key)%shardCount]
}

func (s *shard) add(key any, e *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.index[key]
	if set == nil {
		set = make(map[*Entry]struct{}, 1)
		s.index[key] = set
	}
	set[e] = struct{}{}
}

func (s *shard) remove(key any, e *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.index[key], e)
	if len(s.index[key]) == 0 {
		delete(s.index, key)
	}
}

func (s *shard) list(key any) []*Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.index[key]
	entries := make([]*Entry, 0, len(set))
	for e := range set {
		entries = append(entries, e)
	}
	return entries
}

const (
	// shardCount keeps handshakes on many cores from meeting at one lock; a power of two so that the remainder is a mask.
	shardCount = 64
	// clockCheck is how late an expiry may be noticed after the wall clock jumped.
	clockCheck = time.Second
)
