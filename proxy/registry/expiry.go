package registry

import (
	"container/heap"
	"sync"
	"time"
)

// expiry is the queue of connections by what is due next for them: draining shortly before their credential ends, then closing.
type expiry struct {
	wake chan struct{}

	mu    sync.Mutex
	queue dueHeap // guarded by mu
}

// due is when something happens to an entry, and what.
type due struct {
	at    time.Time
	close bool
}

func (x *expiry) add(e *Entry, now time.Time) {
	x.mu.Lock()
	e.due = due{at: e.conn.NotAfter.Add(-drainLead(e.conn.NotAfter.Sub(now)))}
	heap.Push(&x.queue, e)
	first := x.queue[0] == e
	x.mu.Unlock()
	if !first {
		return
	}
	select {
	case x.wake <- struct{}{}:
	default: // a wake-up is pending
	}
}

func (x *expiry) remove(e *Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.slot >= 0 {
		heap.Remove(&x.queue, e.slot)
	}
}

// next returns an entry that is due, and whether to close or to drain it; or nil and how long until one is.
func (x *expiry) next(now time.Time) (e *Entry, end bool, wait time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.queue) == 0 {
		return nil, false, clockCheck
	}
	e = x.queue[0]
	if e.due.at.After(now) {
		return nil, false, e.due.at.Sub(now)
	}
	if e.due.close {
		heap.Pop(&x.queue)
		return e, true, 0
	}
	e.due = due{at: e.conn.NotAfter, close: true}
	heap.Fix(&x.queue, 0)
	return e, false, 0
}

// drainLead is how long before its end a connection is asked to drain: a tenth of what it has left, between 1 s and 30 s.
func drainLead(left time.Duration) time.Duration {
	return min(max(left/10, time.Second), 30*time.Second)
}

// dueHeap implements heap.Interface; every entry knows its slot.
type dueHeap []*Entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.at.Before(h[j].due.at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *dueHeap) Push(x any) {
	e, _ := x.(*Entry)
	e.slot = len(*h)
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.slot = -1
	return e
}
