package l4

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Stream is one side: *net.TCPConn, *net.UnixConn, *tls.Conn and what wraps them.
type Stream interface {
	io.Reader
	io.Writer
	io.Closer
	CloseWrite() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// unwrapper is a Stream around a socket that may have read ahead; see listener.Conn.
type unwrapper interface {
	Unwrap() (net.Conn, []byte)
}

// Pipes is the account of the pipes through which the kernel moves bytes; one is taken for as long as bytes move. Safe for
// concurrent use.
type Pipes interface {
	Acquire() bool
	Release()
}

// Options bound a splice.
type Options struct {
	// Idle ends the splice when neither side has sent anything for this long, within a quarter of it; zero never does.
	Idle time.Duration
	// MaxTime ends the splice whatever happens on it; zero never does.
	MaxTime time.Duration
	// Pipes bounds the pipes of all splices; where there is none to be had, bytes pass through a buffer. Nil does not bound them.
	Pipes Pipes
}

// Result is what a splice did.
type Result struct {
	// Sent is what went from downstream to upstream, Received what came back, in bytes.
	Sent, Received int64
	// Reason is why it ended: PeerClosed or UpstreamClosed by the side that ended first when both ended in order, IdleTimeout,
	// MaxTime, Drained when the context ended, IOError.
	Reason observe.Reason
	// Err is the transport's error of IOError.
	Err error
}

// Splice copies both ways until both directions have ended or one has failed, and closes both streams; when one has failed, in a
// way that the other side cannot take for an orderly end, and so when it was cut. It returns when nothing of it runs any more.
func Splice(ctx context.Context, downstream, upstream Stream, options Options) Result {
	s := &splice{options: options}
	s.active.Store(time.Now().UnixNano())
	stop := context.AfterFunc(ctx, func() { s.end(observe.Drained, nil, downstream, upstream) })
	defer stop()
	if options.MaxTime > 0 {
		timer := time.AfterFunc(options.MaxTime, func() { s.end(observe.MaxTime, nil, downstream, upstream) })
		defer timer.Stop()
	}
	sent := s.prepare(upstream, downstream, &s.sent)
	received := s.prepare(downstream, upstream, &s.received)
	var directions sync.WaitGroup
	directions.Go(func() { s.run(sent, observe.PeerClosed, downstream, upstream) })
	s.run(received, observe.UpstreamClosed, downstream, upstream)
	directions.Wait()
	s.finishBoth(downstream, upstream)
	return Result{Sent: s.sent, Received: s.received, Reason: s.reason, Err: s.err}
}

// splice is the state that both directions share.
type splice struct {
	options  Options
	active   atomic.Int64 // when a byte was last seen moving, Unix nanoseconds
	sent     int64        // owned by the direction until it is done
	received int64

	mu       sync.Mutex
	finished observe.Reason // guarded by mu: the side that ended in order first
	ended    bool           // guarded by mu
	reason   observe.Reason // guarded by mu
	err      error          // guarded by mu
}

// direction is one of the two. It belongs to its goroutine.
type direction struct {
	dst, src Stream
	transfer *transfer
	ahead    []byte // read from src before the splice
}

// prepare makes a direction, before either begins: what is beneath a stream must not change while it is used.
func (s *splice) prepare(dst, src Stream, count *int64) *direction {
	read, ahead := bare(src)
	if session, ok := read.(interface{ Bulk() }); ok {
		session.Bulk() // a session of TLS then reads and writes in large pieces
	}
	moved := func(n int64) {
		*count += n
		s.active.Store(time.Now().UnixNano())
	}
	return &direction{dst: dst, src: src, ahead: ahead, transfer: newTransfer(bareWriter(dst), read, src.SetReadDeadline, s.options.Pipes, moved)}
}

// run moves one direction to its end and passes the end on. A failure ends both.
func (s *splice) run(d *direction, closed observe.Reason, downstream, upstream Stream) {
	err := s.copy(d)
	if err == nil {
		s.finish(closed)
		err = d.dst.CloseWrite()
		if err == nil || isClosed(err) {
			return
		}
	}
	if errors.Is(err, errIdle) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.end(observe.IdleTimeout, nil, downstream, upstream)
		return
	}
	s.end(observe.IOError, err, downstream, upstream)
}

func (s *splice) finish(closed observe.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished == "" {
		s.finished = closed
	}
}

// finishBoth closes both streams in order when both directions have ended so, unless something has ended them before.
func (s *splice) finishBoth(downstream, upstream Stream) {
	s.mu.Lock()
	reason := s.finished
	s.mu.Unlock()
	if s.claim(reason, nil) {
		_ = downstream.Close()
		_ = upstream.Close()
	}
}

// end breaks both streams off, once: neither side may take what it has for the whole.
func (s *splice) end(reason observe.Reason, err error, downstream, upstream Stream) {
	if s.claim(reason, err) {
		_ = l7.Abort(downstream)
		_ = l7.Abort(upstream)
	}
}

// claim reports whether nothing has ended the splice yet; the first reason counts.
func (s *splice) claim(reason observe.Reason, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended, s.reason, s.err = true, reason, err
	return true
}

// copy moves bytes until src ends. Idleness is found by deadlines of a quarter of the idle time, and by the time at which a byte was
// last seen moving, whichever way.
func (s *splice) copy(d *direction) error {
	for {
		began := time.Now()
		until, err := s.setDeadlines(d.dst, d.src, began)
		if err != nil {
			return err
		}
		if len(d.ahead) > 0 {
			err, d.ahead = d.transfer.writeBytes(d.ahead), nil
		}
		if err == nil {
			err = d.transfer.run(until)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		now := time.Now()
		if s.idle(now) || now.Sub(began) >= s.writeTime() {
			return errIdle
		}
	}
}

// setDeadlines gives the read a quarter of the idle time. The write gets all of it and more: when that passes, bytes may be lost
// between the sockets, so it is an end and not a pause. Which of the two has passed is told by the time, since the copy in the
// kernel reports both alike.
func (s *splice) setDeadlines(dst, src Stream, now time.Time) (until time.Time, err error) {
	if s.options.Idle <= 0 {
		return time.Time{}, nil
	}
	until = now.Add(s.options.Idle / 4)
	if err := src.SetReadDeadline(until); err != nil {
		return until, err
	}
	return until, dst.SetWriteDeadline(now.Add(s.writeTime()))
}

func (s *splice) writeTime() time.Duration { return s.options.Idle * 3 / 2 }

func (s *splice) idle(now time.Time) bool {
	return now.Sub(time.Unix(0, s.active.Load())) >= s.options.Idle
}

var errIdle = errors.New("idle")

// isClosed reports an error of CloseWrite on a side that is gone, which the other direction reports better.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ECONNRESET)
}
