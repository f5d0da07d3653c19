package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postern-proxy/postern/internal/observe"
)

// Bounds of one write to the disk. They keep the time that one batch takes below what a caller notices; what does not fit
// goes into the next.
const (
	batchCommits = 256
	batchBytes   = 8 << 20
	reapKeys     = 1024
)

// commit is one transaction on its way to the disk.
type commit struct {
	txn  Txn
	reap bool // instead of txn: remove expired keys
	done chan struct{}
	// Set before done is closed.
	rev Revision
	err error
}

func (c *commit) finish(rev Revision, err error) {
	c.rev, c.err = rev, err
	close(c.done)
}

func (c *commit) size() int {
	n := 0
	for _, op := range c.txn.Then {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// Commit implements Store.
func (b *Bolt) Commit(ctx context.Context, txn Txn) (Revision, error) {
	then, err := b.checkTxn(txn)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	rev, err := b.submit(ctx, &commit{txn: Txn{If: txn.If, Then: then}})
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return rev, nil
}

// checkTxn holds a transaction against the limits, and returns its operations in the order in which watchers see them.
func (b *Bolt) checkTxn(txn Txn) ([]Op, error) {
	if len(txn.Then) > MaxOps || len(txn.If) > MaxOps {
		return nil, fmt.Errorf("%d operations and %d conditions, at most %d each: %w", len(txn.Then), len(txn.If), MaxOps, ErrTooLarge)
	}
	for _, c := range txn.If {
		if err := b.checkKey(c.Key); err != nil {
			return nil, err
		}
	}
	then := slices.Clone(txn.Then)
	slices.SortStableFunc(then, func(x, y Op) int { return strings.Compare(x.Key, y.Key) })
	for i, op := range then {
		if err := b.checkKey(op.Key); err != nil {
			return nil, err
		}
		if len(op.Value) > MaxValue {
			return nil, fmt.Errorf("value of %d bytes for key %q, at most %d: %w", len(op.Value), op.Key, MaxValue, ErrTooLarge)
		}
		if op.TTL < 0 {
			return nil, fmt.Errorf("negative time to live %s for key %q", op.TTL, op.Key)
		}
		if i > 0 && then[i-1].Key == op.Key {
			return nil, fmt.Errorf("key %q stands in the transaction twice", op.Key)
		}
	}
	return then, nil
}

// submit queues c and sees it through. Whoever gets the turn writes what is queued, his own and others': while one waits for
// the disk, the next batch gathers.
func (b *Bolt) submit(ctx context.Context, c *commit) (Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	c.done = make(chan struct{})
	if err := b.enqueue(c); err != nil {
		return 0, err
	}
	stop := ctx.Done()
	for {
		select {
		case <-c.done:
			return c.rev, c.err
		case b.turn <- struct{}{}:
			select {
			case <-c.done: // by the one who had the turn before
			default:
				b.writeBatch(b.dequeue())
			}
			<-b.turn
		case <-stop:
			if b.withdraw(c) {
				return 0, ctx.Err()
			}
			stop = nil // being written: the outcome is what the disk says
		}
	}
}

func (b *Bolt) enqueue(c *commit) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if b.failed != nil {
		return b.failed
	}
	b.queue = append(b.queue, c)
	return nil
}

func (b *Bolt) withdraw(c *commit) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.queue, c)
	if i < 0 {
		return false
	}
	b.queue = slices.Delete(b.queue, i, i+1)
	return true
}

// dequeue takes the next batch, oldest first.
func (b *Bolt) dequeue() []*commit {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := 0, 0
	for n < len(b.queue) && n < batchCommits && (n == 0 || size+b.queue[n].size() <= batchBytes) {
		size += b.queue[n].size()
		n++
	}
	batch := slices.Clone(b.queue[:n])
	b.queue = slices.Delete(b.queue, 0, n)
	return batch
}

// writeBatch makes the commits of a batch durable and tells each its outcome. When a batch cannot be written, each commit is
// tried alone, so that a large one does not take small ones down on a disk that is nearly full.
func (b *Bolt) writeBatch(batch []*commit) {
	outcomes, err := b.write(batch)
	switch {
	case err == nil:
		for i, c := range batch {
			c.finish(outcomes[i].rev, outcomes[i].err)
		}
	case len(batch) > 1 && !errors.Is(err, ErrUncertain):
		for _, c := range batch {
			b.writeBatch([]*commit{c})
		}
	default:
		for _, c := range batch {
			c.finish(0, err)
		}
	}
}

