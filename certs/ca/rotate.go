package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
)

// maxAuthorities bounds what Rotate can heap up: all of them stand in one value of the store, at about 1 KiB each.
const maxAuthorities = 128

// Rotate replaces the active authority of that use now. A new signing authority takes over at once: its certificate travels with what
// it signs. A new root joins the bundle, and Rotate waits until the nodes know it, or Options.PropagationDeadline, before it takes
// over with a fresh signing authority; if ctx ends while it waits, Run completes the rotation.
func (a *Authority) Rotate(ctx context.Context, use Use, actor string) error {
	var err error
	switch n := len(a.current.Load().state.Authorities); {
	case n >= maxAuthorities:
		err = fmt.Errorf("%w: %d authorities have not ended yet; revoke replaced ones, or wait", ErrTooMany, n)
	case use == Signing:
		err = a.rotateSigning(ctx, actor)
	case use == Root:
		err = a.rotateRoot(ctx, actor)
	default:
		err = fmt.Errorf("%w: use %q is neither root nor signing", ErrInvalidRequest, use)
	}
	a.wake()
	if err != nil {
		return fmt.Errorf("rotate %s authority: %w", use, err)
	}
	return nil
}

func (a *Authority) rotateSigning(ctx context.Context, actor string) error {
	release, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return a.activateSigning(ctx, a.opts.Clock(), actor)
}

func (a *Authority) rotateRoot(ctx context.Context, actor string) error {
	id, err := a.requestRoot(ctx, actor)
	if err != nil {
		return err
	}
	return a.activateWhenPropagated(ctx, id)
}

