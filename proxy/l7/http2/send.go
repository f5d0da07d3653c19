package http2

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// bodyError marks that the body, not the peer, was the reason.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

var (
	errBodyShort = errors.New("body is shorter than its length")
	errBodyLong  = errors.New("body is longer than its length")
	// errStopped ends what is sent to a peer that has answered and wants no more of it.
	errStopped = errors.New("the peer wants no more of the body")
)

// failure is why nothing can be sent on the stream; nil when it can. The mutex is held.
func (s *stream) failure() error {
	switch {
	case s.err != nil:
		return s.err
	case s.stopped:
		return errStopped
	case s.sentEnd:
		return errAnswered
	case s.conn.life.ended != nil:
		return s.conn.lost(s.conn.life.ended)
	default:
		return nil
	}
}

// sendHead queues the frames of a field block on a stream that is known.
func (s *stream) sendHead(frames []byte, end bool) error {
	c := s.conn
	if err := s.awaitRoom(); err != nil {
		return err
	}
	setStream(frames, s.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	c.out.add(frames)
	if end {
		c.endSent(s)
	}
	return nil
}

// awaitRoom waits until the output takes more.
func (s *stream) awaitRoom() error {
	var p patience
	for {
		s.conn.mu.Lock()
		err, ok := s.failure(), s.conn.out.room()
		switch {
		case err != nil:
			s.conn.wakeWaiting()
		case !ok:
			s.wait(true)
		}
		s.conn.mu.Unlock()
		if err != nil || ok {
			return err
		}
		if err := s.park(&p); err != nil {
			return err
		}
	}
}

// wait is called under the lock under which the reason to wait was seen, before park: from then on no wake is lost. shared: for
// what all streams share, and not for the stream's own window. The mutex is held.
func (s *stream) wait(shared bool) {
	if s.writable == nil {
		s.writable = s.conn.driver.NewParker()
	}
	if shared && !s.waits {
		s.waits = true
		s.conn.waiting = append(s.conn.waiting, s)
	}
}

// await is wait for what keeps content back. A stream whose own window is closed leaves its turn to others. The mutex is held.
func (s *stream) await() {
	own := s.send <= 0 && s.conn.out.room()
	s.wait(!own)
	if own {
		s.conn.wakeWaiting()
	}
}

// patience is how much longer a sender waits for the peer.
type patience struct {
	left time.Duration
	sent int
	// given: the stream has a deadline of its owner's.
	given bool
}

// took renews the patience when the peer took a share: one byte before each deadline is no progress.
func (p *patience) took(n int) {
	if p.sent += n; p.sent >= maxData {
		p.left, p.sent = 0, 0
	}
}

// park waits for the peer, not longer than the patience lasts. While the connection moves for others, waiting for a turn on it
// costs none.
func (s *stream) park(p *patience) error {
	c := s.conn
	c.flush()
	if p.given {
		err := s.parkUntil(s.writable, &s.writeBy)
		if err != nil {
			c.mu.Lock()
			c.stopWaiting(s)
			c.mu.Unlock()
		}
		return err
	}
	if p.left == 0 {
		p.left = c.timeouts.Write
	}
	began := time.Now()
	woken := s.writable.Park(began.Add(p.left))
	p.left = max(p.left-time.Since(began), time.Nanosecond)
	if woken {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if rest := time.Until(c.out.moved.Add(c.timeouts.Write)); s.waits && rest > 0 {
		p.left = rest
		return nil
	}
	if s.waits {
		c.stopWaiting(s)
	}
	return &l7.Error{Reason: observe.IdleTimeout, Status: 500, Side: c.side(), Err: os.ErrDeadlineExceeded}
}

func (c *conn) side() l7.Side {
	if c.role.isServer() {
		return l7.Downstream
	}
	return l7.Upstream
}

// awaitWindow waits until content may be sent, and says how much.
func (s *stream) awaitWindow(p *patience) (int, error) {
	c := s.conn
	for {
		c.mu.Lock()
		n, err := s.window(), s.failure()
		switch {
		case err != nil, n > 0:
			c.wakeWaiting() // the body may keep us waiting: somebody else may use the turn meanwhile
		default:
			s.await()
		}
		c.mu.Unlock()
		if err != nil || n > 0 {
			return n, err
		}
		if err := s.park(p); err != nil {
			return 0, err
		}
	}
}

// window is how much content may be sent now. The mutex is held.
func (s *stream) window() int {
	if !s.conn.out.room() {
		return 0
	}
	return max(0, min(int(s.send), int(s.conn.send), maxData))
}

// sendData sends content, which stands behind room for a frame header, as the windows allow.
func (s *stream) sendData(buf []byte, end bool, p *patience) error {
	c := s.conn
	content := buf[frameHead:]
	for {
		c.mu.Lock()
		err := s.failure()
		n := min(s.window(), len(content))
		switch {
		case err != nil:
			c.wakeWaiting()
		case n == len(content) && (n > 0 || c.out.room()):
			s.queueData(content, end)
			content = nil
		case n > 0:
			s.queueData(content[:n], false)
			content = content[n:]
		default:
			s.await()
		}
		c.mu.Unlock()
		p.took(n)
		if err != nil || content == nil {
			return err
		}
		if n > 0 {
			continue
		}
		if err := s.park(p); err != nil {
			return err
		}
	}
}

// queueData queues one frame, whose content the windows allow. The mutex is held.
func (s *stream) queueData(content []byte, end bool) {
	c := s.conn
	n := len(content)
	var flags uint8
	if end {
		flags = flagEndStream
	}
	c.out.extend(frameHead + n)
	c.out.pending = appendFrameHead(c.out.pending, n, frameData, flags, s.id)
	c.out.pending = append(c.out.pending, content...)
	s.send -= sendWindow(n)
	c.send -= sendWindow(n)
	c.budget.dataSent()
	if end {
		c.endSent(s)
	}
}

// sendBody sends a body to its end. length is what was claimed of it, -1 for nothing. Nothing is held back while the body is
// waited for, and no buffer while the peer is.
func (s *stream) sendBody(body l7.Body, length int64, end bool) error {
	b := sending{stream: s, body: body, left: length, sized: length >= 0, end: end}
	for {
		done, err := b.step()
		if done || err != nil {
			return err
		}
	}
}

// isEmpty reports a body that is at its end already, without trailers: the head ends the stream.
func isEmpty(body l7.Body, length int64) bool {
	if body == nil {
		return true
	}
	if n, whole := l7.ReadyOf(body); !whole || n > 0 || length > 0 {
		return false
	}
	var none [1]byte
	_, err := body.Read(none[:])
	return errors.Is(err, io.EOF) && body.Trailer().Len() == 0
}

// sending is a body on its way.
type sending struct {
	stream *stream
	body   l7.Body
	// left of a body with a length.
	left  int64
	sized bool
	// end: the stream ends with the body.
	end      bool
	patience patience
	// bulk: the last read filled its buffer, so that the next one gets a large one.
	bulk bool
}

// step sends what one read of the body gives.
func (b *sending) step() (done bool, err error) {
	s := b.stream
	ready, whole := l7.ReadyOf(b.body)
	if ready == 0 && !whole {
		s.conn.flush()
	}
	size := smallBuffer
	if !b.atEnd(ready, whole) {
		n, err := s.awaitWindow(&b.patience)
		if err != nil {
			return false, err
		}
		size = min(b.size(ready), n+frameHead)
	}
	lent := borrow(size)
	defer giveBack(lent)
	n, err := b.read(lent[frameHead:max(size, frameHead+1)])
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	b.bulk = n == size-frameHead
	if err == nil {
		return false, s.sendData(lent[:frameHead+n], false, &b.patience)
	}
	return true, b.finish(lent[:frameHead+n])
}

// atEnd: the next read should give nothing more, which takes no window.
func (b *sending) atEnd(ready int, whole bool) bool {
	return whole && ready == 0 || b.sized && b.left == 0
}

// size is that of the buffer for the next read: a large one only when it will be used, since the read may wait.
func (b *sending) size(ready int) int {
	if b.bulk || ready > smallBuffer-frameHead {
		return frameHead + maxData
	}
	return smallBuffer
}

// read reads once, and once more when the end is at hand, so that it can go with the last content.
func (b *sending) read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == nil && n > 0 {
		if ready, whole := l7.ReadyOf(b.body); whole && ready == 0 {
			var none int
			none, err = b.body.Read(p[n:])
			n += none
		}
	}
	b.left -= int64(n)
	switch {
	case b.sized && b.left < 0:
		return n, &bodyError{errBodyLong}
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, &bodyError{err}
	case b.sized && b.left != 0:
		return n, &bodyError{errBodyShort}
	default:
		return n, io.EOF
	}
}

// finish sends the last content and the trailers.
func (b *sending) finish(last []byte) error {
	trailer := b.body.Trailer()
	block := appendTrailer(beginBlock(borrow(smallBuffer)), trailer)
	defer func() { giveBack(block) }()
	if len(block) == frameHead || !b.end {
		if len(last) == frameHead && !b.end {
			return nil
		}
		return b.stream.sendData(last, b.end, &b.patience)
	}
	if len(last) > frameHead {
		if err := b.stream.sendData(last, false, &b.patience); err != nil {
			return err
		}
	}
	block = frameBlock(block, true)
	return b.stream.sendHead(block, true)
}

// asError gives the failure of a read or a write a reason: timeout for a deadline, reset for an end that came too early.
func asError(err error, side l7.Side, timeout, reset observe.Reason) *l7.Error {
	if e, ok := errors.AsType[*l7.Error](err); ok {
		return e
	}
	reason := reset
	if isTimeout(err) {
		reason = timeout
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: side, Err: err}
}
