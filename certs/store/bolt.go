package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postern-proxy/postern/internal/observe"
)

// Bolt is the engine of one machine: one file, one process. Commits that arrive together share one transaction of the file and
// so one wait for the disk.
//
// The file has four buckets: the items; the order in which they expire; the log of the latest changes, which watches read; and
// the state, with the revision. Each record carries a checksum.
type Bolt struct {
	db     *bbolt.DB
	clock  func() time.Time
	logger *slog.Logger
	opts   BoltOptions

	turn    chan struct{} // held by the one who writes the queued commits
	closing chan struct{} // closed by Close
	durable atomic.Uint64 // the last revision known to be on disk

	mu      sync.Mutex
	queue   []*commit
	changed chan struct{} // closed and replaced whenever durable moves
	failed  error         // why no commit is taken any more
	closed  bool
}

// BoltOptions are the terms on which a store is opened. The zero value is right for production.
type BoltOptions struct {
	// Clock tells the wall-clock time by which keys expire; nil means time.Now.
	Clock func() time.Time
	// Logger is told of what an operator should know; nil means nobody is.
	Logger *slog.Logger
	// LockTimeout is how long to wait while another process has the store open; 0 means 2 s.
	LockTimeout time.Duration
	// KeepRevisions is how many of the latest revisions Watch can replay; 0 means 10,000.
	KeepRevisions int
	// KeepBytes bounds the log of changes in bytes; 0 means 64 MiB.
	KeepBytes int64
	// ReapInterval is how often Run removes expired keys; 0 means 1 s.
	ReapInterval time.Duration
}

// ErrLocked says that another process has the store open.
var ErrLocked = errors.New("another process has it open")

// pageBytes bounds the values of one page, and of one step of a watch, so that a listing of large values does not fill the memory.
const pageBytes = 8 << 20

// OpenBolt opens the store at path, or makes it when nothing is there; the folder is made too, for its owner only. It refuses a
// file that is not a whole store, that others may read, or that lies where others may replace it; it never writes to such a
// file. The error is ErrLocked while another process has the store open.
func OpenBolt(path string, opts BoltOptions) (*Bolt, error) {
	opts = opts.withDefaults()
	if err := ensureBoltFile(path, opts); err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, boltOptions(opts, false))
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, openError(err))
	}
	b := &Bolt{
		db:      db,
		clock:   opts.Clock,
		logger:  opts.Logger,
		opts:    opts,
		turn:    make(chan struct{}, 1), // a buffer of one makes it a lock that a select can wait for
		closing: make(chan struct{}),
		changed: make(chan struct{}),
	}
	var st state
	if err := b.view(func(tx *bbolt.Tx) error { st, err = readState(tx); return err }); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %q: %w", path, err), db.Close())
	}
	b.durable.Store(uint64(st.revision))
	return b, nil
}

func (o BoltOptions) withDefaults() BoltOptions {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = 2 * time.Second
	}
	if o.KeepRevisions <= 0 {
		o.KeepRevisions = 10_000
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = 64 << 20
	}
	if o.ReapInterval <= 0 {
		o.ReapInterval = time.Second
	}
	return o
}

// Run removes expired keys until ctx ends, and then returns nil. Without it they are absent all the same, but take room and no
// watcher hears of them.
func (b *Bolt) Run(ctx context.Context) error {
	tick := time.NewTicker(b.opts.ReapInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.closing:
			return nil
		case <-tick.C:
		}
		err := b.reap(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			b.logger.LogAttrs(ctx, slog.LevelWarn, "expired keys cannot be removed", slog.String(observe.KeyError, err.Error()))
		}
		failing = err != nil
	}
}

