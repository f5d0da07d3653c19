package adsserver

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Table holds the current resources of one type. All methods may be called concurrently. Its generation grows by one with every
// resource that changes.
type Table struct {
	typeURL       string
	maxTombstones int
	wake          func(...Audience) // tells the streams that may see a change; called without the lock

	mu         sync.RWMutex
	generation uint64
	live       map[string]*record
	changes    *list.List // of live records, oldest change first: each name stands in it once
	gone       map[removal]*list.Element
	tombstones *list.List // of records without content, oldest removal first
	forgotten  uint64     // the generation up to which removals are no longer known
	buried     int        // removals since every stream was woken
}

// Resource is what Replace sets under a name.
type Resource struct {
	Message  proto.Message
	Audience Audience
}

// record is one resource as it last changed, or the fact that it went away. It is immutable, so that streams may use it after
// the table's lock was released.
type record struct {
	name       string
	audience   Audience
	version    string // empty: it is gone
	wire       []byte // the resource as a field of DeltaDiscoveryResponse, tag and length included
	generation uint64
	at         time.Time
	element    *list.Element
}

// removal is a name that went away for an audience.
type removal struct {
	name     string
	audience Audience
}

const (
	// maxName bounds the bytes of a resource's name; a SPIFFE ID has up to 2,048.
	maxName = 2048
	// defaultTombstones is how many removals a table remembers for streams that lag. A stream behind that starts over.
	defaultTombstones = 32768
	// resourcesField is the number of DeltaDiscoveryResponse.resources.
	resourcesField = 2
)

func newTable(typeURL string, wake func(...Audience)) *Table {
	return &Table{
		typeURL: typeURL, maxTombstones: defaultTombstones, wake: wake,
		live: map[string]*record{}, changes: list.New(), gone: map[removal]*list.Element{}, tombstones: list.New(),
	}
}

// Set makes message the resource of this name for this audience, and returns the table's generation. Setting what is there
// already changes nothing. The message is encoded before Set returns and not kept.
func (t *Table) Set(name string, message proto.Message, audience Audience) (uint64, error) {
	next, err := t.encode(name, Resource{message, audience})
	if err != nil {
		return t.Generation(), err
	}
	t.mu.Lock()
	woken := t.put(next, nil)
	generation := t.generation
	t.mu.Unlock()
	t.notify(woken)
	return generation, nil
}

// Delete takes the resource away, and returns the table's generation. Deleting an absent name changes nothing.
func (t *Table) Delete(name string) uint64 {
	t.mu.Lock()
	var woken []Audience
	if old := t.live[name]; old != nil {
		woken = t.bury(old, nil)
	}
	generation := t.generation
	t.mu.Unlock()
	t.notify(woken)
	return generation
}

// Replace makes resources the whole content of the table, and returns its generation. Resources that stay as they are do not
// count as changed. On an error nothing has changed.
func (t *Table) Replace(resources map[string]Resource) (uint64, error) {
	next := make([]*record, 0, len(resources))
	for name, resource := range resources {
		encoded, err := t.encode(name, resource)
		if err != nil {
			return t.Generation(), err
		}
		next = append(next, encoded)
	}
	t.mu.Lock()
	var woken []Audience
	for name, old := range t.live {
		if _, stays := resources[name]; !stays {
			woken = t.bury(old, woken)
		}
	}
	for _, encoded := range next {
		woken = t.put(encoded, woken)
	}
	generation := t.generation
	t.mu.Unlock()
	t.notify(woken)
	return generation, nil
}

// Generation is the number of changes so far.
func (t *Table) Generation() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.generation
}

// Len is the number of resources.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.live)
}

// encode makes the record that put links into the table. The version is a hash of the content, so that two replicas with the
// same state have the same versions and a client that moves from one to the other is sent nothing.
func (t *Table) encode(name string, resource Resource) (*record, error) {
	if name == "" || name == wildcard || len(name) > maxName {
		return nil, fmt.Errorf("set resource of type %q: invalid name %q", t.typeURL, name)
	}
	content := &anypb.Any{}
	if err := anypb.MarshalFrom(content, resource.Message, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("encode resource %q: %w", name, err)
	}
	if content.GetTypeUrl() != t.typeURL {
		return nil, fmt.Errorf("set resource %q: its type is %q, the table's is %q", name, content.GetTypeUrl(), t.typeURL)
	}
	hash := sha256.Sum256(content.GetValue())
	version := hex.EncodeToString(hash[:8])
	encoded, err := proto.Marshal(&discovery.Resource{Name: name, Version: version, Resource: content})
	if err != nil {
		return nil, fmt.Errorf("encode resource %q: %w", name, err)
	}
	wire := make([]byte, 0, len(encoded)+protowire.SizeTag(resourcesField)+protowire.SizeVarint(uint64(len(encoded))))
	wire = protowire.AppendBytes(protowire.AppendTag(wire, resourcesField, protowire.BytesType), encoded)
	return &record{name: name, audience: resource.Audience, version: version, wire: wire}, nil
}

// put links next in as the newest change and appends the audiences to wake. The lock is held.
func (t *Table) put(next *record, woken []Audience) []Audience {
	old := t.live[next.name]
	if old != nil && old.version == next.version && old.audience == next.audience {
		return woken
	}
	if old != nil && old.audience != next.audience {
		woken = t.bury(old, woken)
	} else if old != nil {
		t.changes.Remove(old.element)
	}
	if element := t.gone[removal{next.name, next.audience}]; element != nil {
		t.exhume(element)
	}
	t.generation++
	next.generation, next.at = t.generation, time.Now()
	next.element = t.changes.PushBack(next)
	t.live[next.name] = next
	return append(woken, next.audience)
}

// bury replaces a live record by a tombstone for those who could see it. The lock is held.
func (t *Table) bury(old *record, woken []Audience) []Audience {
	t.changes.Remove(old.element)
	delete(t.live, old.name)
	t.generation++
	stone := &record{name: old.name, audience: old.audience, generation: t.generation, at: time.Now()}
	t.gone[removal{stone.name, stone.audience}] = t.tombstones.PushBack(stone)
	woken = append(woken, old.audience)
	// Streams that had nothing to see of late are woken now and then, so that only those that wait for their client fall behind.
	if t.buried++; t.buried >= t.maxTombstones/10 {
		t.buried = 0
		woken = append(woken, Everyone())
	}
	if t.tombstones.Len() > t.maxTombstones {
		oldest := t.tombstones.Front()
		t.forgotten = oldest.Value.(*record).generation
		t.exhume(oldest)
	}
	return woken
}

// exhume takes a tombstone away. The lock is held.
func (t *Table) exhume(element *list.Element) {
	stone := t.tombstones.Remove(element).(*record)
	delete(t.gone, removal{stone.name, stone.audience})
}

func (t *Table) notify(audiences []Audience) {
	if len(audiences) > 0 {
		t.wake(audiences...)
	}
}

// after returns the oldest element of a list of records whose generation is greater than the cursor, or nil. It walks back from the newest, so
// it costs as much as there is to send. The lock is held.
func after(records *list.List, cursor uint64) *list.Element {
	if cursor == 0 {
		return records.Front()
	}
	var found *list.Element
	for e := records.Back(); e != nil && e.Value.(*record).generation > cursor; e = e.Prev() {
		found = e
	}
	return found
}
