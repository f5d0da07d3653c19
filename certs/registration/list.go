package registration

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/postern-proxy/postern/certs/store"
)

// Query says which entries to list. The zero value means all, from the first.
type Query struct {
	SPIFFEID string // as it stands in the entry, so a template is found by its text
	Owner    string
	Node     string
	Origin   string
	OwnNode  bool   // only those without a node
	After    string // Next of the page before
	Limit    int    // 0, or above store.MaxPage, means store.MaxPage
}

// Page is one part of a listing, in order of ids.
type Page struct {
	Entries []Entry
	Next    string // After of the next page; empty when there is none
}

// List returns a page of the entries that fit the query.
func (r *Registry) List(ctx context.Context, q Query) (Page, error) {
	if q.Limit <= 0 || q.Limit > store.MaxPage {
		q.Limit = store.MaxPage
	}
	var page Page
	after := ""
	if q.After != "" {
		after = entryPrefix + q.After
	}
	for {
		items, err := r.st.List(ctx, entryPrefix, after, 0)
		if err != nil {
			return Page{}, fmt.Errorf("list entries: %w", err)
		}
		for _, item := range items.Items {
			e, err := decode(item)
			if err != nil {
				return Page{}, fmt.Errorf("list entries: %w", err)
			}
			after = item.Key
			if !q.fits(e) {
				continue
			}
			if len(page.Entries) == q.Limit { // one more than fits: there is a next page
				page.Next = page.Entries[q.Limit-1].ID
				return page, nil
			}
			page.Entries = append(page.Entries, e)
		}
		if !items.More {
			return page, nil
		}
	}
}

func (q Query) fits(e Entry) bool {
	return (q.SPIFFEID == "" || q.SPIFFEID == e.SPIFFEID) &&
		(q.Owner == "" || q.Owner == e.Owner) &&
		(q.Node == "" || q.Node == e.Node) &&
		(q.Origin == "" || q.Origin == e.Origin) &&
		(!q.OwnNode || e.Node == "")
}

// Change is one step in the life of the set of entries.
type Change struct {
	// Reset says that Entries is everything there is: whatever was known before is forgotten.
	Reset   bool
	Entries []Entry // new, or changed
	Deleted []string
	// Revision is what Watch continues from.
	Revision store.Revision
}

// Watch yields the changes made after revision from, until ctx ends or an error is yielded. From 0 it begins with a Reset that holds
// every entry. It also yields a Reset when the changes it should yield next are no longer kept, so a consumer that falls behind
// by any amount ends with the right set.
func (r *Registry) Watch(ctx context.Context, from store.Revision) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for {
			if from == 0 {
				all, err := r.all(ctx)
				if err != nil {
					if ctx.Err() == nil {
						yield(Change{}, fmt.Errorf("watch entries: %w", err))
					}
					return
				}
				if !yield(all, nil) {
					return
				}
				from = all.Revision
			}
			if !r.follow(ctx, from, yield) {
				return
			}
			from = 0
		}
	}
}

// follow yields changes until they are no longer kept, and says whether that was the reason to stop.
func (r *Registry) follow(ctx context.Context, from store.Revision, yield func(Change, error) bool) (compacted bool) {
	for event, err := range r.st.Watch(ctx, entryPrefix, from) {
		if errors.Is(err, store.ErrCompacted) {
			return true
		}
		var change Change
		if err == nil {
			change, err = changeOf(event)
		}
		if err != nil {
			yield(Change{}, fmt.Errorf("watch entries: %w", err))
			return false
		}
		if !yield(change, nil) {
			return false
		}
	}
	return false
}

func changeOf(event store.Event) (Change, error) {
	change := Change{Revision: event.Item.Modified}
	if event.Deleted {
		change.Deleted = []string{strings.TrimPrefix(event.Item.Key, entryPrefix)}
		return change, nil
	}
	e, err := decode(event.Item)
	change.Entries = []Entry{e}
	return change, err
}

func (r *Registry) all(ctx context.Context) (Change, error) {
	items, rev, err := store.All(ctx, r.st, entryPrefix)
	if err != nil {
		return Change{}, err
	}
	all := Change{Reset: true, Entries: make([]Entry, 0, len(items)), Revision: rev}
	for _, item := range items {
		e, err := decode(item)
		if err != nil {
			return Change{}, err
		}
		all.Entries = append(all.Entries, e)
	}
	return all, nil
}
