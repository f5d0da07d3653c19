package l4

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bare returns the socket or session under a stream that only wraps it, and what was read ahead.
func bare(s Stream) (io.Reader, []byte) {
	if w, ok := s.(unwrapper); ok {
		return w.Unwrap()
	}
	return s, nil
}

// bareWriter returns the socket or session under a stream for writing, where nothing is ahead.
func bareWriter(s Stream) io.Writer {
	if w, ok := s.(interface{ Socket() net.Conn }); ok {
		return w.Socket()
	}
	return s
}

// transfer moves the bytes of one direction. It belongs to one goroutine.
type transfer struct {
	dst   io.Writer
	src   io.Reader
	pause func(time.Time) error // sets the read deadline of src
	pipes Pipes
	// moved is told of every piece that has been written.
	moved func(n int64)

	splicer *splicer          // nil where the kernel cannot move the bytes
	socket  *socket           // src, when it is plain; nil otherwise
	first   [firstLength]byte // of a piece: what a stream that is no socket waits with
	buf     *[bufferSize]byte // nil but while bytes move
}

func newTransfer(dst io.Writer, src io.Reader, pause func(time.Time) error, pipes Pipes, moved func(int64)) *transfer {
	return &transfer{dst: dst, src: src, pause: pause, pipes: pipes, moved: moved, splicer: newSplicer(dst, src), socket: newSocket(src)}
}

// run moves bytes until src ends, which is no error, or something fails. A read deadline, until, that passes loses nothing: all that
// was read has been written by then, through the buffer as well as with splice(2), whose pipe is empty whenever it reads.
func (t *transfer) run(until time.Time) error {
	var err error
	for err == nil {
		switch {
		case t.splicer != nil:
			err = t.splice()
		case t.socket != nil:
			err = t.copySocket()
		default:
			err = t.copyStream(until)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// splice waits for bytes and has the kernel pass them on; without a pipe to be had, the buffer does it.
func (t *transfer) splice() error {
	if err := t.splicer.wait(); err != nil {
		return err
	}
	if t.pipes != nil {
		if !t.pipes.Acquire() {
			return t.copySocket()
		}
		defer t.pipes.Release()
	}
	n, err := t.splicer.move()
	t.moved(n)
	return err
}

// copySocket waits for bytes of a plain socket and passes them on; the buffer is borrowed when they are there.
func (t *transfer) copySocket() error {
	defer t.giveBack()
	n, err := t.socket.read(t.borrow, t.giveBack)
	if failed := t.write(n); failed != nil {
		return failed
	}
	return err
}

// copyStream waits for a piece of a stream and passes it on. When it is long, more is likely to follow: then it reads into the
// buffer, which it keeps for no longer than linger without a byte.
func (t *transfer) copyStream(until time.Time) error {
	n, err := t.src.Read(t.first[:])
	if failed := t.writeBytes(t.first[:n]); failed != nil {
		return failed
	}
	if err != nil || n < len(t.first) {
		return err
	}
	defer t.giveBack()
	for err == nil {
		now := time.Now()
		if !until.IsZero() && now.After(until) {
			break
		}
		if err := t.pause(now.Add(linger)); err != nil {
			return err
		}
		n, err = t.src.Read(t.borrow())
		if failed := t.write(n); failed != nil {
			return failed
		}
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return t.pause(until)
	}
	return err
}

// write writes the first n bytes of the buffer.
func (t *transfer) write(n int) error {
	if n == 0 {
		return nil
	}
	return t.writeBytes(t.buf[:n])
}

func (t *transfer) writeBytes(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := t.dst.Write(b)
	t.moved(int64(n))
	return err
}

// borrow returns the whole buffer.
func (t *transfer) borrow() []byte {
	if t.buf == nil {
		t.buf, _ = buffers.Get().(*[bufferSize]byte)
	}
	return t.buf[:]
}

func (t *transfer) giveBack() {
	if t.buf != nil {
		buffers.Put(t.buf)
		t.buf = nil
	}
}

// A buffer is held by whoever is stalled by a slow reader, so it is not as large as would be fastest. Measured on two cores, see
// BenchmarkSplice, CPU seconds per GB from plain TCP to TLS, median of four: 0.78 with 64 KiB, 0.75 with 128, 0.70 with 256; the
// other way there is no difference.
const (
	bufferSize = 128 << 10
	// linger is how long a stream in full flow may pause before it counts as one that waits.
	linger = 10 * time.Millisecond
	// firstLength is what a stream waits with: more than a keystroke or a small message needs, little enough to hold always.
	firstLength = 1 << 10
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
