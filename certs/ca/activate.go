package ca

import (
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
)

// made is a new authority that no transaction has recorded yet.
type made struct {
	record record
	signer crypto.Signer
	op     store.Op // stores its key
}

func (a *Authority) makeRoot(now time.Time) (made, error) {
	return a.make(Root, now, a.opts.RootTTL, nil, nil)
}

// makeSigning makes a signing authority beneath root, whose key signer is.
func (a *Authority) makeSigning(now time.Time, root record, signer crypto.Signer) (made, error) {
	return a.make(Signing, now, a.opts.SigningTTL, &root, signer)
}

func (a *Authority) make(use Use, now time.Time, ttl time.Duration, root *record, rootKey crypto.Signer) (made, error) {
	// The key has to exist before its id, which is derived from it: it is sealed under the id in the second step.
	signer, err := keys.Generate(a.opts.KeyType)
	if err != nil {
		return made{}, fmt.Errorf("make key of %s authority: %w", use, err)
	}
	keyID, err := svid.SubjectKeyID(signer.Public())
	if err != nil {
		return made{}, err
	}
	id := hex.EncodeToString(keyID)
	op, err := a.opts.Keys.Seal(id, a.opts.KeyType, signer)
	if err != nil {
		return made{}, err
	}
	r := record{ID: id, Use: use, Issuer: id}
	notBefore, notAfter := now.Add(-backdate), now.Add(ttl)
	if use == Root {
		r.cert, err = signAuthority(use, a.opts.TrustDomain, signer, nil, nil, notBefore, notAfter)
	} else {
		r.Issuer, r.LongestTTL = root.ID, a.opts.longestTTL()
		notBefore, notAfter = later(notBefore, root.cert.NotBefore), earlier(notAfter, root.cert.NotAfter)
		r.cert, err = signAuthority(use, a.opts.TrustDomain, signer, root.cert, rootKey, notBefore, notAfter)
	}
	if err != nil {
		return made{}, err
	}
	r.Certificate = r.cert.Raw
	return made{record: r, signer: signer, op: op}, nil
}

// loadKey returns the key of an authority, after making sure that it is the one of its certificate.
func (a *Authority) loadKey(ctx context.Context, r *record) (crypto.Signer, error) {
	signer, err := a.opts.Keys.Load(ctx, r.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: key of %s authority: %w", ErrStateLost, r.Use, err)
	}
	if !samePublicKey(signer.Public(), r.cert.PublicKey) {
		return nil, fmt.Errorf("%w: key of %s authority %q is not the one of its certificate", ErrStateLost, r.Use, r.ID)
	}
	return signer, nil
}

func (a *Authority) keyDeletions(records []*record) []store.Op {
	ops := make([]store.Op, 0, len(records))
	for _, r := range records {
		ops = append(ops, a.opts.Keys.Deletion(r.ID))
	}
	return ops
}

// prepareRoot adds a root to the bundle. requestedBy is who wants it to take over at once, or "".
func (a *Authority) prepareRoot(ctx context.Context, now time.Time, actor, requestedBy string) error {
	root, err := a.makeRoot(now)
	if err != nil {
		return err
	}
	root.record.RequestedBy = requestedBy
	return a.prepare(ctx, now, actor, root)
}

// prepareSigning makes the next signing authority beneath the active root.
func (a *Authority) prepareSigning(ctx context.Context, now time.Time) error {
	c := a.current.Load()
	rootKey, err := a.loadKey(ctx, c.root)
	if err != nil {
		return err
	}
	signing, err := a.makeSigning(now, *c.root, rootKey)
	if err != nil {
		return err
	}
	return a.prepare(ctx, now, actorAuthority, signing)
}

func (a *Authority) prepare(ctx context.Context, now time.Time, actor string, m made) error {
	c := a.current.Load()
	next := c.state.next()
	next.add(m.record, Prepared, now)
	if err := a.commit(ctx, next, c.signer, m.op); err != nil {
		return err
	}
	a.log.Info("authority prepared", slog.String(observe.KeyAuthority, m.record.ID), slog.String(observe.KeyType, string(m.record.Use)))
	return a.tell(ctx, audit.Event{Type: audit.AuthorityPrepared, Actor: actor, Target: m.record.ID, Detail: authorityDetail(&m.record)})
}

