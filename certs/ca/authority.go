package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
)

// Authority is the certificate authority of one trust domain. All methods may be called concurrently.
type Authority struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	opened  time.Time

	current     atomic.Pointer[current]
	revocations atomic.Pointer[revocation.Index]
	// turn is held by whoever changes state or revocations. It is a channel because holders wait for the store.
	turn chan struct{}
	kick chan struct{} // wakes Run when there may be something to do

	mu      sync.Mutex
	changed chan struct{} // closed when current changes
}

// current is one published state with what it takes to sign under it. It is never changed.
type current struct {
	state    *state
	revision store.Revision // of the state's record
	signing  *record
	root     *record
	signer   crypto.Signer // of signing
}

// Bundle is what the trust domain's SVIDs are verified with.
type Bundle struct {
	TrustDomain spiffeid.TrustDomain
	// Authorities are the roots, in the order in which they were made.
	Authorities []*x509.Certificate
	// Sequence grows with every change of Authorities.
	Sequence uint64
	// ActiveAuthority is the subject key id of the signing authority that issues now: who holds an SVID of another one renews it.
	ActiveAuthority []byte
}

// Info describes one authority.
type Info struct {
	ID          string // subject key id in hex
	Use         Use
	Stage       Stage
	Issuer      string
	Certificate *x509.Certificate
	PreparedAt  time.Time
	ActivatedAt time.Time
	ReplacedAt  time.Time
}

// Open returns the authority whose state the store holds. In a store that never had one, it makes a root and a signing authority in
// one transaction. A store with traces of an authority, but without its state, is ErrStateLost; that of another trust domain is
// ErrWrongTrustDomain. If authorities ended while nobody ran, Open replaces them, since nothing could be issued otherwise.
func Open(ctx context.Context, opts Options) (*Authority, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Authority{
		opts:    opts,
		log:     opts.Logger,
		opened:  opts.Clock(),
		turn:    make(chan struct{}, 1),
		kick:    make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	if a.metrics, err = newMetrics(opts.Registerer); err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	item, err := opts.Store.Get(ctx, stateKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = a.found(ctx)
	case err == nil:
		err = a.resume(ctx, item)
	}
	if err != nil {
		return nil, fmt.Errorf("open authority of %q: %w", opts.TrustDomain.Name(), err)
	}
	if err := a.loadRevocations(ctx); err != nil {
		return nil, fmt.Errorf("open authority of %q: %w", opts.TrustDomain.Name(), err)
	}
	return a, nil
}

// found makes the first authorities of the trust domain.
func (a *Authority) found(ctx context.Context) error {
	for _, prefix := range []string{statePrefix, credentialPrefix, revocationPrefix} {
		page, err := a.opts.Store.List(ctx, prefix, "", 1)
		if err != nil {
			return fmt.Errorf("look for an earlier authority: %w", err)
		}
		if len(page.Items) > 0 {
			return fmt.Errorf("%w: the store has %q but no state: restore it from its backup", ErrStateLost, page.Items[0].Key)
		}
	}
	if empty, err := a.opts.Keys.Empty(ctx); err != nil || !empty {
		return errors.Join(err, fmt.Errorf("%w: the store has sealed keys but no state: restore it from its backup", ErrStateLost))
	}
	now := a.opts.Clock()
	first := &state{TrustDomain: a.opts.TrustDomain.Name()}
	root, err := a.makeRoot(now)
	if err != nil {
		return err
	}
	signing, err := a.makeSigning(now, root.record, root.signer)
	if err != nil {
		return err
	}
	first.add(root.record, Active, now)
	first.add(signing.record, Active, now)
	if err := a.commit(ctx, first, signing.signer, root.op, signing.op); err != nil {
		return err
	}
	if err := a.tell(ctx, audit.Event{Type: audit.AuthorityActivated, Actor: actorAuthority, Target: root.record.ID, Detail: authorityDetail(&root.record)}); err != nil {
		return err
	}
	return a.tell(ctx, audit.Event{Type: audit.AuthorityActivated, Actor: actorAuthority, Target: signing.record.ID, Detail: authorityDetail(&signing.record)})
}

// resume goes on from the stored state.
func (a *Authority) resume(ctx context.Context, item store.Item) error {
	s, err := decodeState(item)
	if err != nil {
		return err
	}
	if s.TrustDomain != a.opts.TrustDomain.Name() {
		return fmt.Errorf("%w: %q", ErrWrongTrustDomain, s.TrustDomain)
	}
	signing := s.find(Signing, Active)
	signer, err := a.loadKey(ctx, signing)
	if err != nil {
		return err
	}
	a.publish(&current{state: s, revision: item.Modified, signing: signing, root: s.find(Root, Active), signer: signer})
	if err := a.admitLongerLives(ctx); err != nil {
		return err
	}
	return a.recover(ctx)
}

// admitLongerLives records that a new configuration lets leaves live longer, before the first such leaf is signed.
func (a *Authority) admitLongerLives(ctx context.Context) error {
	now := a.current.Load()
	if now.signing.LongestTTL >= a.opts.longestTTL() {
		return nil
	}
	next := now.state.next()
	next.find(Signing, Active).LongestTTL = a.opts.longestTTL()
	return a.commit(ctx, next, now.signer)
}

// commit makes next durable together with ops, and publishes it. signer is that of next's active signing authority. The caller holds
// the turn, or is Open.
func (a *Authority) commit(ctx context.Context, next *state, signer crypto.Signer, ops ...store.Op) error {
	return a.commitIf(ctx, next, signer, nil, ops...)
}

func (a *Authority) commitIf(ctx context.Context, next *state, signer crypto.Signer, conditions []store.Condition, ops ...store.Op) error {
	value, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode state of the authority: %w", err)
	}
	var revision store.Revision
	if have := a.current.Load(); have != nil {
		revision = have.revision
	}
	committed, err := a.opts.Store.Commit(ctx, store.Txn{
		If:   append(conditions, store.Condition{Key: stateKey, Modified: revision}),
		Then: append(ops, store.Op{Key: stateKey, Value: value}),
	})
	if err != nil {
		return fmt.Errorf("record state of the authority: %w", err)
	}
	a.publish(&current{
		state: next, revision: committed, signing: next.find(Signing, Active), root: next.find(Root, Active), signer: signer,
	})
	return nil
}

