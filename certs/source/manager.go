package source

import (
	"bytes"
	"container/list"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
)

// Bounds of what a Manager holds. 10,000 SVIDs with their keys are about 40 MB.
const (
	defaultMaxHeld     = 10_000
	defaultMaxOnDemand = 10_000
)

// ManagerOptions are what a Manager needs. Issuer, TrustDomain and Logger are required.
type ManagerOptions struct {
	Issuer      Issuer
	TrustDomain spiffeid.TrustDomain
	Logger      *slog.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
	// Clock is the wall clock, which dates are compared with; nil means time.Now. Waiting goes by the monotonic clock, whatever Clock
	// says.
	Clock func() time.Time
	// MaxHeld is how many entries have their SVID issued ahead of need, the oldest ones; the others get theirs when a workload asks.
	// 0 means 10,000.
	MaxHeld int
	// MaxOnDemand is how many identities made on demand (templates, and entries beyond MaxHeld) are held. 0 means 10,000.
	MaxOnDemand int
}

// BundleState is what the authority says of one trust domain.
type BundleState struct {
	Authorities []*x509.Certificate
	// ActiveAuthority is the subject key id of the authority that issues now; empty when it is not known. SVIDs that another one
	// issued are renewed early, spread over time.
	ActiveAuthority []byte
	Sequence        uint64
}

// Manager holds the SVIDs of one node: its own and those of its workloads. It is told the node's entries, the bundles and the
// revocations, in any order and at any time, each call with the full state; Run obtains and renews. All methods may be called
// concurrently.
type Manager struct {
	issuer      Issuer
	trustDomain spiffeid.TrustDomain
	logger      *slog.Logger
	clock       func() time.Time // for dates only
	metrics     *metrics
	maxHeld     int
	maxOnDemand int
	wake        chan struct{} // tells Run that something may be due

	mu          sync.Mutex
	synced      bool // SetEntries was called
	entries     []*assigned
	selves      []*assigned // those of this process
	byID        map[string]*assigned
	index       *registration.Index // entries of workloads
	slots       map[slotKey]*slot
	due         dueQueue
	onDemand    int
	idle        *list.List // on-demand slots without subscriber, the longest idle first
	active      int        // batches on their way to the authority
	bundleSet   *x509bundle.Set
	roots       map[spiffeid.TrustDomain]*x509.CertPool
	activeSKI   string
	revocations *revocation.Index
	generation  uint64
	identities  map[spiffeid.ID]*Holder
	fallback    Holder // what Default returns
	own         map[spiffeid.ID]bool
	subscribers map[*Subscription]struct{}
	failures    failureLog
	looked      wallClock
}

// NewManager returns a manager that knows nothing yet. It issues nothing before Run.
func NewManager(options ManagerOptions) (*Manager, error) {
	switch {
	case options.Issuer == nil:
		return nil, errors.New("source manager without issuer")
	case options.TrustDomain.IsZero():
		return nil, errors.New("source manager without trust domain")
	case options.Logger == nil:
		return nil, errors.New("source manager without logger")
	}
	metrics, err := newMetrics(options.Registerer)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		issuer:      options.Issuer,
		trustDomain: options.TrustDomain,
		logger:      options.Logger,
		clock:       options.Clock,
		metrics:     metrics,
		maxHeld:     options.MaxHeld,
		maxOnDemand: options.MaxOnDemand,
		wake:        make(chan struct{}, 1),
		byID:        make(map[string]*assigned),
		slots:       make(map[slotKey]*slot),
		idle:        list.New(),
		bundleSet:   x509bundle.NewSet(),
		identities:  make(map[spiffeid.ID]*Holder),
		own:         make(map[spiffeid.ID]bool),
		subscribers: make(map[*Subscription]struct{}),
	}
	if m.clock == nil {
		m.clock = time.Now
	}
	if m.maxHeld <= 0 {
		m.maxHeld = defaultMaxHeld
	}
	if m.maxOnDemand <= 0 {
		m.maxOnDemand = defaultMaxOnDemand
	}
	return m, nil
}

