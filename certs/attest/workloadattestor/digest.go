package workloadattestor

import (
	"container/list"
	"context"
	"sync"
)

// fileKey names the contents of a file: another content has another size, modification or change time, or is another file. While a
// program is executed, the kernel lets nobody write to its file.
type fileKey struct {
	device, inode uint64
	size          int64
	modified      int64 // ns
	changed       int64 // ns
}

// digestCache remembers the digests of the executables seen last.
type digestCache struct {
	limit int

	mu     sync.Mutex
	known  map[fileKey]*list.Element
	recent *list.List // of digest, the last used first
}

type digest struct {
	key fileKey
	sum string
}

func newDigestCache(limit int) *digestCache {
	return &digestCache{limit: limit, known: make(map[fileKey]*list.Element), recent: list.New()}
}

func (c *digestCache) get(key fileKey) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.known[key]
	if !ok {
		return "", false
	}
	c.recent.MoveToFront(element)
	return element.Value.(digest).sum, true
}

func (c *digestCache) put(key fileKey, sum string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.known[key]; ok {
		c.recent.MoveToFront(element)
		return
	}
	c.known[key] = c.recent.PushFront(digest{key, sum})
	if c.recent.Len() > c.limit {
		oldest := c.recent.Remove(c.recent.Back()).(digest)
		delete(c.known, oldest.key)
	}
}

// readers bounds, for each user, the executables being read.
type readers struct {
	mu    sync.Mutex
	users map[uint32]*readerSlots
}

type readerSlots struct {
	free chan struct{} // holds a token for each reader
	uses int           // of this value: readers and those who wait
}

// enter waits until one more executable of the user may be read, or ctx ends. After nil, leave must follow.
func (r *readers) enter(ctx context.Context, uid uint32) error {
	r.mu.Lock()
	slots := r.users[uid]
	if slots == nil {
		slots = &readerSlots{free: make(chan struct{}, maxReaders)} // the capacity is the bound
		if r.users == nil {
			r.users = make(map[uint32]*readerSlots)
		}
		r.users[uid] = slots
	}
	slots.uses++
	r.mu.Unlock()
	select {
	case slots.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		r.release(uid)
		return context.Cause(ctx)
	}
}

func (r *readers) leave(uid uint32) {
	r.mu.Lock()
	slots := r.users[uid]
	r.mu.Unlock()
	<-slots.free
	r.release(uid)
}

func (r *readers) release(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[uid].uses--; r.users[uid].uses == 0 {
		delete(r.users, uid)
	}
}
