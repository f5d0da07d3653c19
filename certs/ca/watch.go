package ca

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
)

// RevocationUpdate is one change of the revocations on record.
type RevocationUpdate struct {
	// Full says that Set is all there is: what was known before and is not in it has gone.
	Full bool
	Set  []revocation.Revocation
	// Removed are the ids of revocations that were lifted or ended.
	Removed []string
}

// WatchRevocations yields first everything on record, then each change in order, until ctx ends. If the consumer falls so far behind
// that the store no longer has the changes between, a full update comes again. An error is the last thing yielded.
func (a *Authority) WatchRevocations(ctx context.Context) iter.Seq2[RevocationUpdate, error] {
	return func(yield func(RevocationUpdate, error) bool) {
		for ctx.Err() == nil {
			again, err := a.watchRevocationsOnce(ctx, yield)
			if err != nil {
				yield(RevocationUpdate{}, fmt.Errorf("watch revocations: %w", err))
			}
			if err != nil || !again {
				return
			}
		}
	}
}

// watchRevocationsOnce lists and follows until the store has dropped what comes next (again is true), the consumer stops, or an error.
func (a *Authority) watchRevocationsOnce(ctx context.Context, yield func(RevocationUpdate, error) bool) (again bool, err error) {
	// The revision comes before the listing: a change between the two is yielded twice, never missed.
	from, err := a.opts.Store.Revision(ctx)
	if err != nil {
		return false, ignoreEnd(ctx, err)
	}
	full := RevocationUpdate{Full: true}
	for item, err := range items(ctx, a.opts.Store, revocationPrefix) {
		if err != nil {
			return false, ignoreEnd(ctx, err)
		}
		r, err := decodeRevocation(item)
		if err != nil {
			return false, err
		}
		full.Set = append(full.Set, r)
	}
	sortRevocations(full.Set)
	if !yield(full, nil) {
		return false, nil
	}
	for event, err := range a.opts.Store.Watch(ctx, revocationPrefix, from) {
		if errors.Is(err, store.ErrCompacted) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		update, err := revocationUpdate(event)
		if err != nil {
			return false, err
		}
		if !yield(update, nil) {
			return false, nil
		}
	}
	return false, nil
}

func revocationUpdate(event store.Event) (RevocationUpdate, error) {
	if event.Deleted {
		return RevocationUpdate{Removed: []string{strings.TrimPrefix(event.Item.Key, revocationPrefix)}}, nil
	}
	r, err := decodeRevocation(event.Item)
	if err != nil {
		return RevocationUpdate{}, err
	}
	return RevocationUpdate{Set: []revocation.Revocation{r}}, nil
}

// ignoreEnd drops an error that only says that ctx ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
