package http1

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// reader is the reading half of a connection: the stream, and a borrowed buffer with what was read but not yet consumed. It
// belongs to the goroutine that reads; only interrupt may be called from another one.
type reader struct {
	stream l7.Stream
	buf    []byte // nil when none is borrowed
	start  int    // of the bytes not yet consumed
	end    int
	err    error // that came together with bytes, reported by the next read
	// halt, when set and true, ends reads with errHalted. The reading goroutine says what may halt it.
	halt *atomic.Bool
	// pace of the request body that is being read; asks for nothing between bodies.
	pace pace
}

// errHalted ends a read that is no longer wanted.
var errHalted = errors.New("reading was interrupted")

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// buffered is what was read and not yet consumed.
func (r *reader) buffered() []byte { return r.buf[r.start:r.end] }

func (r *reader) consume(n int) { r.start += n }

// interrupt makes a read that is waiting look at halt, whose flag the caller has set. It may be called concurrently; when it comes
// too late, and something else is being read, it changes nothing.
func (r *reader) interrupt() { _ = r.stream.SetReadDeadline(longAgo) }

func (r *reader) halted() bool { return r.halt != nil && r.halt.Load() }

// read reads from the stream into p, past the buffer, which must be empty. A zero deadline is none.
func (r *reader) read(p []byte, deadline time.Time) (int, error) {
	if r.pace.rate == 0 {
		return r.readUntil(p, deadline)
	}
	began := time.Now()
	n, err := r.readUntil(p, r.pace.deadline(deadline, began, 0))
	r.pace.took(n, time.Since(began))
	return n, err
}

func (r *reader) readUntil(p []byte, deadline time.Time) (int, error) {
	if err := r.err; err != nil {
		return 0, err
	}
	for {
		if err := r.stream.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		// The flag is stored before interrupt sets its deadline: either it is seen here, or that deadline is the later one.
		if r.halted() {
			return 0, errHalted
		}
		n, err := r.stream.Read(p)
		expired := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case n > 0:
			if !expired {
				r.err = err
			}
			return n, nil
		case err == nil:
			return 0, io.ErrNoProgress
		case expired && r.halted():
			return 0, errHalted
		case expired && (deadline.IsZero() || time.Now().Before(deadline)):
			continue // an interrupt that came too late
		default:
			return 0, err
		}
	}
}

// fill reads more bytes into the buffer, borrowing one when there is none and making room at its end.
func (r *reader) fill(deadline time.Time) error {
	if r.buf == nil {
		r.buf = borrow(smallBuffer)
		r.start, r.end = 0, 0
	}
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	if r.end == len(r.buf) {
		r.grow(2 * len(r.buf))
	}
	n, err := r.read(r.buf[r.end:], deadline)
	r.end += n
	return err
}

// grow replaces the buffer by one of at least that size.
func (r *reader) grow(size int) {
	larger := borrow(size)
	copy(larger, r.buf[:r.end])
	giveBack(r.buf)
	r.buf = larger
}

// release gives the buffer back if nothing is in it.
func (r *reader) release() {
	if r.start == r.end && r.buf != nil {
		giveBack(r.buf)
		r.buf, r.start, r.end = nil, 0, 0
	}
}

// section returns the next head or trailer section with the empty line at its end; it stays valid until the next fill and is not
// consumed. tooLarge is asked about every incomplete section. An error is an *l7.Error or that of the stream.
func (r *reader) section(mayBeEmpty bool, tooLarge func([]byte) *l7.Error, deadline time.Time) ([]byte, error) {
	scanned := 0
	for {
		length, next, ok := scanSection(r.buffered(), scanned, mayBeEmpty)
		if !ok {
			return nil, errLineEnd()
		}
		if length > 0 {
			return r.buffered()[:length], nil
		}
		if err := tooLarge(r.buffered()); err != nil {
			return nil, err
		}
		scanned = next
		if err := r.fill(deadline); err != nil {
			return nil, err
		}
	}
}

// readBody reads content into p: from the buffer if there is some, past it when p is large, so that contents are copied once.
func (r *reader) readBody(p []byte, deadline time.Time) (int, error) {
	if r.start == r.end {
		if len(p) >= smallBuffer {
			return r.read(p, deadline)
		}
		if err := r.fill(deadline); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buffered())
	r.consume(n)
	return n, nil
}

// streamError gives the failure of a read or a write a reason: timeout for a deadline, reset for an end that came too early.
func streamError(err error, side l7.Side, timeout, reset observe.Reason) *l7.Error {
	if e, ok := errors.AsType[*l7.Error](err); ok {
		return e
	}
	reason := reset
	if errors.Is(err, os.ErrDeadlineExceeded) {
		reason = timeout
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: side, Err: err}
}

// asError is for errors that are known to be an *l7.Error.
func asError(err error) *l7.Error {
	return streamError(err, l7.Downstream, observe.Internal, observe.Internal)
}

// first waits for one byte without holding a buffer meanwhile, and puts it into one.
func (r *reader) first(deadline time.Time) error {
	var one [1]byte
	if _, err := r.read(one[:], deadline); err != nil {
		return err
	}
	r.buf = borrow(smallBuffer)
	r.start, r.end = 0, copy(r.buf, one[:])
	return nil
}