// activateSigning lets the prepared signing authority take over; one whose life is mostly over, or none, is made anew.
func (a *Authority) activateSigning(ctx context.Context, now time.Time, actor string) error {
	c := a.current.Load()
	next := c.state.next()
	var signer crypto.Signer
	var ops []store.Op
	var err error
	prepared := next.find(Signing, Prepared)
	if prepared != nil && usable(prepared, now) {
		if signer, err = a.loadKey(ctx, prepared); err != nil {
			return err
		}
		next.find(Signing, Active).replace(now)
		prepared.activate(now)
	} else {
		rootKey, err := a.loadKey(ctx, c.root)
		if err != nil {
			return err
		}
		fresh, err := a.makeSigning(now, *c.root, rootKey)
		if err != nil {
			return err
		}
		if prepared != nil {
			ops = append(ops, a.opts.Keys.Deletion(prepared.ID))
			next.remove(prepared.ID)
		}
		next.find(Signing, Active).replace(now)
		next.add(fresh.record, Active, now)
		signer, ops = fresh.signer, append(ops, fresh.op)
	}
	// Who signs no more needs no key.
	ops = append(ops, a.opts.Keys.Deletion(c.signing.ID))
	if err := a.commit(ctx, next, signer, ops...); err != nil {
		return err
	}
	return a.tellActivated(ctx, actor, Signing)
}

// usable reports whether a prepared signing authority still has a sixth of its life.
func usable(prepared *record, now time.Time) bool {
	return !now.Before(prepared.cert.NotBefore) && now.Before(prepared.at(5, 6))
}

// activateWhenPropagated lets a prepared root take over when the nodes know it. Somebody else may have done so meanwhile.
func (a *Authority) activateWhenPropagated(ctx context.Context, id string) error {
	if err := a.awaitPropagation(ctx, id, a.current.Load().state.Sequence); err != nil {
		return err
	}
	release, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	prepared := a.current.Load().state.byID(id)
	if prepared == nil || prepared.Stage != Prepared {
		return nil
	}
	return a.activateRoot(ctx, a.opts.Clock())
}

// awaitPropagation waits until every connected node has the bundle, but not beyond the deadline: one node that hangs must not keep a
// trust domain from leaving a root. It fails only when ctx ends.
func (a *Authority) awaitPropagation(ctx context.Context, id string, sequence uint64) error {
	if a.opts.Propagated == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, a.opts.PropagationDeadline)
	defer cancel()
	err := a.opts.Propagated(wait, sequence)
	if err == nil {
		return nil
	}
	<-wait.Done() // an error that comes early leaves the nodes the rest of the time
	if ctx.Err() != nil {
		return fmt.Errorf("wait for nodes to acknowledge the bundle: %w", ctx.Err())
	}
	a.log.Warn("not every node acknowledged the new root in time; it takes over all the same",
		slog.String(observe.KeyAuthority, id), slog.String(observe.KeyError, err.Error()))
	return a.tell(ctx, audit.Event{Type: audit.AuthorityUnpropagated, Actor: actorAuthority, Target: id})
}

// activateRoot lets the prepared root take over, with a fresh signing authority beneath it. The old ones stay trusted until they drain.
func (a *Authority) activateRoot(ctx context.Context, now time.Time) error {
	c := a.current.Load()
	next := c.state.next()
	root := next.find(Root, Prepared)
	rootKey, err := a.loadKey(ctx, root)
	if err != nil {
		return err
	}
	signing, err := a.makeSigning(now, *root, rootKey)
	if err != nil {
		return err
	}
	actor := root.RequestedBy
	if actor == "" {
		actor = actorAuthority
	}
	ops := []store.Op{signing.op, a.opts.Keys.Deletion(c.root.ID), a.opts.Keys.Deletion(c.signing.ID)}
	next.find(Root, Active).replace(now)
	root.activate(now)
	next.find(Signing, Active).replace(now)
	if prepared := next.find(Signing, Prepared); prepared != nil { // it is of the old root
		ops = append(ops, a.opts.Keys.Deletion(prepared.ID))
		next.remove(prepared.ID)
	}
	next.add(signing.record, Active, now)
	if err := a.commit(ctx, next, signing.signer, ops...); err != nil {
		return err
	}
	if err := a.tellActivated(ctx, actor, Root); err != nil {
		return err
	}
	return a.tellActivated(ctx, actor, Signing)
}

func (a *Authority) tellActivated(ctx context.Context, actor string, use Use) error {
	a.metrics.rotated(use)
	r := a.current.Load().state.find(use, Active)
	a.log.Info("authority activated", slog.String(observe.KeyAuthority, r.ID), slog.String(observe.KeyType, string(use)),
		slog.Time(observe.KeyNotAfter, r.cert.NotAfter))
	return a.tell(ctx, audit.Event{Type: audit.AuthorityActivated, Actor: actor, Target: r.ID, Detail: authorityDetail(r)})
}

// recover replaces, when a store is opened, a signing authority that ended while nobody ran. A root that ended is left to Rotate: a
// clock far ahead looks the same.
func (a *Authority) recover(ctx context.Context) error {
	c, now := a.current.Load(), a.opts.Clock()
	if now.Before(c.signing.cert.NotAfter) || !now.Before(c.root.cert.NotAfter) {
		return nil
	}
	a.log.Warn("signing authority ended while the authority did not run; replacing it", slog.String(observe.KeyAuthority, c.signing.ID))
	return a.activateSigning(ctx, now, actorAuthority)
}
