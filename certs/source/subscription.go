package source

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/postern-proxy/postern/certs/registration"
)

// maxPerSubscriber bounds the SVIDs of one workload: with their bundles they have to fit in a gRPC message of 4 MiB, which is what
// clients take.
const maxPerSubscriber = 500

// Granted is an SVID that a workload is entitled to.
type Granted struct {
	*X509
	EntryID string
	// Hint is the operator's word for what the identity is for; it may be empty.
	Hint string
}

// Update is all that a workload is entitled to, at one moment.
type Update struct {
	// SVIDs stand in the order of their entries, oldest first: the first one is the default identity.
	SVIDs []Granted
	// Bundles has the bundle of every trust domain known to the node. It is shared and must not be changed.
	Bundles *x509bundle.Set
	// Denied says that no entry is for this workload.
	Denied bool
	// Pending says that more is to come: an entry is for this workload and its SVID is not there yet, or the node has not been told
	// its entries.
	Pending bool
}

// Subscription follows what a workload with certain selectors is entitled to. Its methods may be called concurrently. Close it after
// use.
type Subscription struct {
	manager   *Manager
	selectors []string
	held      map[string]bool

	// What follows is guarded by the manager's mu.
	changed chan struct{}
	slots   map[*slot]bool
	closed  bool
}

// Subscribe follows the entries that selectors match: those all of whose selectors are among them. Selectors of the postern process
// itself ("postern:…") are not taken from a workload.
func (m *Manager) Subscribe(selectors []string) *Subscription {
	s := &Subscription{
		manager: m,
		held:    make(map[string]bool, len(selectors)),
		changed: make(chan struct{}),
		slots:   make(map[*slot]bool),
	}
	for _, selector := range selectors {
		if !strings.HasPrefix(selector, "postern:") {
			s.held[selector] = true
		}
	}
	s.selectors = slices.Sorted(maps.Keys(s.held))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscribers[s] = struct{}{}
	return s
}

// Changed returns a channel that is closed when Current may have something else to say. To miss nothing, call it before Current.
func (s *Subscription) Changed() <-chan struct{} {
	s.manager.mu.Lock()
	defer s.manager.mu.Unlock()
	return s.changed
}

// Current returns what the workload is entitled to now. What it is entitled to and does not exist yet is asked for.
func (s *Subscription) Current() Update {
	m := s.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	update := Update{Bundles: m.bundleSet}
	if s.closed {
		update.Denied = true
		return update
	}
	slots, short := m.match(s, time.Now())
	for _, slot := range slots {
		switch {
		case slot.withdrawn: // as if the entry were not there
		case slot.x509 == nil:
			update.Pending = true
		default:
			update.SVIDs = append(update.SVIDs, Granted{X509: slot.x509, EntryID: slot.key.entryID, Hint: slot.from.entry.Hint})
		}
	}
	update.Pending = update.Pending || short || !m.synced
	update.Denied = len(update.SVIDs) == 0 && !update.Pending
	return update
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	m := s.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	s.closed = true
	delete(m.subscribers, s)
	for slot := range s.slots {
		m.detach(s, slot)
	}
}

// signal tells the subscriber to look again. The caller holds the manager's mu.
func (s *Subscription) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Subscription) matches(a *assigned) bool {
	for _, selector := range a.entry.Selectors {
		if !s.held[selector] {
			return false
		}
	}
	return true
}

// match finds the identities of a subscriber, makes those on demand, and has the subscriber follow them. short says that some of
// them could not be made.
func (m *Manager) match(s *Subscription, now time.Time) (slots []*slot, short bool) {
	for _, a := range m.matching(s) {
		key := slotKey{a.entry.ID, a.id}
		if a.template {
			id, err := registration.Expand(a.entry.SPIFFEID, s.selectors)
			if err != nil || !m.isOurs(id) {
				continue // the workload lacks what the template asks for
			}
			key.id = id
		}
		slot := m.slots[key]
		if slot == nil {
			slot = m.addOnDemand(key, a, now)
		}
		if slot == nil {
			short = true
			continue
		}
		m.attach(s, slot)
		slots = append(slots, slot)
	}
	for slot := range s.slots {
		if !slices.Contains(slots, slot) {
			m.detach(s, slot)
		}
	}
	return slots, short
}

// matching returns the entries for a subscriber, oldest first.
func (m *Manager) matching(s *Subscription) []*assigned {
	matched := m.index.Match(s.selectors)
	matched = matched[:min(len(matched), maxPerSubscriber)]
	found := make([]*assigned, len(matched))
	for i, entry := range matched {
		found[i] = m.byID[entry.ID]
	}
	return found
}

func (m *Manager) attach(s *Subscription, slot *slot) {
	if s.slots[slot] {
		return
	}
	s.slots[slot] = true
	slot.subscribers[s] = struct{}{}
	m.trackIdle(slot)
	m.schedule(slot)
	m.poke()
}

func (m *Manager) detach(s *Subscription, slot *slot) {
	delete(s.slots, slot)
	delete(slot.subscribers, s)
	m.trackIdle(slot)
	m.schedule(slot)
}

// tellSubscribers signals the subscribers that one of the changed entries is for, or all of them.
func (m *Manager) tellSubscribers(changed []*assigned, all bool) {
	all = all || len(changed) > tellEachLimit
	for s := range m.subscribers {
		if all || slices.ContainsFunc(changed, s.matches) {
			s.signal()
		}
	}
}