type outcome struct {
	rev Revision
	err error // of this commit alone: a conflict
}

// errUnchanged rolls back a batch that changed nothing, so that it costs no write.
var errUnchanged = errors.New("nothing changed")

// write applies the batch in one transaction of the file. An error concerns the whole batch.
func (b *Bolt) write(batch []*commit) ([]outcome, error) {
	if err := b.failure(); err != nil {
		return nil, err
	}
	outcomes := make([]outcome, len(batch))
	var after state
	err := b.db.Update(func(tx *bbolt.Tx) error {
		w, err := b.newWriter(tx)
		if err != nil {
			return err
		}
		for i, c := range batch {
			outcomes[i], err = w.apply(c)
			if err != nil {
				return err
			}
		}
		if w.state == w.before {
			return errUnchanged
		}
		after, err = w.finish(b.opts)
		return err
	})
	if errors.Is(err, errUnchanged) {
		return outcomes, nil
	}
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return nil, ErrClosed
	}
	if err != nil {
		return nil, b.writeFailed(err)
	}
	b.publish(after.revision)
	return outcomes, nil
}

// writeFailed tells a write that left nothing behind from one whose outcome is open. The last step of bbolt is to write the page
// that makes the transaction current and to sync it. When that sync fails, the page is in memory and may or may not be on the
// disk, and no later sync can tell (the kernel reports a lost page once). So no further commit is taken: the next
// opening reads what the disk really has, which is a complete state either way.
func (b *Bolt) writeFailed(cause error) error {
	var now state
	err := b.view(func(tx *bbolt.Tx) (err error) { now, err = readState(tx); return err })
	if err == nil && uint64(now.revision) == b.durable.Load() {
		return fmt.Errorf("write: %w", cause)
	}
	failed := fmt.Errorf("%w: the store takes no commits until it is opened again: %w", ErrUncertain, cause)
	b.mu.Lock()
	b.failed = failed
	close(b.changed) // readers that wait for this commit go on
	b.changed = make(chan struct{})
	b.mu.Unlock()
	b.logger.Error("store takes no commits until it is opened again", slog.String(observe.KeyError, cause.Error()))
	return failed
}

// publish wakes readers and watchers: rev is on disk.
func (b *Bolt) publish(rev Revision) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.durable.Store(uint64(rev))
	close(b.changed)
	b.changed = make(chan struct{})
}

// writer applies commits to one transaction of the file.
type writer struct {
	tx            *bbolt.Tx
	now           time.Time
	before, state state
	next          uint16 // number of the next change within the revision
}

func (b *Bolt) newWriter(tx *bbolt.Tx) (*writer, error) {
	st, err := readState(tx)
	return &writer{tx: tx, now: b.clock(), before: st, state: st}, err
}

// apply makes one commit's changes, or none and a conflict as its outcome. Its error means that the file could not be changed.
func (w *writer) apply(c *commit) (outcome, error) {
	w.next = 0
	if c.reap {
		return w.reap()
	}
	if err := w.holds(c.txn.If); err != nil {
		var conflict *ConflictError
		if errors.As(err, &conflict) {
			return outcome{err: err}, nil
		}
		return outcome{}, err
	}
	rev := w.state.revision + 1
	for _, op := range c.txn.Then {
		if err := w.change(op, rev); err != nil {
			return outcome{}, err
		}
	}
	if w.next > 0 {
		w.state.revision = rev
	}
	return outcome{rev: w.state.revision}, nil
}

func (w *writer) holds(conditions []Condition) error {
	for _, c := range conditions {
		item, _, err := liveItem(w.tx, c.Key, w.now)
		if err != nil {
			return err
		}
		if item.Modified != c.Modified {
			return &ConflictError{Key: c.Key, Want: c.Modified, Have: item.Modified}
		}
	}
	return nil
}

func (w *writer) change(op Op, rev Revision) error {
	old, stored, err := storedItem(w.tx, op.Key)
	if err != nil {
		return err
	}
	live := stored && !expired(old, w.now)
	if op.Delete {
		if !live { // absent; an expired key is the reaper's
			return nil
		}
		return w.remove(old, rev)
	}
	item := Item{Key: op.Key, Value: op.Value, Created: rev, Modified: rev}
	if live {
		item.Created = old.Created
	}
	if op.TTL > 0 {
		item.Expires = w.now.Add(op.TTL)
	}
	return w.put(old, item)
}

