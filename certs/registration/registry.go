package registration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
)

// EventSink records events durably; *audit.Log is one.
type EventSink interface {
	Append(ctx context.Context, event audit.Event) (uint64, error)
}

// Registry is the entries of one trust domain, kept in a store. Its methods may be called concurrently, and by several processes on
// one store.
type Registry struct {
	td     spiffeid.TrustDomain
	st     store.Store
	events EventSink
	clock  func() time.Time
}

// Errors that callers branch on, besides *InvalidError.
var (
	// ErrNotFound: there is no entry with this id.
	ErrNotFound = errors.New("no such entry")
	// ErrExists: another entry has the same node, SPIFFE ID and selectors. The error is an *ExistsError.
	ErrExists = errors.New("entry exists already")
	// ErrConflict: the entry is not at the revision that the update named.
	ErrConflict = errors.New("entry was changed meanwhile")
	// ErrUnrecorded: the change was made and is durable, but the event of it could not be recorded.
	ErrUnrecorded = errors.New("change was made, but not recorded")
)

// ExistsError names the entry that stands in the way.
type ExistsError struct{ ID string }

// Error names the existing entry.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("entry %q has this node, SPIFFE ID and selectors already", e.ID)
}

// Unwrap makes errors.Is(err, ErrExists) hold.
func (e *ExistsError) Unwrap() error { return ErrExists }

// Keys in the store: the entries, and for each the digest of what must be unique, which leads to its id.
const (
	entryPrefix  = "entry/"
	uniquePrefix = "entry-unique/"
)

// New returns the registry of a trust domain over a store. A nil clock means time.Now.
func New(td spiffeid.TrustDomain, st store.Store, events EventSink, clock func() time.Time) *Registry {
	if clock == nil {
		clock = time.Now
	}
	return &Registry{td: td, st: st, events: events, clock: clock}
}

// Create registers an entry and returns it with ID, Created and Revision set, and its selectors sorted. The errors are *InvalidError,
// *ExistsError, ErrUnrecorded (then with the entry) and those of the store.
func (r *Registry) Create(ctx context.Context, e Entry, actor string) (Entry, error) {
	e = normal(e)
	if err := e.Validate(r.td); err != nil {
		return Entry{}, fmt.Errorf("create entry: %w", err)
	}
	e.ID = strings.ToLower(rand.Text())
	e.Created = r.clock().UTC()
	value, err := encode(e)
	if err != nil {
		return Entry{}, fmt.Errorf("create entry: %w", err)
	}
	rev, err := r.st.Commit(ctx, store.Txn{
		If:   []store.Condition{{Key: entryPrefix + e.ID}, {Key: uniqueKey(e)}},
		Then: []store.Op{{Key: entryPrefix + e.ID, Value: value}, {Key: uniqueKey(e), Value: []byte(e.ID)}},
	})
	if err != nil {
		return Entry{}, fmt.Errorf("create entry: %w", r.explain(ctx, err))
	}
	e.Revision = rev
	return e, r.record(ctx, audit.EntryCreated, e, actor)
}

