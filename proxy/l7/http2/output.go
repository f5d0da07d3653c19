package http2

import (
	"runtime"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// output is what a connection has to send: whole frames, in the order in which they go out. Everybody adds; whoever flushes hands
// over all that is pending in one write, so that the frames of many streams share records and system calls, and goes on until
// nothing is. Guarded by the mutex of the connection.
type output struct {
	pending []byte
	// writing: somebody hands bytes to the stream.
	writing bool
	// closed: nothing can be sent any more.
	closed bool
	// moved is when the peer last took a share of what is sent, and unmoved what it took since, in bytes; see conn.progress.
	moved   time.Time
	unmoved int
}

const (
	// outputRoom is how much may be pending before those who have content to send wait.
	outputRoom = 44 << 10
	// outputLimit, and one head, is how much may be pending at all. Only answers to frames come in beyond it, and a peer that sends
	// for them and does not read is ended.
	outputLimit = outputRoom + 2*maxFrame
	// flushRounds is how many writes a flusher does for others before it hands that over.
	flushRounds = 8
)

// room reports that content may be added. The mutex is held.
func (o *output) room() bool { return len(o.pending) < outputRoom }

// extend makes room for n bytes at the end of what is pending. The mutex is held.
func (o *output) extend(n int) { o.pending = grown(o.pending, n) }

// add queues frames. The mutex is held.
func (o *output) add(frames []byte) {
	if !o.closed {
		o.extend(len(frames))
		o.pending = append(o.pending, frames...)
	}
}

// flush sends what is pending, unless somebody is at it, who then sends this, too. A failure ends the connection.
func (c *conn) flush() {
	if c.claimOutput() {
		c.yield()
		c.writeOut()
	}
}

// yielder is a driver with a way of its own to let other functions run first; goroutines have the scheduler's.
type yielder interface{ Yield() }

// yield lets those run who are about to add something: the requests that came in one read are mostly answered in one write.
func (c *conn) yield() {
	c.mu.Lock()
	alone := c.active <= 1
	c.mu.Unlock()
	if alone {
		return
	}
	if y, ok := c.driver.(yielder); ok {
		y.Yield()
		return
	}
	runtime.Gosched()
}

// flushSoon is flush for those who must not wait: the reading function above all, since a peer may read nothing until it has
// written.
func (c *conn) flushSoon() {
	if c.claimOutput() {
		c.start(c.writeOut)
	}
}

// claimOutput makes the caller the one who writes; false when nothing is to be written, or somebody is at it.
func (c *conn) claimOutput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.writing || c.out.closed || len(c.out.pending) == 0 {
		return false
	}
	c.out.writing = true
	return true
}

// writeOut is the work of who claimed the output.
func (c *conn) writeOut() {
	for range flushRounds {
		p := c.takeOutput()
		if p == nil {
			return
		}
		err := c.write(p)
		n := len(p)
		giveBack(p)
		if err != nil {
			c.outputFailed(err)
			return
		}
		c.wrote(n)
	}
	c.start(c.writeOut)
}

// takeOutput returns what is pending, nil when nothing is: the output is then free again.
func (c *conn) takeOutput() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.out.pending
	c.out.pending = nil
	if len(p) == 0 || c.out.closed {
		giveBack(p)
		c.out.writing = false
		c.wakeEnding()
		return nil
	}
	return p
}

// write hands bytes to the stream, with a deadline for just these.
func (c *conn) write(p []byte) error {
	if err := c.stream.SetWriteDeadline(time.Now().Add(c.timeouts.Write)); err != nil {
		return err
	}
	_, err := c.stream.Write(p)
	return err
}

// wrote lets those go on who waited for room.
func (c *conn) wrote(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress(n)
	c.wakeWaiting()
}

func (c *conn) outputFailed(err error) {
	reason := observe.IOError
	if isTimeout(err) {
		reason = observe.IdleTimeout
	}
	c.mu.Lock()
	c.out.closed, c.out.writing = true, false
	c.endLocked(&ending{reason: reason, silent: true, cause: err})
	c.mu.Unlock()
}

// progress counts what the peer took. Waiting for the connection has an end only while nothing moves on it; a share of a frame a
// time keeps a peer from moving one byte before each deadline. The mutex is held.
func (c *conn) progress(n int) {
	if c.out.unmoved += n; c.out.unmoved >= maxData || c.out.moved.IsZero() {
		c.out.moved, c.out.unmoved = time.Now(), 0
	}
}