// reap removes what has expired by now, in as many commits as it takes.
func (b *Bolt) reap(ctx context.Context) error {
	for {
		due := false
		err := b.view(func(tx *bbolt.Tx) error {
			first, _ := tx.Bucket(bucketExpiry).Cursor().First()
			due = first != nil && !expiryTime(first).After(b.clock())
			return nil
		})
		if err != nil || !due {
			return err
		}
		if _, err := b.submit(ctx, &commit{reap: true}); err != nil {
			return err
		}
	}
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, key string) (Item, error) {
	var (
		item  Item
		found bool
	)
	if err := b.checkKey(key); err != nil {
		return Item{}, fmt.Errorf("get %q: %w", key, err)
	}
	err := b.read(ctx, func(tx *bbolt.Tx) (err error) {
		item, found, err = liveItem(tx, key, b.clock())
		return err
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return Item{}, fmt.Errorf("get %q: %w", key, err)
	}
	return item, nil
}

// List implements Store.
func (b *Bolt) List(ctx context.Context, prefix, after string, limit int) (Page, error) {
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	var page Page
	err := b.read(ctx, func(tx *bbolt.Tx) (err error) {
		page, err = listPage(tx, prefix, after, limit, b.clock())
		return err
	})
	if err != nil {
		return Page{}, fmt.Errorf("list %q: %w", prefix, err)
	}
	return page, nil
}

func listPage(tx *bbolt.Tx, prefix, after string, limit int, now time.Time) (Page, error) {
	st, err := readState(tx)
	if err != nil {
		return Page{}, err
	}
	page := Page{Revision: st.revision}
	size := 0
	cursor := tx.Bucket(bucketItems).Cursor()
	for k, v := cursor.Seek([]byte(max(prefix, after))); k != nil; k, v = cursor.Next() {
		key := string(k)
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if after != "" && key <= after {
			continue
		}
		item, _, err := decodeRecord(key, v)
		if err != nil {
			return Page{}, err
		}
		if expired(item, now) {
			continue
		}
		if len(page.Items) == limit || size > pageBytes {
			page.More = true
			break
		}
		page.Items = append(page.Items, item)
		size += len(key) + len(item.Value)
	}
	return page, nil
}

// Revision implements Store.
func (b *Bolt) Revision(context.Context) (Revision, error) {
	if b.isClosed() {
		return 0, ErrClosed
	}
	return Revision(b.durable.Load()), nil
}

// Close implements Store.
func (b *Bolt) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	waiting := b.queue
	b.queue = nil
	close(b.closing)
	b.mu.Unlock()

	for _, c := range waiting {
		c.finish(0, ErrClosed)
	}
	b.turn <- struct{}{} // the commit being written ends first
	defer func() { <-b.turn }()
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

func (b *Bolt) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// read runs fn in a view that holds durable commits only. bbolt shows a commit a moment before it is on disk; a reader that
// saw one waits for the disk, and for an answer that still holds after a power cut.
func (b *Bolt) read(ctx context.Context, fn func(*bbolt.Tx) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		settled := b.nextChange()
		var seen state
		err := b.view(func(tx *bbolt.Tx) (err error) {
			if seen, err = readState(tx); err != nil {
				return err
			}
			return fn(tx)
		})
		if err != nil || uint64(seen.revision) <= b.durable.Load() || b.failure() != nil {
			return err
		}
		select {
		case <-settled:
		case <-b.closing:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Bolt) view(fn func(*bbolt.Tx) error) error { return view(b.db, fn) }

// view runs fn in a read transaction. A page that cannot be read (the disk fails beneath the memory map, or what it says makes
// no sense to bbolt) is an error here and does not end the process.
func view(db *bbolt.DB, fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %v", errDamaged, cause)
		}
	}()
	err = db.View(fn)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// nextChange returns a channel that is closed when the next revision is durable, or when commits have failed for good.
func (b *Bolt) nextChange() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *Bolt) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

func (b *Bolt) checkKey(key string) error {
	if key == "" {
		return errors.New("empty key")
	}
	if len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes, at most %d: %w", len(key), MaxKey, ErrTooLarge)
	}
	return nil
}
