package http2

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// tunnel is the byte stream of an extended CONNECT (RFC 8441): an l7.Stream on one stream of the connection. One function may read
// while another writes.
type tunnel struct {
	stream *stream
	// closed is called once with the end of its use; nil for nothing.
	closed func()
}

// Read implements l7.Stream: io.EOF is the peer's orderly end.
func (t *tunnel) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b := body{stream: t.stream}
	for {
		n, err := b.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		if err := t.stream.parkUntil(t.stream.readable, &t.stream.readBy); err != nil {
			return 0, err
		}
	}
}

// parkUntil waits at one of the parkers until it is woken or the deadline, which another function may move, has passed.
func (s *stream) parkUntil(at l7.Parker, deadline *time.Time) error {
	s.conn.mu.Lock()
	by := *deadline
	s.conn.mu.Unlock()
	if !by.IsZero() && !time.Now().Before(by) {
		return os.ErrDeadlineExceeded
	}
	_ = at.Park(by) // either way the caller looks again, and comes back if there is nothing
	return nil
}

// Write implements l7.Stream.
func (t *tunnel) Write(p []byte) (int, error) {
	sent := 0
	lent := borrow(min(len(p), maxData) + frameHead)
	defer giveBack(lent)
	for sent < len(p) {
		n := copy(lent[frameHead:][:min(maxData, len(lent)-frameHead)], p[sent:])
		if err := t.stream.sendData(lent[:frameHead+n], false, &patience{given: true}); err != nil {
			return sent, err
		}
		sent += n
	}
	t.stream.conn.flush()
	return sent, nil
}

// CloseWrite implements l7.Stream.
func (t *tunnel) CloseWrite() error {
	c, s := t.stream.conn, t.stream
	c.mu.Lock()
	err := s.failure()
	if err == nil {
		c.out.add(appendFrameHead(c.scratch[:0], 0, frameData, flagEndStream, s.id))
		c.endSent(s)
	}
	c.mu.Unlock()
	if errors.Is(err, errAnswered) {
		return nil // it was closed before
	}
	c.flush()
	return err
}

// Close implements l7.Stream. What the peer still sends is not read any more.
func (t *tunnel) Close() error {
	err := t.CloseWrite()
	t.reset(codeNo)
	return err
}

// Abort implements l7.Aborter.
func (t *tunnel) Abort() error {
	t.reset(codeCancel)
	return nil
}

func (t *tunnel) reset(code errCode) {
	c, s := t.stream.conn, t.stream
	if !c.role.isServer() {
		code = codeCancel
	}
	c.mu.Lock()
	c.reset(s, code, &l7.Error{Reason: observe.IOError, Status: 500, Side: c.side(), Err: io.ErrClosedPipe})
	s.wake()
	c.mu.Unlock()
	c.flushSoon()
	if t.closed != nil {
		t.closed()
	}
}

// SetReadDeadline implements l7.Stream.
func (t *tunnel) SetReadDeadline(by time.Time) error { return t.setDeadline(&t.stream.readBy, by) }

// SetWriteDeadline implements l7.Stream.
func (t *tunnel) SetWriteDeadline(by time.Time) error { return t.setDeadline(&t.stream.writeBy, by) }

func (t *tunnel) setDeadline(of *time.Time, by time.Time) error {
	t.stream.conn.mu.Lock()
	defer t.stream.conn.mu.Unlock()
	*of = by
	t.stream.wake()
	return nil
}
