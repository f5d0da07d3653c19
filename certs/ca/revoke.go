package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
)

// MaxRevocations bounds the revocations on record: every proxy holds them all.
const MaxRevocations = 100_000

// Revoke records a revocation, and returns it as recorded once it is durable and in force here. ID, By and At are the authority's to
// fill in. Of a serial number, Until becomes the end of the credential, which must be a live one of this authority (ErrNotFound)
// unless Until is given. What is revoked already by an equal or longer revocation yields that one.
//
// An authority that signs cannot be revoked (ErrActiveAuthority): rotate first. One that is replaced or prepared leaves the state and
// the bundle with its revocation.
func (a *Authority) Revoke(ctx context.Context, r revocation.Revocation, actor string) (revocation.Revocation, error) {
	release, err := a.take(ctx)
	if err != nil {
		return revocation.Revocation{}, err
	}
	defer release()
	r, err = a.complete(ctx, r, actor)
	if err != nil {
		return revocation.Revocation{}, fmt.Errorf("revoke: %w", err)
	}
	index := a.revocations.Load()
	for _, have := range index.All() {
		if have.Subject() == r.Subject() && !have.Ended(r.At) && (have.Until.IsZero() || have.Until.Equal(r.Until)) {
			return have, nil
		}
	}
	if index.Len() >= MaxRevocations {
		return revocation.Revocation{}, fmt.Errorf("revoke: %w: %d revocations are on record; rotate the authority instead", ErrTooMany, index.Len())
	}
	if err := a.recordRevocation(ctx, r); err != nil {
		return revocation.Revocation{}, fmt.Errorf("revoke: %w", err)
	}
	return r, nil
}

// complete validates what the caller gave and fills in the rest.
func (a *Authority) complete(ctx context.Context, r revocation.Revocation, actor string) (revocation.Revocation, error) {
	r.ID, r.By, r.At = newRevocationID(), actor, a.opts.Clock().UTC()
	if err := r.Validate(); err != nil {
		return r, fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	c := a.current.Load()
	if r.Concerns([]*x509.Certificate{c.signing.cert, c.root.cert}, spiffeid.ID{}) {
		return r, fmt.Errorf("%w: rotate it, let its SVIDs be renewed, and revoke it then", ErrActiveAuthority)
	}
	if r.Kind == revocation.Serial && r.Until.IsZero() {
		credential, err := a.Credential(ctx, r.Value)
		if err != nil {
			return r, err
		}
		r.Until = credential.NotAfter.UTC()
	}
	return r, nil
}

func (a *Authority) recordRevocation(ctx context.Context, r revocation.Revocation) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode revocation: %w", err)
	}
	op := store.Op{Key: revocationPrefix + r.ID, Value: value}
	if !r.Until.IsZero() {
		// Trust in a certificate that ended has ended too, but not by every clock.
		op.TTL = r.Until.Sub(r.At) + margin
	}
	fresh := store.Condition{Key: op.Key}
	c := a.current.Load()
	gone := concerned(c.state, r)
	if len(gone) == 0 {
		_, err = a.opts.Store.Commit(ctx, store.Txn{If: []store.Condition{fresh}, Then: []store.Op{op}})
	} else {
		err = a.commitIf(ctx, without(c.state, gone), c.signer, []store.Condition{fresh}, append(a.keyDeletions(gone), op)...)
	}
	if err != nil {
		return fmt.Errorf("record revocation: %w", err)
	}
	live := slices.DeleteFunc(a.revocations.Load().All(), func(have revocation.Revocation) bool { return have.Ended(r.At) })
	a.setRevocations(append(live, r))
	a.log.Info("revoked", slog.String(observe.KeyType, string(r.Kind)), slog.String(observe.KeyActor, r.By))
	if err := a.tell(ctx, revocationEvent(audit.RevocationAdded, r, r.By)); err != nil {
		return err
	}
	return a.tellGone(ctx, r.By, gone)
}

// concerned returns the authorities that a revocation names, or that stand beneath one that it names.
func concerned(s *state, r revocation.Revocation) []*record {
	var found []*record
	for i := range s.Authorities {
		if rec := &s.Authorities[i]; r.Concerns([]*x509.Certificate{rec.cert}, spiffeid.ID{}) {
			found = append(found, rec)
		}
	}
	return found
}

// Lift ends a revocation. It returns ErrNotFound when there is none with that id. An authority that left the bundle does not come back.
func (a *Authority) Lift(ctx context.Context, id, actor string) error {
	release, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	all := a.revocations.Load().All()
	i := slices.IndexFunc(all, func(r revocation.Revocation) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("lift revocation %q: %w", id, ErrNotFound)
	}
	lifted := all[i]
	_, err = a.opts.Store.Commit(ctx, store.Txn{Then: []store.Op{{Key: revocationPrefix + id, Delete: true}}})
	if err != nil {
		return fmt.Errorf("lift revocation %q: %w", id, err)
	}
	a.setRevocations(slices.Delete(all, i, i+1))
	a.log.Info("revocation lifted", slog.String(observe.KeyType, string(lifted.Kind)), slog.String(observe.KeyActor, actor))
	return a.tell(ctx, revocationEvent(audit.RevocationLifted, lifted, actor))
}

// Revocations returns the revocations in force, in the order in which they were made.
func (a *Authority) Revocations(ctx context.Context) ([]revocation.Revocation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := a.opts.Clock()
	return slices.DeleteFunc(a.revocations.Load().All(), func(r revocation.Revocation) bool { return r.Ended(now) }), nil
}

func (a *Authority) loadRevocations(ctx context.Context) error {
	var all []revocation.Revocation
	for item, err := range items(ctx, a.opts.Store, revocationPrefix) {
		if err != nil {
			return fmt.Errorf("list revocations: %w", err)
		}
		r, err := decodeRevocation(item)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	sortRevocations(all)
	a.setRevocations(all)
	return nil
}

func (a *Authority) setRevocations(all []revocation.Revocation) {
	index := revocation.NewIndex(all)
	a.revocations.Store(index)
	a.metrics.revocations(index)
}

func decodeRevocation(item store.Item) (revocation.Revocation, error) {
	var r revocation.Revocation
	if err := json.Unmarshal(item.Value, &r); err != nil {
		return r, fmt.Errorf("decode %q: %w", item.Key, err)
	}
	if err := r.Validate(); err != nil {
		return r, fmt.Errorf("decode %q: %w", item.Key, err)
	}
	return r, nil
}

func sortRevocations(all []revocation.Revocation) {
	slices.SortFunc(all, func(x, y revocation.Revocation) int {
		if c := x.At.Compare(y.At); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
}

func newRevocationID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func revocationEvent(what string, r revocation.Revocation, actor string) audit.Event {
	detail := map[string]string{"id": r.ID, "kind": string(r.Kind), "reason": r.Reason}
	if !r.Until.IsZero() {
		detail["until"] = r.Until.Format(time.RFC3339)
	}
	return audit.Event{Type: what, Actor: actor, Target: r.Value, Detail: detail}
}
