package source

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/internal/observe"
)

// tellEachLimit is up to how many changed entries the subscribers that they concern are looked for one by one; for more, every
// subscriber looks again by itself.
const tellEachLimit = 64

// assigned is an entry of this node, checked. It is immutable.
type assigned struct {
	entry    registration.Entry
	template bool
	id       spiffeid.ID // zero for a template
	self     bool
	held     bool // issued ahead of need
}

// admit checks entries and puts them in order, oldest first: the first one that a workload matches is its default identity.
func (m *Manager) admit(entries []registration.Entry) []*assigned {
	next := make([]*assigned, 0, len(entries))
	for _, entry := range entries {
		a, err := m.admitOne(entry)
		if err != nil {
			m.logger.Error("entry cannot be honoured", slog.String(observe.KeyEntry, entry.ID), slog.Any(observe.KeyError, err))
			continue
		}
		next = append(next, a)
	}
	slices.SortFunc(next, func(a, b *assigned) int {
		return cmp.Or(a.entry.Created.Compare(b.entry.Created), strings.Compare(a.entry.ID, b.entry.ID))
	})
	next = slices.CompactFunc(next, func(a, b *assigned) bool { return a.entry.ID == b.entry.ID })
	held := 0
	for _, a := range next {
		a.held = !a.template && (a.self || held < m.maxHeld)
		if a.held {
			held++
		}
	}
	return next
}

func (m *Manager) admitOne(entry registration.Entry) (*assigned, error) {
	// An entry without selectors would be everybody's.
	if entry.ID == "" || len(entry.Selectors) == 0 {
		return nil, errors.New("entry without id or selectors")
	}
	a := &assigned{
		entry:    entry,
		template: registration.IsTemplate(entry.SPIFFEID),
		self:     slices.Contains(entry.Selectors, registration.SelfSelector),
	}
	a.entry.Selectors = slices.Clone(entry.Selectors)
	if a.template {
		return a, nil
	}
	id, err := spiffeid.FromString(entry.SPIFFEID)
	if err != nil {
		return nil, fmt.Errorf("parse SPIFFE ID %q: %w", entry.SPIFFEID, err)
	}
	if !m.isOurs(id) {
		return nil, fmt.Errorf("SPIFFE ID %q is not a workload of trust domain %q", id.String(), m.trustDomain.Name())
	}
	a.id = id
	return a, nil
}

func (m *Manager) isOurs(id spiffeid.ID) bool { return id.MemberOf(m.trustDomain) && id.Path() != "" }

// reassign makes next the assignment and returns the entries, old and new versions, that differ. The caller holds mu.
func (m *Manager) reassign(next []*assigned, now time.Time) (changed []*assigned) {
	byID := make(map[string]*assigned, len(next))
	for _, a := range next {
		byID[a.entry.ID] = a
		before := m.byID[a.entry.ID]
		if before != nil && !sameEntry(before, a) {
			changed = append(changed, before)
		}
		if before == nil || !sameEntry(before, a) {
			changed = append(changed, a)
		}
	}
	for id, before := range m.byID {
		if byID[id] == nil {
			changed = append(changed, before)
		}
	}
	m.entries, m.byID, m.selves = next, byID, nil
	workloads := make([]registration.Entry, 0, len(next))
	for _, a := range next {
		switch {
		case !a.self:
			workloads = append(workloads, a.entry)
		case !a.template:
			m.selves = append(m.selves, a)
		}
	}
	m.index = registration.NewIndex(workloads)
	m.reassignSlots(now)
	return changed
}

// reassignSlots drops the slots that the assignment no longer has, updates the others, and adds those to be held ahead of need.
func (m *Manager) reassignSlots(now time.Time) {
	for _, s := range m.slots {
		a := m.byID[s.key.entryID]
		if a == nil || (a.template && !registration.Matches(a.entry.SPIFFEID, s.key.id)) || (!a.template && a.id != s.key.id) {
			m.drop(s)
			continue
		}
		m.reassignSlot(s, a, now)
	}
	for _, a := range m.entries {
		if !a.held {
			continue
		}
		if key := (slotKey{a.entry.ID, a.id}); m.slots[key] == nil {
			m.add(key, a, now)
		}
	}
}

// reassignSlot gives a slot the new version of its entry. An SVID whose life or names would differ is replaced at once; until then
// the one at hand serves.
func (m *Manager) reassignSlot(s *slot, a *assigned, now time.Time) {
	before := s.from
	s.from = a
	if before == a {
		return
	}
	m.setOnDemand(s, !a.held)
	if before.entry.TTL != a.entry.TTL || !slices.Equal(before.entry.DNSNames, a.entry.DNSNames) {
		s.epoch++
		s.due = now
		m.schedule(s)
	}
}

func sameEntry(a, b *assigned) bool {
	x, y := a.entry, b.entry
	return a.held == b.held && x.SPIFFEID == y.SPIFFEID && x.TTL == y.TTL && x.Hint == y.Hint && x.Created.Equal(y.Created) &&
		slices.Equal(x.Selectors, y.Selectors) && slices.Equal(x.DNSNames, y.DNSNames)
}
