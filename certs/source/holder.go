package source

import (
	"sync"
	"sync/atomic"
)

// Holder has the current SVID of one identity. The zero value is ready and holds none. All methods may be called concurrently; Get
// takes no lock.
type Holder struct {
	current atomic.Pointer[X509]

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil until somebody asks
}

// Get returns the current SVID, or nil when there is none: before the first one, after it expired, and when the identity was
// withdrawn.
func (h *Holder) Get() *X509 { return h.current.Load() }

// Changed returns a channel that is closed at the next change. To miss none, call it before Get.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}

// Set replaces the SVID, nil for none, and wakes those who wait. Setting the value that is there does nothing.
func (h *Holder) Set(x *X509) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current.Swap(x) == x {
		return
	}
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}
