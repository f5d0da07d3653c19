package source

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

const (
	// maxBatch requests travel together: a renewal of all of a node's SVIDs is a few calls, and one call stays small.
	maxBatch = 64
	// maxActive batches are on their way at once.
	maxActive = 4
	// issueTimeout bounds one call of the issuer.
	issueTimeout = 30 * time.Second
	// maxSleep bounds how long a jump of the wall clock goes unnoticed.
	maxSleep = time.Minute
	// wallTolerance is how far the wall clock may move against the monotonic one before the ends of life are computed again.
	wallTolerance = time.Second
	// failureLogInterval is the least time between two log lines about failures to obtain an SVID.
	failureLogInterval = 10 * time.Second
)

// attempt is one request on its way.
type attempt struct {
	slot    *slot
	epoch   uint64
	key     crypto.Signer
	request IssueRequest
	err     error
}

// Run obtains and renews SVIDs, and drops those whose life ends, until ctx is done. It returns nil.
func (m *Manager) Run(ctx context.Context) error {
	var batches sync.WaitGroup
	defer batches.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.wake:
		}
		ready, sleep := m.collect()
		for _, batch := range ready {
			batches.Go(func() { m.issue(ctx, batch) })
		}
		timer.Reset(sleep)
	}
}

// collect takes what is due from the queue: it ends lives and returns the requests to be made now, as many as may be on their way.
// The second result is when to look again.
func (m *Manager) collect() (batches [][]*attempt, sleep time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.noticeWallClock(now)
	var batch []*attempt
	for len(m.due) > 0 && !m.due[0].wakeAt.After(now) && m.active < maxActive {
		if a := m.look(m.due[0], now); a != nil {
			batch = append(batch, a)
		}
		if len(batch) == maxBatch {
			batches = append(batches, batch)
			batch = nil
			m.active++
		}
	}
	if len(batch) > 0 {
		batches = append(batches, batch)
		m.active++
	}
	if len(m.due) == 0 || m.active >= maxActive {
		return batches, maxSleep // a batch that ends wakes Run
	}
	return batches, min(max(m.due[0].wakeAt.Sub(now), 0), maxSleep)
}

// look does what is due for a slot, and moves it to its next place in the queue.
func (m *Manager) look(s *slot, now time.Time) *attempt {
	if s.withdrawn {
		m.judge(s, now)
		if s.withdrawn { // the index still names it although its time is over: look again later
			s.withdrawnUntil = now.Add(maxSleep)
			m.schedule(s)
			return nil
		}
	}
	if s.bare != nil && !now.Before(s.expires) {
		m.expire(s)
	}
	switch {
	case s.idle != nil && s.bare == nil && !s.inFlight:
		m.drop(s)
		return nil
	case s.inFlight || s.due.After(now) || s.idle != nil:
		m.schedule(s)
		return nil
	}
	s.inFlight = true
	m.schedule(s)
	return &attempt{slot: s, epoch: s.epoch}
}

func (m *Manager) expire(s *slot) {
	if !s.onDemand || len(s.subscribers) > 0 {
		m.logger.Error("SVID expired and could not be renewed",
			slog.String(observe.KeySPIFFEID, s.key.id.String()),
			slog.String(observe.KeyEntry, s.key.entryID),
			slog.Time(observe.KeyNotAfter, s.bare.NotAfter))
	}
	m.setBare(s, nil)
	m.publish(s)
	if s.from.self {
		m.refreshOwn()
	}
}

// issue makes keys, has them signed and puts the results in place.
func (m *Manager) issue(ctx context.Context, batch []*attempt) {
	asked := make([]*attempt, 0, len(batch))
	requests := make([]IssueRequest, 0, len(batch))
	for _, a := range batch {
		a.key, a.request, a.err = newRequest(a.slot.key.entryID, a.slot.key.id)
		if a.err == nil {
			asked = append(asked, a)
			requests = append(requests, a.request)
		}
	}
	results, err := m.ask(ctx, requests)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for i, a := range asked {
		if err != nil {
			a.err = err
			continue
		}
		a.err = m.accept(a, results[i], now)
	}
	for _, a := range batch {
		m.settle(ctx, a, now)
	}
	m.refreshOwn()
	m.active--
	m.poke()
}

func (m *Manager) ask(ctx context.Context, requests []IssueRequest) ([]IssueResult, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	results, err := m.issuer.IssueX509(ctx, requests)
	if err != nil {
		return nil, fmt.Errorf("issue SVIDs: %w", err)
	}
	if len(results) != len(requests) {
		return nil, fmt.Errorf("issue SVIDs: %d results for %d requests", len(results), len(requests))
	}
	return results, nil
}

