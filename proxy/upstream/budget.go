package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// budget keeps retries from being a large part of what an endpoint in trouble gets: they are at most a share of the requests, or so
// many a second that it does not matter. Safe for concurrent use.
type budget struct {
	share     float64
	perSecond int64
	requests  window

	mu      sync.Mutex
	retries window // counted under mu, so that what is allowed is not taken twice
}

// request counts one.
func (b *budget) request(now time.Time) { b.requests.add(now.Unix()) }

// withdraw takes one retry, if there is one left. underWay is how many requests are.
func (b *budget) withdraw(now time.Time, underWay int64) bool {
	second := now.Unix()
	b.mu.Lock()
	defer b.mu.Unlock()
	enough := b.retries.at(second) >= b.perSecond
	if enough && float64(b.retries.sum(second)+1) > b.share*float64(max(b.requests.sum(second), underWay)) {
		return false
	}
	b.retries.add(second)
	return true
}

// window counts what happened in the last seconds. Each slot has a second, in its upper half, and the count of that second.
type window [10]atomic.Int64

func (w *window) add(second int64) {
	slot := &w[second%int64(len(w))]
	for {
		old := slot.Load()
		next := old + 1
		if old>>32 != second {
			next = second<<32 + 1
		}
		if slot.CompareAndSwap(old, next) {
			return
		}
	}
}

// at is the count of that second.
func (w *window) at(second int64) int64 {
	if v := w[second%int64(len(w))].Load(); v>>32 == second {
		return v & 0xffffffff
	}
	return 0
}

// sum is the count of the seconds up to that one.
func (w *window) sum(second int64) int64 {
	sum := int64(0)
	for s := second - int64(len(w)) + 1; s <= second; s++ {
		sum += w.at(s)
	}
	return sum
}
