package source

import (
	"container/heap"
	"container/list"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// slotKey names an identity of an entry: an entry has one, a template as many as it has made.
type slotKey struct {
	entryID string
	id      spiffeid.ID
}

// slot is one identity of this node with its SVID, when it has one. The manager's mu guards all of it.
type slot struct {
	key      slotKey
	from     *assigned
	onDemand bool

	bare     *X509 // certificate and key, without bundles; nil when there is none
	x509     *X509 // what is handed out
	obtained time.Time
	expires  time.Time // bare's end, by the monotonic clock

	due      time.Time // when to ask the authority
	attempts int       // failed ones since the last success
	inFlight bool
	epoch    uint64 // a result asked for in an earlier epoch is not used
	pursued  string // the active authority for which an early renewal was set

	withdrawn      bool      // the identity is revoked
	withdrawnUntil time.Time // zero: for good

	subscribers map[*Subscription]struct{}
	idle        *list.Element // in the manager's idle list
	wakeAt      time.Time
	position    int // in the due queue; -1 when not in it
}

// add makes the slot of an identity and asks for its SVID.
func (m *Manager) add(key slotKey, from *assigned, now time.Time) *slot {
	s := &slot{key: key, from: from, due: now, position: -1, subscribers: make(map[*Subscription]struct{})}
	m.slots[key] = s
	m.setOnDemand(s, !from.held)
	m.judge(s, now)
	m.schedule(s)
	return s
}

// addOnDemand makes a slot because a workload asked, if need be in the place of the one that has been idle longest. It returns nil
// when all of them are in use.
func (m *Manager) addOnDemand(key slotKey, from *assigned, now time.Time) *slot {
	if m.onDemand >= m.maxOnDemand {
		longest := m.idle.Front()
		if longest == nil {
			m.metrics.refused.Inc()
			return nil
		}
		m.drop(longest.Value.(*slot))
	}
	s := m.add(key, from, now)
	m.poke()
	return s
}

func (m *Manager) setOnDemand(s *slot, onDemand bool) {
	if s.onDemand == onDemand {
		return
	}
	s.onDemand = onDemand
	if onDemand {
		m.onDemand++
	} else {
		m.onDemand--
	}
	m.trackIdle(s)
	m.schedule(s)
}

// trackIdle keeps the idle list: on-demand slots that nobody subscribes to.
func (m *Manager) trackIdle(s *slot) {
	isIdle := s.onDemand && len(s.subscribers) == 0
	switch {
	case isIdle && s.idle == nil:
		s.idle = m.idle.PushBack(s)
	case !isIdle && s.idle != nil:
		m.idle.Remove(s.idle)
		s.idle = nil
	}
}

// drop forgets an identity, its key and its SVID, and tells those who follow it.
func (m *Manager) drop(s *slot) {
	delete(m.slots, s.key)
	m.setBare(s, nil)
	m.publish(s)
	for subscriber := range s.subscribers {
		delete(subscriber.slots, s)
	}
	clear(s.subscribers)
	if s.idle != nil {
		m.idle.Remove(s.idle)
		s.idle = nil
	}
	if s.onDemand {
		m.onDemand--
	}
	if s.position >= 0 {
		heap.Remove(&m.due, s.position)
	}
}

func (m *Manager) setBare(s *slot, x *X509) {
	if s.bare == nil && x != nil {
		m.metrics.held.Inc()
	}
	if s.bare != nil && x == nil {
		m.metrics.held.Dec()
	}
	s.bare = x
}

// publish hands out what the slot has, beside the present bundles. Without a bundle of its own trust domain an SVID is of no use.
func (m *Manager) publish(s *slot) {
	before := s.x509
	s.x509 = nil
	if s.bare != nil && m.bundleSet.Has(m.trustDomain) {
		m.generation++
		s.x509 = s.bare.withBundles(m.bundleSet, m.roots, m.generation)
	}
	if s.x509 == nil && before == nil {
		return
	}
	for subscriber := range s.subscribers {
		subscriber.signal()
	}
}

// judge applies the revocations to one slot.
func (m *Manager) judge(s *slot, now time.Time) {
	was := s.withdrawn
	today := m.clock()
	r, revoked := m.revocations.Match(nil, s.key.id, today)
	s.withdrawn = revoked
	s.withdrawnUntil = time.Time{}
	if revoked && !r.Until.IsZero() {
		s.withdrawnUntil = now.Add(r.Until.Sub(today))
	}
	if !revoked && s.bare != nil {
		r, revoked = m.revocations.Match(s.bare.chain, s.key.id, today)
	}
	switch {
	case revoked && s.bare != nil:
		m.logRevoked(s, r)
		m.setBare(s, nil)
		m.publish(s)
		s.due = now
		s.attempts = 0
	case was && !s.withdrawn:
		s.due = now
		s.attempts = 0
	}
	if s.withdrawn != was {
		s.epoch++
		for subscriber := range s.subscribers {
			subscriber.signal()
		}
	}
	m.schedule(s)
}

func (m *Manager) logRevoked(s *slot, r revocation.Revocation) {
	m.logger.Warn("SVID is revoked",
		slog.String(observe.KeySPIFFEID, s.key.id.String()),
		slog.String(observe.KeyEntry, s.key.entryID),
		slog.String(observe.KeyType, string(r.Kind)))
}

// pursueActiveAuthority sets an early renewal when another authority than the active one issued the SVID: once for each active
// authority, so that a bundle that runs ahead of the issuance, or behind it, starts no circle.
func (m *Manager) pursueActiveAuthority(s *slot, now time.Time) {
	if s.bare == nil || m.activeSKI == "" || s.pursued == m.activeSKI {
		return
	}
	s.pursued = m.activeSKI
	if string(s.bare.chain[0].AuthorityKeyId) == m.activeSKI {
		return
	}
	if early := now.Add(spread(rotationSpread(s.expires.Sub(s.obtained)))); early.Before(s.due) {
		s.due = early
		m.schedule(s)
	}
}

// schedule puts the slot at its place in the due queue, or takes it out when nothing is to come.
func (m *Manager) schedule(s *slot) {
	if m.slots[s.key] != s {
		return
	}
	wakeAt := s.nextWake()
	switch {
	case wakeAt.IsZero() && s.position >= 0:
		heap.Remove(&m.due, s.position)
	case wakeAt.IsZero():
	case s.position >= 0:
		s.wakeAt = wakeAt
		heap.Fix(&m.due, s.position)
	default:
		s.wakeAt = wakeAt
		heap.Push(&m.due, s)
	}
}

// nextWake is when Run must look at the slot next: its renewal, unless nobody uses it, or its end.
func (s *slot) nextWake() time.Time {
	if s.withdrawn {
		return s.withdrawnUntil
	}
	var wakeAt time.Time
	if s.bare != nil {
		wakeAt = s.expires
	}
	dormant := s.idle != nil && s.bare != nil
	if !s.inFlight && !dormant && (wakeAt.IsZero() || s.due.Before(wakeAt)) {
		wakeAt = s.due
	}
	return wakeAt
}

// dueQueue is a heap of slots by wakeAt; at the same time the process's own come first, then the oldest entry.
type dueQueue []*slot

func (q dueQueue) Len() int { return len(q) }

func (q dueQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if !a.wakeAt.Equal(b.wakeAt) {
		return a.wakeAt.Before(b.wakeAt)
	}
	if a.from.self != b.from.self {
		return a.from.self
	}
	return a.from.entry.Created.Before(b.from.entry.Created)
}

func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

// Push implements heap.Interface.
func (q *dueQueue) Push(x any) {
	s := x.(*slot)
	s.position = len(*q)
	*q = append(*q, s)
}

// Pop implements heap.Interface.
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	s := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	s.position = -1
	return s
}
