package upstream

import (
	"sync/atomic"
	"time"
)

// health leaves an endpoint alone after connect failures that follow one another: 1 s after the first, twice as long after each
// further one, up to 30 s. Any success ends it. Safe for concurrent use; the zero value is healthy.
type health struct {
	failures atomic.Int32
	until    atomic.Int64 // Unix nanoseconds
}

func (h *health) available(now time.Time) bool {
	return h.failures.Load() == 0 || now.UnixNano() >= h.until.Load()
}

func (h *health) failed(now time.Time) {
	n := min(h.failures.Add(1), 6)
	h.until.Store(now.Add(min(time.Second<<(n-1), 30*time.Second)).UnixNano())
}

func (h *health) succeeded() {
	if h.failures.Load() != 0 {
		h.failures.Store(0)
	}
}
