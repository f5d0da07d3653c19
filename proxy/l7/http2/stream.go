package http2

import (
	"context"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// stream is one stream of a connection, as both sides have it (RFC 9113, Section 5.1). An exchange is built around it. Its fields
// are guarded by the mutex of the connection, but for those that are set before it is known there.
type stream struct {
	conn *conn
	id   uint32
	// readable and writable are where the one who reads its content, and the one who sends on it, wait. The second is made when it
	// is needed first, which most streams never do.
	readable, writable l7.Parker
	// cancel ends the context of the handler; nil on the client's side.
	cancel context.CancelCauseFunc
	// client is the exchange of a ClientConn; nil on the server's side.
	client *clientExchange

	send    sendWindow
	recv    recvWindow
	content queue
	trailer l7.Header
	// declared is the content-length of what is received, -1 for none; received what came of it.
	declared, received int64
	// recvEnd and sentEnd: the peer ended its half, we ended ours.
	recvEnd, sentEnd bool
	// deaf: nobody reads the content any more; what comes is dropped.
	deaf bool
	// tunneled: what comes are the bytes of a tunnel.
	tunneled bool
	// stopped: the peer has answered and wants no more of what is sent.
	stopped bool
	// unanswered: it counts as one of conn.unanswered.
	unanswered bool
	// waits: it stands in conn.waiting.
	waits bool
	// err is why it ended before both halves did.
	err *l7.Error
	// readBy and writeBy are the deadlines of a tunnel.
	readBy, writeBy time.Time
}

// begin sets the stream up for a new exchange; the parkers stay. An Unpark that comes late, for the exchange before, does no harm:
// who waits looks again.
func (s *stream) begin(c *conn) {
	content, trailer := s.content, s.trailer
	content.clear()
	trailer.Reset()
	*s = stream{conn: c, readable: s.readable, writable: s.writable, content: content, trailer: trailer, declared: -1}
	if s.readable == nil {
		s.readable = c.driver.NewParker()
	}
}

// known reports that frames on the stream still mean something. The mutex is held.
func (s *stream) known() bool { return s.err == nil && !s.stopped && (!s.recvEnd || !s.sentEnd) }

// wake has both of those look who may wait. The mutex is held.
func (s *stream) wake() {
	s.readable.Unpark()
	s.wakeWriter()
}

// wakeWriter has the one look who sends on the stream, if it waits. The mutex is held.
func (s *stream) wakeWriter() {
	if s.writable != nil {
		s.writable.Unpark()
	}
}

// fail ends the stream early. What came completely can still be read. The mutex is held; cancelling the context calls nothing of
// ours back.
func (s *stream) fail(err *l7.Error) {
	if s.err != nil {
		return
	}
	if !s.recvEnd {
		s.dropContent()
	}
	s.failAfterContent(err)
}

// failReset is fail for a stream that the peer reset. Half a message is of no use, but the bytes of a tunnel are what the peer has
// said until then: they are read before the reset is. The mutex is held.
func (s *stream) failReset(err *l7.Error) {
	if !s.tunneled {
		s.fail(err)
	} else if s.err == nil {
		s.failAfterContent(err)
	}
}

func (s *stream) failAfterContent(err *l7.Error) {
	s.err = err
	s.wake()
	if s.cancel != nil {
		s.cancel(err)
	}
}

// dropContent gives up what was received, and the connection's window with it. It reports that there is something to
// flush. The mutex is held.
func (s *stream) dropContent() (flush bool) {
	s.deaf = true
	return s.conn.giveBackConn(s.content.clear())
}

// giveBack announces what was read, to the stream and to the connection. It reports that there is something to flush. The mutex is
// held.
func (s *stream) giveBack(n int) bool {
	c := s.conn
	flush := c.giveBackConn(n)
	if s.recvEnd || s.err != nil {
		return flush
	}
	if n = s.recv.giveBack(n, c.limits.StreamWindow/2); n > 0 {
		c.out.add(appendWindowUpdate(c.scratch[:0], s.id, n))
		flush = true
	}
	return flush
}

// reset ends the stream early and tells the peer, if that does not know an end yet. The mutex is held; the caller flushes.
func (c *conn) reset(s *stream, code errCode, err *l7.Error) {
	if !s.known() {
		return
	}
	c.out.add(appendRSTStream(c.scratch[:0], s.id, code))
	c.forget(s, true)
	s.fail(err)
}

// violated resets a stream on which the peer broke a rule, and counts that. The mutex is held.
func (c *conn) violated(s *stream, code errCode, text string) *connError {
	if !s.known() {
		return nil
	}
	c.reset(s, code, c.fault(observe.BadRequest, text))
	return c.budget.reset(time.Now())
}

// endReceived is the peer's END_STREAM. The mutex is held.
func (c *conn) endReceived(s *stream) *connError {
	if s.declared >= 0 && s.received != s.declared {
		return c.violated(s, codeProtocol, "content is shorter than its content-length")
	}
	s.recvEnd = true
	s.readable.Unpark()
	c.forgetEnded(s)
	return nil
}

// endSent is ours. The mutex is held.
func (c *conn) endSent(s *stream) {
	s.sentEnd = true
	c.answered(s)
	c.forgetEnded(s)
}

// answered counts the stream as answered, once. The mutex is held.
func (c *conn) answered(s *stream) {
	if s.unanswered {
		s.unanswered = false
		c.unanswered--
	}
}

func (c *conn) forgetEnded(s *stream) {
	if s.recvEnd && s.sentEnd {
		c.forget(s, false)
	}
}

// forget takes the stream out of those on which frames mean something. The mutex is held.
func (c *conn) forget(s *stream, reset bool) {
	if c.streams[s.id] == s {
		delete(c.streams, s.id)
		c.closed.add(s.id, reset)
	}
}

// closedStreams remembers how the last streams ended. Frames that crossed our reset on the way are not the peer's fault; frames
// after its own end are.
type closedStreams struct {
	entries []closedStream
	next    int
	size    int
}

type closedStream struct {
	id    uint32
	reset bool // by us
}

func (c *closedStreams) add(id uint32, reset bool) {
	if len(c.entries) < c.size {
		c.entries = append(c.entries, closedStream{id, reset})
		return
	}
	c.entries[c.next] = closedStream{id, reset}
	c.next = (c.next + 1) % c.size
}

// find says whether the stream is remembered, and whether we reset it.
func (c *closedStreams) find(id uint32) (reset, ok bool) {
	for _, e := range c.entries {
		if e.id == id {
			return e.reset, true
		}
	}
	return false, false
}
