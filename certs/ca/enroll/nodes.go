package enroll

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
)

// Record is what the authority knows of a node.
type Record struct {
	ID         spiffeid.ID `json:"id"`
	Attestor   string      `json:"attestor"`
	AttestedAt time.Time   `json:"attested_at"`
	RenewedAt  time.Time   `json:"renewed_at,omitzero"`
	// Keys are those with which it may act: the one of its last SVID, and earlier ones whose SVIDs have not ended.
	Keys []NodeKey `json:"keys"`
	// NotAfter is when its last SVID ends.
	NotAfter time.Time `json:"not_after"`
}

// NodeKey is the hash of a public key, in the form of a revocation's value, and the end of its SVID.
type NodeKey struct {
	Hash     string    `json:"hash"`
	NotAfter time.Time `json:"not_after"`
}

// ErrNoNode: there is no record of the node.
var ErrNoNode = errors.New("node is not known")

// Nodes are the records of nodes in the store. A node without a record is not served. All methods may be called concurrently.
type Nodes struct {
	store store.Store
}

// NewNodes returns the records that are in the store.
func NewNodes(s store.Store) *Nodes { return &Nodes{store: s} }

const (
	recordPrefix = "node/"
	// maxNodeKeys bounds the keys of one node: a renewal every half of a life leaves two or three alive.
	maxNodeKeys = 8
)

// Get returns the record of a node, or ErrNoNode.
func (n *Nodes) Get(ctx context.Context, id spiffeid.ID) (Record, error) {
	record, _, err := n.get(ctx, id)
	return record, err
}

// Delete forgets a node: it can renew nothing and have nothing signed until it attests anew. The caller ends its connections.
func (n *Nodes) Delete(ctx context.Context, id spiffeid.ID) error {
	_, item, err := n.get(ctx, id)
	if err != nil {
		return err
	}
	_, err = n.store.Commit(ctx, store.Txn{Then: []store.Op{{Key: item.Key, Delete: true}}})
	if err != nil {
		return fmt.Errorf("delete node %q: %w", id.String(), err)
	}
	return nil
}

// authorize returns an error unless the calling node is known and may act with the key of its connection.
func (n *Nodes) authorize(ctx context.Context, node Node) error {
	record, err := n.Get(ctx, node.ID)
	if err != nil {
		return err
	}
	return record.allows(node)
}

// allows returns an error unless the key of the node's connection is one of the record's.
func (r Record) allows(node Node) error {
	hash := revocation.KeyString(node.Chain[0])
	if !slices.ContainsFunc(r.Keys, func(k NodeKey) bool { return k.Hash == hash }) {
		return fmt.Errorf("node %q: the key was replaced by a later attestation", node.ID.String())
	}
	return nil
}

// attested writes the record of a node that has just attested. Keys of an earlier attestation end here.
func (n *Nodes) attested(ctx context.Context, id spiffeid.ID, attestor string, leaf *x509.Certificate, now time.Time) error {
	_, item, err := n.get(ctx, id)
	if err != nil && !errors.Is(err, ErrNoNode) {
		return err
	}
	record := Record{
		ID: id, Attestor: attestor, AttestedAt: now.UTC(), NotAfter: leaf.NotAfter,
		Keys: []NodeKey{{revocation.KeyString(leaf), leaf.NotAfter}},
	}
	return n.put(ctx, record, item.Modified)
}

// addKey adds the key of a new SVID, or moves it up when it is there already. Of too many keys the oldest goes, but never the caller's:
// a node that cannot keep what it is given must not lose the one that it has.
func (r *Record) addKey(key NodeKey, caller string, now time.Time) {
	r.Keys = slices.DeleteFunc(r.Keys, func(k NodeKey) bool { return k.Hash == key.Hash || now.After(k.NotAfter) })
	for len(r.Keys) >= maxNodeKeys {
		oldest := slices.IndexFunc(r.Keys, func(k NodeKey) bool { return k.Hash != caller })
		oldest = max(oldest, 0) // none: the record has the caller's key several times
		r.Keys = slices.Delete(r.Keys, oldest, oldest+1)
	}
	r.Keys = append(r.Keys, key)
}

// renewed adds the key of a renewed SVID, and drops those whose SVIDs have ended. It fails when the record went away meanwhile.
func (n *Nodes) renewed(ctx context.Context, node Node, leaf *x509.Certificate, now time.Time) error {
	record, item, err := n.get(ctx, node.ID)
	if err != nil {
		return err
	}
	if err := record.allows(node); err != nil {
		return err
	}
	record.addKey(NodeKey{revocation.KeyString(leaf), leaf.NotAfter}, revocation.KeyString(node.Chain[0]), now)
	record.RenewedAt, record.NotAfter = now.UTC(), leaf.NotAfter
	return n.put(ctx, record, item.Modified)
}

func (n *Nodes) put(ctx context.Context, record Record, modified store.Revision) error {
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode node %q: %w", record.ID.String(), err)
	}
	key := recordKey(record.ID)
	_, err = n.store.Commit(ctx, store.Txn{
		If:   []store.Condition{{Key: key, Modified: modified}},
		Then: []store.Op{{Key: key, Value: value}},
	})
	if err != nil {
		return fmt.Errorf("record node %q: %w", record.ID.String(), err)
	}
	return nil
}

func (n *Nodes) get(ctx context.Context, id spiffeid.ID) (Record, store.Item, error) {
	item, err := n.store.Get(ctx, recordKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return Record{}, store.Item{}, fmt.Errorf("node %q: %w", id.String(), ErrNoNode)
	}
	if err != nil {
		return Record{}, store.Item{}, fmt.Errorf("read node %q: %w", id.String(), err)
	}
	record, err := decodeRecord(item)
	return record, item, err
}

func decodeRecord(item store.Item) (Record, error) {
	var record Record
	if err := json.Unmarshal(item.Value, &record); err != nil {
		return Record{}, fmt.Errorf("decode %q: %w", item.Key, err)
	}
	return record, nil
}

// recordKey is where the record of a node is kept. An ID that is no node's has a key that no node has.
func recordKey(id spiffeid.ID) string {
	name, ok := NodeName(id)
	if !ok {
		return recordPrefix + "/" + id.Path()
	}
	return recordPrefix + name
}