var errSuperseded = errors.New("the entry changed meanwhile")

// accept takes the SVID of a result, if it is what was asked for and still wanted.
func (m *Manager) accept(a *attempt, result IssueResult, now time.Time) error {
	s := a.slot
	if result.Err != nil {
		return fmt.Errorf("issue SVID of %q: %w", s.key.id.String(), result.Err)
	}
	if m.slots[s.key] != s || s.epoch != a.epoch {
		return errSuperseded
	}
	id, err := checkLeaf(result.Chain, a.key)
	if err != nil {
		return fmt.Errorf("issued SVID: %w", err)
	}
	if id != s.key.id {
		return fmt.Errorf("issued SVID names %q instead of %q", id.String(), s.key.id.String())
	}
	bare := newX509(id, result.Chain, a.key)
	today := m.clock()
	life := bare.NotAfter.Sub(today)
	if life <= 0 {
		return fmt.Errorf("issued SVID of %q ended at %s", id.String(), bare.NotAfter.Format(time.RFC3339))
	}
	if r, revoked := m.revocations.Match(result.Chain, id, today); revoked {
		return fmt.Errorf("issued SVID of %q is revoked by its %s", id.String(), string(r.Kind))
	}
	if s.bare != nil {
		m.metrics.rotations.Inc()
	}
	m.setBare(s, bare)
	s.obtained, s.expires = now, now.Add(life)
	s.due = now.Add(renewAfter(life))
	if string(bare.chain[0].AuthorityKeyId) == m.activeSKI {
		s.pursued = m.activeSKI
	}
	m.pursueActiveAuthority(s, now)
	m.publish(s)
	return nil
}

// settle ends an attempt: after a failure the slot waits for its next one.
func (m *Manager) settle(ctx context.Context, a *attempt, now time.Time) {
	s := a.slot
	s.inFlight = false
	switch {
	case a.err == nil:
		s.attempts = 0
		m.metrics.renewed(nil)
	case m.slots[s.key] != s || ctx.Err() != nil:
		return // nobody waits for it any more
	case s.epoch != a.epoch:
		s.due = now
	default:
		s.attempts++
		s.due = now.Add(retryAfter(s.attempts, s.life()))
		m.metrics.renewed(a.err)
		m.logFailure(ctx, s, a.err, now)
	}
	m.schedule(s)
}

// life of the SVID at hand; 0 when there is none.
func (s *slot) life() time.Duration {
	if s.bare == nil {
		return 0
	}
	return s.expires.Sub(s.obtained)
}

// failureLog keeps an authority's outage from filling the log.
type failureLog struct {
	next       time.Time
	suppressed int
}

// logFailure warns; once an SVID is past two thirds of its life it is an error, since somebody must act.
func (m *Manager) logFailure(ctx context.Context, s *slot, err error, now time.Time) {
	level := slog.LevelWarn
	attrs := []slog.Attr{
		slog.String(observe.KeySPIFFEID, s.key.id.String()),
		slog.String(observe.KeyEntry, s.key.entryID),
		slog.Any(observe.KeyError, err),
	}
	if s.bare != nil {
		attrs = append(attrs, slog.Time(observe.KeyNotAfter, s.bare.NotAfter))
		if now.Sub(s.obtained) > s.life()*2/3 {
			level = slog.LevelError
		}
	}
	if now.Before(m.failures.next) {
		m.failures.suppressed++
		return
	}
	attrs = append(attrs, slog.Int(observe.KeyCount, m.failures.suppressed+1))
	m.failures = failureLog{next: now.Add(failureLogInterval)}
	m.logger.LogAttrs(ctx, level, "SVID could not be obtained", attrs...)
}

// wallClock remembers how the wall clock stood to the monotonic one.
type wallClock struct{ monotonic, wall time.Time }

// noticeWallClock computes every end of life again after the wall clock was set: lives are dates, while what is due is counted from
// when it was planned.
func (m *Manager) noticeWallClock(now time.Time) {
	before := m.looked
	m.looked = wallClock{now, m.clock().Round(0)}
	if before.monotonic.IsZero() {
		return
	}
	jump := m.looked.wall.Sub(before.wall) - now.Sub(before.monotonic)
	if jump.Abs() < wallTolerance {
		return
	}
	m.logger.Warn("wall clock was set", slog.Duration(observe.KeyDuration, jump))
	for _, s := range m.slots {
		if s.bare == nil {
			continue
		}
		s.expires = now.Add(s.bare.NotAfter.Sub(m.looked.wall))
		if half := now.Add(s.expires.Sub(now) / 2); half.Before(s.due) {
			s.due = half
		}
		m.schedule(s)
	}
}
