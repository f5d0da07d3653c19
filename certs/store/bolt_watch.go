package store

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/bbolt"
)

// Bounds of one look into the change log. A look is short because bbolt cannot enlarge the file while one is open.
const (
	lookEvents  = 256
	lookRecords = 4096 // including those of other prefixes
)

// place is a position in the change log: after change n-1 of revision rev, or after the whole of rev when n is 0.
type place struct {
	rev Revision
	n   uint16
}

// Watch implements Store. It reads the change log by position, so that it costs a commit nothing and survives a restart.
func (b *Bolt) Watch(ctx context.Context, prefix string, from Revision) iter.Seq2[Event, error] {
	if from == 0 {
		from = Revision(b.durable.Load())
	}
	return func(yield func(Event, error) bool) {
		at := place{rev: from}
		for ctx.Err() == nil {
			wake := b.nextChange()
			events, next, err := b.look(prefix, at)
			for _, e := range events {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(Event{}, fmt.Errorf("watch %q: %w", prefix, err))
				return
			}
			if next != at {
				at = next
				continue
			}
			select {
			case <-wake:
			case <-ctx.Done():
			case <-b.closing:
				yield(Event{}, fmt.Errorf("watch %q: %w", prefix, ErrClosed))
				return
			}
		}
	}
}

// look returns the next events after the place at, and the place behind them; the same place when there is nothing more.
func (b *Bolt) look(prefix string, at place) (events []Event, next place, err error) {
	durable := Revision(b.durable.Load())
	err = b.view(func(tx *bbolt.Tx) (err error) {
		events, next, err = readLog(tx, prefix, at, durable)
		return err
	})
	return events, next, err
}

func readLog(tx *bbolt.Tx, prefix string, at place, durable Revision) ([]Event, place, error) {
	st, err := readState(tx)
	if err != nil {
		return nil, at, err
	}
	first := at.rev + 1 // the oldest revision of which a change is still to be read
	if at.n > 0 {
		first = at.rev
	}
	if first <= st.compacted || at.rev > durable {
		return nil, at, fmt.Errorf("revision %d: %w", at.rev, ErrCompacted)
	}
	var (
		events  []Event
		seen    int
		size    int
		current = at
	)
	cursor := tx.Bucket(bucketLog).Cursor()
	for k, v := cursor.Seek(logKey(first, at.n)); k != nil; k, v = cursor.Next() {
		rev := logRevision(k)
		if rev > durable {
			break
		}
		if seen == lookRecords || len(events) == lookEvents || size > pageBytes {
			return events, current, nil
		}
		if rev != current.rev {
			current = place{rev: rev}
		}
		current.n++
		seen++
		key, record, err := changeKey(v)
		if err != nil {
			return events, current, err
		}
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		item, deleted, err := decodeRecord(key, record)
		if err != nil {
			return events, current, err
		}
		events = append(events, Event{Item: item, Deleted: deleted})
		size += len(key) + len(item.Value)
	}
	return events, place{rev: current.rev}, nil // revisions enter the log whole, so this one is read to its end
}
