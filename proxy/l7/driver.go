package l7

import "time"

// Driver runs the protocol code of the engines, which is written straight down and waits in two places only: in an operation of a
// Stream, and in a Parker. Engines start nothing and wait for nothing but through it, so that a driver may run them on goroutines
// (Goroutines) or on the turns of an event loop.
//
// What holds for all of them: a lock is never held across a Read or Write of a Stream, or a Park, a connection that waits for its next
// message keeps no buffer, and nothing assumes that two functions of one connection run on two threads, or that they do not.
type Driver interface {
	// Go runs f beside its caller.
	Go(f func())
	// NewParker returns a place at which one function at a time may wait.
	NewParker() Parker
}

// Parker is where one function waits to be told of a change of what it looks at. The use is always the same: change or look under
// a lock, release the lock, Park, look again.
type Parker interface {
	// Park waits until Unpark has been called since the last Park returned true; an Unpark in between is kept, several count as
	// one. It returns false when the deadline passed first; the zero deadline is none.
	Park(deadline time.Time) bool
	// Unpark ends the Park under way, or else the next one. It never waits, and may be called from anywhere.
	Unpark()
}

// Goroutines is the Driver of every platform: a goroutine for each function.
type Goroutines struct{}

// Go implements Driver.
func (Goroutines) Go(f func()) { go f() }

// NewParker implements Driver.
func (Goroutines) NewParker() Parker { return make(goParker, 1) }

// goParker holds the Unpark that nobody has waited for yet.
type goParker chan struct{}

// Park implements Parker.
func (p goParker) Park(deadline time.Time) bool {
	if deadline.IsZero() {
		<-p
		return true
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-p:
		return true
	case <-timer.C:
		return false
	}
}

// Unpark implements Parker.
func (p goParker) Unpark() {
	select {
	case p <- struct{}{}:
	default: // one is waiting to be taken
	}
}