// requestRoot records that a root is to take over as soon as it may, and returns its id.
func (a *Authority) requestRoot(ctx context.Context, actor string) (string, error) {
	release, err := a.take(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	now := a.current.Load()
	if now.state.find(Root, Prepared) == nil {
		if err := a.prepareRoot(ctx, a.opts.Clock(), actor, actor); err != nil {
			return "", err
		}
		return a.current.Load().state.find(Root, Prepared).ID, nil
	}
	next := now.state.next()
	prepared := next.find(Root, Prepared)
	prepared.RequestedBy = actor
	return prepared.ID, a.commit(ctx, next, now.signer)
}

// Run rotates authorities by time and completes rotations that were interrupted, until ctx ends; then it returns nil.
func (a *Authority) Run(ctx context.Context) error {
	// The wall clock may jump, so a wait is never longer than a minute, whatever the next date.
	const look, retry = time.Minute, 10 * time.Second
	for {
		next, err := a.advance(ctx)
		wait := min(look, max(0, next.Sub(a.opts.Clock())))
		if err != nil && ctx.Err() == nil {
			a.log.Warn("rotation of authorities failed; trying again", slog.String(observe.KeyError, err.Error()))
			wait = retry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-a.kick:
			timer.Stop()
		}
	}
}

func (a *Authority) wake() {
	select {
	case a.kick <- struct{}{}:
	default: // it is awake already
	}
}

// task is a step of the state machine.
type task uint8

const (
	nothing task = iota
	dropEnded
	prepareRoot
	activateRoot
	prepareSigning
	activateSigning
)

// advance takes every step that is due, and returns when the next one will be.
func (a *Authority) advance(ctx context.Context) (time.Time, error) {
	for {
		next, done, err := a.advanceOnce(ctx)
		if err != nil || done {
			return next, err
		}
	}
}

func (a *Authority) advanceOnce(ctx context.Context) (next time.Time, done bool, err error) {
	release, err := a.take(ctx)
	if err != nil {
		return time.Time{}, false, err
	}
	now := a.opts.Clock()
	step, at := a.due(now)
	if step == activateRoot { // the wait for the nodes is not one for the turn
		id := a.current.Load().state.find(Root, Prepared).ID
		release()
		return at, false, a.activateWhenPropagated(ctx, id)
	}
	defer release()
	switch step { //nolint:exhaustive // activateRoot is above
	case dropEnded:
		err = a.dropEnded(ctx, now)
	case prepareRoot:
		err = a.prepareRoot(ctx, now, actorAuthority, "")
	case prepareSigning:
		err = a.prepareSigning(ctx, now)
	case activateSigning:
		err = a.activateSigning(ctx, now, actorAuthority)
	}
	return at, step == nothing, err
}

// due returns the step that is to be taken at now, or nothing and the time of the next one.
func (a *Authority) due(now time.Time) (task, time.Time) {
	c := a.current.Load()
	if !now.Before(c.root.cert.NotAfter) {
		// A clock far ahead looks the same, and a new root is for ever: this one is left to Rotate.
		a.log.Error("root authority has ended; set the clock, or rotate the root", slog.Time(observe.KeyNotAfter, c.root.cert.NotAfter))
		return nothing, now.Add(time.Hour)
	}
	step, at := nothing, c.root.cert.NotAfter
	offer := func(t task, when time.Time) {
		if when.Before(at) {
			step, at = t, when
		}
	}
	for i := range c.state.Authorities {
		if when, ends := c.state.ends(&c.state.Authorities[i]); ends {
			offer(dropEnded, when)
		}
	}
	offer(a.rootDue(c))
	if c.state.find(Signing, Prepared) == nil {
		offer(prepareSigning, c.signing.at(1, 2))
	} else {
		offer(activateSigning, c.signing.at(5, 6))
	}
	if now.Before(at) {
		return nothing, at
	}
	return step, at
}

func (a *Authority) rootDue(c *current) (task, time.Time) {
	prepared := c.state.find(Root, Prepared)
	switch {
	case prepared == nil:
		return prepareRoot, c.root.at(1, 2)
	case prepared.RequestedBy == "":
		return activateRoot, c.root.at(5, 6)
	case prepared.PreparedAt.Before(a.opened):
		// The process was restarted in between: the nodes that Propagated asks first have to find their way back.
		return activateRoot, a.opened.Add(a.opts.PropagationDeadline)
	default:
		return activateRoot, prepared.PreparedAt
	}
}

// ends reports when an authority goes out of the state: a replaced signing authority with the last leaf that it signed, a replaced root
// with the last signing authority beneath it, a prepared one with its own life.
func (s *state) ends(r *record) (time.Time, bool) {
	switch {
	case r.Stage == Active:
		return time.Time{}, false
	case r.Stage == Prepared:
		return r.cert.NotAfter, true
	case r.Use == Signing:
		return r.drained(), true
	default:
		return r.ReplacedAt, len(s.beneath(r.ID)) == 0
	}
}

// dropEnded takes out what has ended.
func (a *Authority) dropEnded(ctx context.Context, now time.Time) error {
	c := a.current.Load()
	var gone []*record
	for i := range c.state.Authorities {
		r := &c.state.Authorities[i]
		if when, ends := c.state.ends(r); ends && !now.Before(when) {
			gone = append(gone, r)
		}
	}
	if err := a.commit(ctx, without(c.state, gone), c.signer, a.keyDeletions(gone)...); err != nil {
		return err
	}
	return a.tellGone(ctx, actorAuthority, gone)
}

// without returns the state without those authorities; the bundle has a new sequence if there was a root among them.
func without(s *state, gone []*record) *state {
	next := s.next()
	for _, r := range gone {
		next.remove(r.ID)
		if r.Use == Root {
			next.Sequence++
		}
	}
	return next
}

func (a *Authority) tellGone(ctx context.Context, actor string, gone []*record) error {
	var errs []error
	for _, r := range gone {
		a.log.Info("authority is no longer trusted", slog.String(observe.KeyAuthority, r.ID), slog.String(observe.KeyType, string(r.Use)))
		errs = append(errs, a.tell(ctx, audit.Event{Type: audit.AuthorityRetired, Actor: actor, Target: r.ID, Detail: authorityDetail(r)}))
	}
	return errors.Join(errs...)
}