// reap removes keys whose time has come, at one revision.
func (w *writer) reap() (outcome, error) {
	var due []Item
	cursor := w.tx.Bucket(bucketExpiry).Cursor()
	for k, _ := cursor.First(); k != nil && len(due) < reapKeys && !expiryTime(k).After(w.now); k, _ = cursor.Next() {
		item, found, err := storedItem(w.tx, string(k[8:]))
		if err != nil || !found {
			return outcome{}, errors.Join(fmt.Errorf("%w: the order of expiry names key %q", errDamaged, k[8:]), err)
		}
		due = append(due, item)
	}
	slices.SortFunc(due, func(x, y Item) int { return strings.Compare(x.Key, y.Key) })
	for _, item := range due {
		if err := w.remove(item, w.state.revision+1); err != nil {
			return outcome{}, err
		}
	}
	if len(due) > 0 {
		w.state.revision++
	}
	return outcome{rev: w.state.revision}, nil
}

func (w *writer) put(old, item Item) error {
	if err := w.unschedule(old); err != nil {
		return err
	}
	if !item.Expires.IsZero() {
		if err := w.tx.Bucket(bucketExpiry).Put(expiryKey(item), []byte{}); err != nil {
			return fmt.Errorf("put %q: %w", item.Key, err)
		}
	}
	if err := w.tx.Bucket(bucketItems).Put([]byte(item.Key), encodeRecord(item, false)); err != nil {
		return fmt.Errorf("put %q: %w", item.Key, err)
	}
	return w.log(Event{Item: item})
}

func (w *writer) remove(old Item, rev Revision) error {
	if err := w.unschedule(old); err != nil {
		return err
	}
	if err := w.tx.Bucket(bucketItems).Delete([]byte(old.Key)); err != nil {
		return fmt.Errorf("delete %q: %w", old.Key, err)
	}
	return w.log(Event{Item: Item{Key: old.Key, Modified: rev}, Deleted: true})
}

func (w *writer) unschedule(old Item) error {
	if old.Expires.IsZero() {
		return nil
	}
	if err := w.tx.Bucket(bucketExpiry).Delete(expiryKey(old)); err != nil {
		return fmt.Errorf("forget the expiry of %q: %w", old.Key, err)
	}
	return nil
}

func (w *writer) log(e Event) error {
	key, value := logKey(e.Item.Modified, w.next), encodeChange(e)
	if err := w.tx.Bucket(bucketLog).Put(key, value); err != nil {
		return fmt.Errorf("log the change of %q: %w", e.Item.Key, err)
	}
	w.next++
	w.state.logBytes += uint64(len(key) + len(value))
	return nil
}

// finish drops what the log need not keep any more and writes the state.
func (w *writer) finish(opts BoltOptions) (state, error) {
	if err := w.compact(Revision(opts.KeepRevisions), uint64(opts.KeepBytes)); err != nil {
		return state{}, err
	}
	if err := w.tx.Bucket(bucketState).Put(keyState, w.state.encode()); err != nil {
		return state{}, fmt.Errorf("write the state: %w", err)
	}
	return w.state, nil
}

// compact lets the log grow a tenth over its bounds and then cuts it down to them, so that most commits leave its old end alone.
// It always keeps the revision that was made last.
func (w *writer) compact(keep Revision, keepBytes uint64) error {
	if w.state.revision-w.state.compacted <= keep+keep/10 && w.state.logBytes <= keepBytes+keepBytes/10 {
		return nil
	}
	bucket := w.tx.Bucket(bucketLog)
	cursor := bucket.Cursor()
	var drop [][]byte
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		rev := logRevision(k)
		fits := w.state.revision-(rev-1) <= keep && w.state.logBytes <= keepBytes
		if rev > w.state.compacted && (fits || rev == w.state.revision) {
			break
		}
		w.state.compacted = rev
		w.state.logBytes -= uint64(len(k) + len(v))
		drop = append(drop, slices.Clone(k))
	}
	for _, k := range drop {
		if err := bucket.Delete(k); err != nil {
			return fmt.Errorf("compact the change log: %w", err)
		}
	}
	return nil
}
