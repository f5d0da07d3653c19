// Package store keeps the authority's live state: ordered keys, compare-and-set transactions, watches from a revision, and keys
// that expire.
//
// The interface is what bbolt on one machine and etcd on several can both promise. The engines are exchangeable: package
// storetest holds the behaviour they share, and every engine runs it unchanged. A commit that returned nil survives a crash of
// the process and of the machine; one that returned an error left nothing behind, unless that error is ErrUncertain.
//
// Keys that expire are absent from the moment their time has come: no read returns them and no condition sees them. Watchers
// hear of it when the engine removes them, a little later. Time is the wall clock, so a clock that is set back brings a key
// back that was not removed yet.
//
// The store knows nothing of what it keeps. History (issuances long expired, decisions, events) belongs to internal/audit; the
// changes that Watch replays are a bounded tail, there to bridge a restart or a slow reader.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Revision numbers the commits of a store without gaps. A new store is at 1, so its first commit makes 2. 0 means "never", or
// "now" where a call takes a start.
type Revision uint64

// Item is a key with its value at one revision.
type Item struct {
	Key     string
	Value   []byte // the caller's to keep and change
	Created Revision
	// Modified is the revision of the last change; a Condition compares it.
	Modified Revision
	// Expires is the wall-clock time at which the key goes away by itself; zero means never.
	Expires time.Time
}

// Page is one part of a listing: items in byte order of their keys, all as of Revision. Pages of one listing may be of different
// revisions: who wants to follow a listing watches from the revision of its first page, as All does.
type Page struct {
	Items    []Item
	Revision Revision
	More     bool // further keys follow the last one
}

// Txn is a set of changes that are made all or none. Every condition must hold; then every operation is applied at one revision.
// A key may stand in Then once. A transaction that changes nothing (no operations, or only deletions of absent keys) makes no
// revision.
type Txn struct {
	If   []Condition
	Then []Op
}

// Condition asks that a key's last change was at Modified; 0 asks that the key does not exist.
type Condition struct {
	Key      string
	Modified Revision
}

// Op puts a value, or deletes a key. Deleting an absent key is no error.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	// TTL, when positive, lets the key expire that long after the commit. A later put without TTL makes it permanent. A negative
	// one is an error, so that what should be over already never stays for good.
	TTL time.Duration
}

// Event is one change of one key.
type Event struct {
	Item    Item // of a deletion: the key, and Modified as the revision of the deletion
	Deleted bool // by a transaction or by expiry
}

// Errors that callers branch on.
var (
	// ErrNotFound: the key does not exist, or has expired.
	ErrNotFound = errors.New("key not found")
	// ErrConflict: a condition of the transaction did not hold; nothing was changed. The error is a *ConflictError.
	ErrConflict = errors.New("key was changed by another transaction")
	// ErrCompacted: the events from the asked revision on are no longer kept; list again and watch from the page's revision.
	ErrCompacted = errors.New("revision is no longer kept")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrTooLarge: a key, a value or a transaction over the limits below.
	ErrTooLarge = errors.New("too large for the store")
	// ErrUncertain: the engine cannot tell whether the transaction was made. Read the keys to learn it.
	ErrUncertain = errors.New("outcome of the commit is unknown")
)

// Limits that hold for every engine; etcd's defaults are the narrower side.
const (
	MaxKey   = 1 << 10 // bytes
	MaxValue = 1 << 20 // bytes
	MaxOps   = 128     // operations of one transaction, and its conditions
	MaxPage  = 1000    // items of one page
)

// ConflictError names the condition that did not hold.
type ConflictError struct {
	Key  string
	Want Revision
	Have Revision // 0 when the key does not exist
}

// Store is one engine. All methods may be called concurrently. Keys are compared as bytes.
type Store interface {
	// Get returns the item, or ErrNotFound.
	Get(ctx context.Context, key string) (Item, error)
	// List returns up to limit items whose key begins with prefix and is greater than after ("" for the start). A limit of 0, or
	// above MaxPage, means MaxPage. A page of large values may be shorter than asked; More says whether keys follow.
	List(ctx context.Context, prefix, after string, limit int) (Page, error)
	// Commit applies the transaction and returns its revision once it is durable; of a transaction that changed nothing, the
	// revision at which its conditions held. A context that ends while the transaction waits withdraws it; once it is being
	// written, Commit waits for the outcome.
	Commit(ctx context.Context, txn Txn) (Revision, error)
	// Watch yields, in order and without gaps, the changes to keys that begin with prefix made after revision from (so a
	// listing's revision continues that listing), and goes on until ctx ends (no error is yielded then), the store is closed
	// (ErrClosed) or the events are gone (ErrCompacted; also when from lies ahead of the store, which happens when an older copy
	// of it was put back). From 0 means what is committed after this call. The events of one revision follow each other, in
	// byte order of their keys. A slow consumer never blocks a commit.
	Watch(ctx context.Context, prefix string, from Revision) iter.Seq2[Event, error]
	// Revision returns that of the last commit.
	Revision(ctx context.Context) (Revision, error)
	// Close ends every watch and waits for the commit that is being written. Closing again does nothing.
	Close() error
}

// All returns every item whose key begins with prefix, in byte order, and the revision from which a watch continues the listing:
// what changed while it was read may stand in both.
func All(ctx context.Context, st Store, prefix string) ([]Item, Revision, error) {
	var (
		all   []Item
		from  Revision
		after string
	)
	for {
		page, err := st.List(ctx, prefix, after, 0)
		if err != nil {
			return nil, 0, err
		}
		if from == 0 {
			from = page.Revision
		}
		all = append(all, page.Items...)
		if !page.More || len(page.Items) == 0 {
			return all, from, nil
		}
		after = page.Items[len(page.Items)-1].Key
	}
}

// Error says which key was meant and at which revision it stands.
func (e *ConflictError) Error() string {
	if e.Want == 0 {
		return fmt.Sprintf("key %q exists already, as of revision %d", e.Key, e.Have)
	}
	if e.Have == 0 {
		return fmt.Sprintf("key %q does not exist any more", e.Key)
	}
	return fmt.Sprintf("key %q was changed by another transaction: at revision %d, not %d", e.Key, e.Have, e.Want)
}

// Unwrap makes errors.Is(err, ErrConflict) hold.
func (e *ConflictError) Unwrap() error { return ErrConflict }
