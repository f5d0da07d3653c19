package registry

import (
	"sync"
	"sync/atomic"

	"github.com/postern-proxy/postern/internal/observe"
)

// Entry is one registered connection. Safe for concurrent use.
type Entry struct {
	id       uint64
	registry *Registry
	conn     Conn
	draining atomic.Bool

	mu      sync.Mutex
	ended   bool           // guarded by mu: closed by the registry or removed
	drained bool           // guarded by mu
	reason  observe.Reason // guarded by mu

	// Of the expiry queue, guarded by its mutex.
	slot int // place in the heap, -1 outside
	due  due
}

// ID is the connection's number, never used twice in a process.
func (e *Entry) ID() uint64 { return e.id }

// Add makes the connection known. It is called once, and every Add wants one Remove.
func (e *Entry) Add() {
	e.mu.Lock() // it is found as soon as its first key is in; ending it waits until all are
	defer e.mu.Unlock()
	for _, key := range e.keys() {
		e.registry.shard(key).add(key, e)
	}
	e.registry.counts[e.conn.Direction].Add(1)
	if !e.conn.NotAfter.IsZero() {
		e.registry.expiry.add(e, e.registry.options.Now())
	}
}

// Draining reports that the connection should end after what it is doing now.
func (e *Entry) Draining() bool { return e.draining.Load() }

// Reason is why the registry closed the connection or, if it did not, asked it to drain; zero for neither.
func (e *Entry) Reason() observe.Reason {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reason
}

// Drain asks the connection to end at the next convenient moment. Later calls do nothing.
func (e *Entry) Drain(reason observe.Reason) {
	e.mu.Lock()
	if e.ended || e.drained {
		e.mu.Unlock()
		return
	}
	e.drained = true
	e.reason = reason
	e.mu.Unlock()
	e.draining.Store(true)
	if e.conn.Drain != nil {
		e.conn.Drain(reason)
	}
}

// Close ends the connection and reports whether this call did it.
func (e *Entry) Close(reason observe.Reason) bool {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return false
	}
	e.ended = true
	e.reason = reason
	e.mu.Unlock()
	e.draining.Store(true)
	e.unlink()
	if e.conn.Close != nil {
		e.conn.Close(reason)
	}
	e.registry.options.Closed(e.conn.Direction, reason)
	return true
}

// Remove takes the connection out, because its owner has closed it. The registry calls none of its functions afterwards.
func (e *Entry) Remove() {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return
	}
	e.ended = true
	e.mu.Unlock()
	e.unlink()
}

func (e *Entry) unlink() {
	for _, key := range e.keys() {
		e.registry.shard(key).remove(key, e)
	}
	e.registry.counts[e.conn.Direction].Add(-1)
	if !e.conn.NotAfter.IsZero() {
		e.registry.expiry.remove(e)
	}
}

// keys are all under which the connection is found.
func (e *Entry) keys() []any {
	keys := make([]any, 0, len(e.conn.Subjects)+3)
	keys = append(keys, number(e.id), everything(e.conn.Direction))
	if e.conn.Owner != nil {
		keys = append(keys, e.conn.Owner)
	}
	for _, s := range e.conn.Subjects {
		keys = append(keys, s)
	}
	return keys
}
