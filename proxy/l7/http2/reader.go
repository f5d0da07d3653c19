package http2

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// reader is the reading half of a connection: the stream, and a borrowed buffer with what was read but not yet consumed. It
// belongs to the reading function; only wake may be called from elsewhere.
type reader struct {
	stream l7.Stream
	buf    []byte // nil when none is borrowed
	start  int    // of the bytes not yet consumed
	end    int
	err    error // that came together with bytes, reported by the next read
	one    [1]byte
	// woken: the reading function is to look at what changed.
	woken atomic.Bool
}

// errWoken ends a read because there is something to look at.
var errWoken = errors.New("reading was interrupted")

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// grace is how long a connection keeps its empty buffer: peers in a hurry send more within it, all others wait without one.
const grace = 100 * time.Millisecond

func (r *reader) buffered() []byte { return r.buf[r.start:r.end] }

func (r *reader) consume(n int) { r.start += n }

// wake ends a read that is waiting with errWoken, or else the next one.
func (r *reader) wake() {
	r.woken.Store(true)
	_ = r.stream.SetReadDeadline(longAgo)
}

// fill reads more bytes, for a buffered size of up to need. Without any buffered it waits without a buffer.
func (r *reader) fill(need int, deadline time.Time) error {
	if r.start == r.end {
		return r.first(deadline)
	}
	r.reserve(need)
	n, err := r.read(r.buf[r.end:], deadline)
	r.end += n
	return err
}

// first waits for the next bytes: for a short while with a buffer, then without.
func (r *reader) first(deadline time.Time) error {
	r.start, r.end = 0, 0
	if r.buf != nil {
		soon := time.Now().Add(grace)
		if soon.After(deadline) {
			soon = deadline
		}
		n, err := r.read(r.buf, soon)
		r.end = n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		r.release()
	}
	n, err := r.read(r.one[:], deadline)
	if err != nil {
		return err
	}
	r.buf = borrow(smallBuffer)
	r.end = copy(r.buf, r.one[:n])
	return nil
}

// reserve makes room for need bytes from start, and for some at the end.
func (r *reader) reserve(need int) {
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	if need > len(r.buf) || r.end == len(r.buf) {
		larger := borrow(max(need, len(r.buf)+1))
		copy(larger, r.buf[:r.end])
		giveBack(r.buf)
		r.buf = larger
	}
}

// release gives the buffer back, whatever is in it.
func (r *reader) release() {
	giveBack(r.buf)
	r.buf, r.start, r.end = nil, 0, 0
}

// read reads from the stream into p.
func (r *reader) read(p []byte, deadline time.Time) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if err := r.stream.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	// The flag is stored before wake sets its deadline: either it is seen here, or that deadline is the later one.
	if r.woken.Swap(false) {
		return 0, errWoken
	}
	n, err := r.stream.Read(p)
	switch {
	case n > 0:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			r.err = err
		}
		return n, nil
	case err == nil:
		return 0, io.ErrNoProgress
	default:
		return 0, err
	}
}