// SetEntries replaces the node's assignment. Identities that are no longer in it are dropped at once; new ones are asked for at
// once. An entry that cannot be honoured (no selectors, a foreign trust domain, no SPIFFE ID) is logged and left out.
func (m *Manager) SetEntries(entries []registration.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	first := !m.synced
	m.synced = true
	next := m.admit(entries)
	changed := m.reassign(next, now)
	m.refreshOwn()
	m.tellSubscribers(changed, first)
	m.poke()
}

// SetBundles replaces the bundles of all trust domains. Every SVID is handed out anew beside them; those that the active
// authority did not issue are renewed, spread over time.
func (m *Manager) SetBundles(bundles map[spiffeid.TrustDomain]BundleState) {
	set := x509bundle.NewSet()
	for trustDomain, state := range bundles {
		set.Add(x509bundle.FromX509Authorities(trustDomain, slices.Clone(state.Authorities)))
	}
	roots := rootsOf(set)

	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	same := equalSets(m.bundleSet, set)
	m.bundleSet, m.roots = set, roots
	m.activeSKI = string(bytes.Clone(bundles[m.trustDomain].ActiveAuthority))
	for _, s := range m.slots {
		m.pursueActiveAuthority(s, now)
		if !same {
			m.publish(s)
		}
	}
	if !same {
		m.refreshOwn()
		m.tellSubscribers(nil, true)
	}
	m.poke()
}

// SetRevocations replaces the revocation index; nil revokes nothing. What it names is dropped at once: an SVID whose serial, key
// or authority is revoked is asked for again with a new key, an identity that is revoked is not.
func (m *Manager) SetRevocations(index *revocation.Index) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.revocations = index
	for _, s := range m.slots {
		m.judge(s, now)
	}
	m.refreshOwn()
	m.poke()
}

// Reconnected says that the authority can be reached again: what failed and waits for its next attempt is tried within the next
// second instead.
func (m *Manager) Reconnected() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, s := range m.slots {
		if soon := now.Add(spread(reconnectSpread)); s.attempts > 0 && !s.inFlight && soon.Before(s.due) {
			s.due = soon
			m.schedule(s)
		}
	}
	m.poke()
}

// Identity returns the holder of one of the process's own identities, those of entries with registration.SelfSelector. It may be
// asked for before the entry exists and stays the same for the life of the manager; callers ask for what their configuration
// names, since a holder is never forgotten.
func (m *Manager) Identity(id spiffeid.ID) *Holder {
	m.mu.Lock()
	defer m.mu.Unlock()
	holder, ok := m.identities[id]
	if !ok {
		holder = new(Holder)
		m.identities[id] = holder
		m.refreshOwn()
	}
	return holder
}

// Default returns the holder of the process's own identity that an entry gave it first.
func (m *Manager) Default() *Holder { return &m.fallback }

// refreshOwn puts the SVIDs of the process's own identities into their holders. The caller holds mu.
func (m *Manager) refreshOwn() {
	current := make(map[spiffeid.ID]*X509)
	var first *X509
	seen := false
	for _, a := range m.selves {
		s := m.slots[slotKey{a.entry.ID, a.id}]
		if s == nil {
			continue
		}
		if !seen {
			first, seen = s.x509, true
		}
		if current[a.id] == nil {
			current[a.id] = s.x509
		}
	}
	m.fallback.Set(first)
	for id, holder := range m.identities {
		holder.Set(current[id])
	}
	for id := range m.own {
		if _, ok := current[id]; !ok {
			m.metrics.setOwn(id.String(), nil)
			delete(m.own, id)
		}
	}
	for id, x := range current {
		m.metrics.setOwn(id.String(), x)
		m.own[id] = true
	}
}

func equalSets(a, b *x509bundle.Set) bool {
	return slices.EqualFunc(a.Bundles(), b.Bundles(), (*x509bundle.Bundle).Equal) // both sorted by trust domain
}

// poke lets Run look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // it has been told already
	}
}