// Get returns an entry, or ErrNotFound.
func (r *Registry) Get(ctx context.Context, id string) (Entry, error) {
	item, err := r.st.Get(ctx, entryPrefix+id)
	if errors.Is(err, store.ErrNotFound) || id == "" {
		return Entry{}, fmt.Errorf("get entry %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("get entry %q: %w", id, err)
	}
	e, err := decode(item)
	if err != nil {
		return Entry{}, fmt.Errorf("get entry %q: %w", id, err)
	}
	return e, nil
}

// Update replaces an entry, found by its ID, if it is still at e.Revision. Created and Origin stay. The errors are those of Create,
// ErrNotFound and ErrConflict.
func (r *Registry) Update(ctx context.Context, e Entry, actor string) (Entry, error) {
	old, err := r.Get(ctx, e.ID)
	if err != nil {
		return Entry{}, fmt.Errorf("update: %w", err)
	}
	e = normal(e)
	e.Created, e.Origin = old.Created, old.Origin
	if err := e.Validate(r.td); err != nil {
		return Entry{}, fmt.Errorf("update entry %q: %w", e.ID, err)
	}
	if e.Revision != old.Revision {
		return Entry{}, fmt.Errorf("update entry %q: %w: it is at revision %d, not %d", e.ID, ErrConflict, old.Revision, e.Revision)
	}
	value, err := encode(e)
	if err != nil {
		return Entry{}, fmt.Errorf("update entry %q: %w", e.ID, err)
	}
	txn := store.Txn{
		If:   []store.Condition{{Key: entryPrefix + e.ID, Modified: old.Revision}},
		Then: []store.Op{{Key: entryPrefix + e.ID, Value: value}},
	}
	if now, before := uniqueKey(e), uniqueKey(old); now != before {
		txn.If = append(txn.If, store.Condition{Key: now})
		txn.Then = append(txn.Then, store.Op{Key: now, Value: []byte(e.ID)}, store.Op{Key: before, Delete: true})
	}
	if e.Revision, err = r.st.Commit(ctx, txn); err != nil {
		return Entry{}, fmt.Errorf("update entry %q: %w", e.ID, r.explain(ctx, err))
	}
	return e, r.record(ctx, audit.EntryUpdated, e, actor)
}

// Delete removes an entry, whatever its revision, and returns what it was. The errors are ErrNotFound, ErrUnrecorded (then with the
// entry) and those of the store.
func (r *Registry) Delete(ctx context.Context, id, actor string) (Entry, error) {
	for {
		e, err := r.Get(ctx, id)
		if err != nil {
			return Entry{}, fmt.Errorf("delete: %w", err)
		}
		_, err = r.st.Commit(ctx, store.Txn{
			If:   []store.Condition{{Key: entryPrefix + id, Modified: e.Revision}},
			Then: []store.Op{{Key: entryPrefix + id, Delete: true}, {Key: uniqueKey(e), Delete: true}},
		})
		if errors.Is(err, store.ErrConflict) {
			continue // updated in between; each round another caller made progress, and ctx bounds the wait
		}
		if err != nil {
			return Entry{}, fmt.Errorf("delete entry %q: %w", id, err)
		}
		return e, r.record(ctx, audit.EntryDeleted, e, actor)
	}
}

// explain says in the registry's words what a conflict means.
func (r *Registry) explain(ctx context.Context, err error) error {
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	if strings.HasPrefix(conflict.Key, uniquePrefix) {
		item, getErr := r.st.Get(ctx, conflict.Key)
		if getErr != nil { // the other entry went away meanwhile, or cannot be read
			return errors.Join(ErrConflict, getErr)
		}
		return &ExistsError{ID: string(item.Value)}
	}
	if conflict.Have == 0 {
		return ErrNotFound
	}
	return fmt.Errorf("%w: %w", ErrConflict, err)
}

// record writes the event of a change that is durable already. The order is chosen so that the log never tells of a change that was not
// made; the caller learns when it misses one.
func (r *Registry) record(ctx context.Context, kind string, e Entry, actor string) error {
	detail := map[string]string{"spiffe_id": e.SPIFFEID, "selectors": strings.Join(e.Selectors, " ")}
	for name, value := range map[string]string{"node": e.Node, "owner": e.Owner, "purpose": e.Purpose} {
		if value != "" {
			detail[name] = value
		}
	}
	// The caller may be gone; that its change is recorded does not depend on it.
	_, err := r.events.Append(context.WithoutCancel(ctx), audit.Event{Type: kind, Actor: actor, Target: e.ID, Detail: detail})
	if err != nil {
		return fmt.Errorf("entry %q: %w: %w", e.ID, ErrUnrecorded, err)
	}
	return nil
}

// normal returns the entry with selectors and names sorted and each once, in slices of its own.
func normal(e Entry) Entry {
	e.Selectors = sorted(e.Selectors)
	e.DNSNames = sorted(e.DNSNames)
	return e
}

func sorted(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// uniqueKey is a digest, since the parts are longer than a key may be. Each part ends with a byte that none can hold.
func uniqueKey(e Entry) string {
	parts := append([]string{e.Node, e.SPIFFEID}, e.Selectors...)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return uniquePrefix + hex.EncodeToString(sum[:])
}

// encode leaves out the revision: it is the store's to tell.
func encode(e Entry) ([]byte, error) {
	e.Revision = 0
	return json.Marshal(e)
}

func decode(item store.Item) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(item.Value, &e); err != nil {
		return Entry{}, fmt.Errorf("decode %q: %w", item.Key, err)
	}
	e.Revision = item.Modified
	return e, nil
}