func (a *Authority) publish(c *current) {
	a.current.Store(c)
	a.metrics.authorities(c)
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// TrustDomain returns the trust domain for which the authority signs.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.opts.TrustDomain }

// MaxTTL returns the longest life that a Request of a workload may ask for; IssueX509 refuses a longer one with ErrTTL.
func (a *Authority) MaxTTL() time.Duration { return a.opts.MaxTTL }

// Bundle returns the trust domain's bundle as it is now. Its slices are the caller's, its certificates are shared.
func (a *Authority) Bundle() Bundle {
	c := a.current.Load()
	return Bundle{
		TrustDomain:     a.opts.TrustDomain,
		Authorities:     c.state.bundle(),
		Sequence:        c.state.Sequence,
		ActiveAuthority: slices.Clone(c.signing.cert.SubjectKeyId),
	}
}

// Changed returns a channel that is closed at the next change of an authority. To miss none, take the channel first and Bundle or
// Authorities then.
func (a *Authority) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Authorities returns every authority that is trusted or prepared, in the order in which they were made.
func (a *Authority) Authorities() []Info {
	s := a.current.Load().state
	infos := make([]Info, 0, len(s.Authorities))
	for _, r := range s.Authorities {
		infos = append(infos, Info{
			ID: r.ID, Use: r.Use, Stage: r.Stage, Issuer: r.Issuer, Certificate: r.cert,
			PreparedAt: r.PreparedAt, ActivatedAt: r.ActivatedAt, ReplacedAt: r.ReplacedAt,
		})
	}
	return infos
}

// take waits for the turn to change state; the function it returns gives the turn back.
func (a *Authority) take(ctx context.Context) (release func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another change of the authority: %w", ctx.Err())
	}
}

// tell appends an event. What it is about is durable already; a caller who gets the error was not told of success.
func (a *Authority) tell(ctx context.Context, event audit.Event) error {
	if _, err := a.opts.Events.Append(ctx, event); err != nil {
		a.log.Error("event was not recorded", slog.String(observe.KeyType, event.Type), slog.String(observe.KeyError, err.Error()))
		return fmt.Errorf("record event %q: %w", event.Type, err)
	}
	return nil
}

// actorAuthority is the actor of what the authority does by itself.
const actorAuthority = "postern"

func authorityDetail(r *record) map[string]string {
	return map[string]string{
		"use":       string(r.Use),
		"issuer":    r.Issuer,
		"not_after": r.cert.NotAfter.UTC().Format(time.RFC3339),
	}
}

func samePublicKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && key.Equal(b)
}
