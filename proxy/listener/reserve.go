package listener

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// WithReserve returns a listener that goes on accepting when the process or the system has no file descriptors left: it holds some
// back, and gives one up for a connection that waits. Each comes back when descriptors are free again. It is for the few
// connections of an operator. The connections are those of l, untouched.
func WithReserve(l net.Listener, descriptors int) net.Listener {
	r := &reserved{Listener: l, spare: spares{want: descriptors}}
	r.spare.fill()
	return r
}

type reserved struct {
	net.Listener

	mu     sync.Mutex
	spare  spares      // guarded by mu
	refill *time.Timer // guarded by mu: runs while spare is not full; nil before it had to
}

// Accept implements net.Listener.
func (r *reserved) Accept() (net.Conn, error) {
	for {
		conn, err := r.Listener.Accept()
		if !exhausted(err) {
			return conn, err
		}
		// accept(2) fails for want of descriptors even if nobody waits; given up for nobody, the spare one would be taken by another.
		if !pending(r.Listener) || !r.give() {
			time.Sleep(reservePause)
		}
	}
}

// Close implements net.Listener.
func (r *reserved) Close() error {
	r.mu.Lock()
	r.spare.drop()
	if r.refill != nil {
		r.refill.Stop()
	}
	r.mu.Unlock()
	return r.Listener.Close()
}

// give frees a descriptor, and sees to it that it comes back.
func (r *reserved) give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refill == nil {
		r.refill = time.AfterFunc(reservePause, r.fill)
	} else {
		r.refill.Reset(reservePause)
	}
	return r.spare.give()
}

func (r *reserved) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spare.fill() {
		r.refill.Reset(reservePause)
	}
}

// spares are descriptors that are held back. One goroutine uses them at a time.
type spares struct {
	want int
	held []*os.File
}

// fill takes as many as are wanted and to be had, and reports whether they are all there.
func (s *spares) fill() bool {
	for len(s.held) < s.want {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return false
		}
		s.held = append(s.held, f)
	}
	return true
}

// give frees one; false when none is held.
func (s *spares) give() bool {
	if len(s.held) == 0 {
		return false
	}
	last := len(s.held) - 1
	_ = s.held[last].Close()
	s.held = s.held[:last]
	return true
}

// drop frees all.
func (s *spares) drop() {
	s.want = 0
	for s.give() {
	}
}

// exhausted reports an error for want of file descriptors, of the process or the system.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// reservePause is how often a listener that cannot accept looks again: an operator does not notice it, nor does the processor.
const reservePause = 50 * time.Millisecond
