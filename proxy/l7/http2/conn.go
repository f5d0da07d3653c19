package http2

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// conn is what both sides of a connection have in common: one function reads (read), any number of others have streams on it.
type conn struct {
	stream   l7.Stream
	driver   l7.Driver
	limits   *Limits
	timeouts *Timeouts
	role     role
	inbound  inbound
	// done is where the reading function waits, at its end, for all others.
	done l7.Parker

	mu sync.Mutex // guards everything below, and the streams

	peer    settings
	streams map[uint32]*stream
	closed  closedStreams
	// active is the number of places that are taken: handlers that run, requests that are under way.
	active int
	// unanswered is how many of the handlers have not ended their response. Clients may begin another stream as soon as they see
	// that end, which is before the handler has returned.
	unanswered int
	// lastPeer is the highest stream that the peer began.
	lastPeer uint32
	// lastOwn is the highest that we began; servers begin none.
	lastOwn uint32
	send    sendWindow
	recv    recvWindow
	// waiting have content and wait for what all streams share: the connection's window, or room in the output.
	waiting []*stream
	out     output
	budget  budget
	life    life
	scratch [frameHead + 8]byte
}

// role is the side of a connection. Its methods are called by the reading function, without the mutex.
type role interface {
	// beginBlock decides what the field block on a stream is.
	beginBlock(id uint32) (blockKind, *connError)
	// endBlock takes the block when it is whole.
	endBlock(id uint32, endStream bool) *connError
	// isServer tells the sides apart.
	isServer() bool
	// settled is told of every SETTINGS of the peer.
	settled()
	// look is asked before each wait: by when to look again, and whether the connection is at an end. The mutex is held.
	look(now time.Time) (time.Time, *ending)
}

// life is how far a connection has come. Guarded by the mutex of the connection.
type life struct {
	began time.Time
	// idleSince is when the last stream ended.
	idleSince time.Time
	// running is the number of functions that were started and have not returned.
	running int
	// goAway is what we announced, and when it is time for the last word.
	goAway goAway
	final  time.Time
	// refusedAbove is the last stream that we promised to serve; nothing above it begins.
	refusedAbove uint32
	// peerGoes: the peer sent GOAWAY, whose last stream was peerLast.
	peerGoes bool
	peerLast uint32
	// ended is why the connection ends; nil while it lives.
	ended *ending
}

// goAway is how far the announcement of an end has come (RFC 9113, Section 6.8).
type goAway uint8

const (
	notLeaving goAway = iota
	leaving           // announced, with every stream still welcome
	lastCall          // announced, with the last stream that is served
)

// ending is why a connection ends.
type ending struct {
	code   errCode
	reason observe.Reason
	// silent: the peer is gone, or is not to be told.
	silent bool
	cause  error
}

// Error makes it an error of the reading function.
func (e *ending) Error() string { return e.reason.String() }

func (c *conn) init(under l7.Stream, driver l7.Driver, limits *Limits, timeouts *Timeouts, role role) {
	c.stream, c.driver, c.limits, c.timeouts, c.role = under, driver, limits, timeouts, role
	c.done = driver.NewParker()
	c.peer = initialSettings()
	c.streams = make(map[uint32]*stream)
	c.closed.size = 2*limits.MaxStreams + 64
	c.send = defaultWindow
	c.recv.left = max(limits.ConnectionWindow, defaultWindow)
	c.life.began = time.Now()
	c.life.idleSince = c.life.began
	c.life.refusedAbove = maxStreamID
	c.inbound.reader.stream = under
	c.inbound.block.limits = limits
	c.inbound.decoder = hpack.NewDecoder(headerTable, c.inbound.block.emit)
}

// headerTable is the size of the decoder's table: the one that every peer assumes (RFC 9113, Section 6.5.2).
const headerTable = 4096

// start runs f beside its caller; the connection does not end before it has returned.
func (c *conn) start(f func()) {
	c.mu.Lock()
	c.life.running++
	c.mu.Unlock()
	c.driver.Go(func() {
		defer c.stopped()
		f()
	})
}

func (c *conn) stopped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life.running--
	c.wakeEnding()
}

// wakeEnding has the reading function look, if it waits for the others at the end. The mutex is held.
func (c *conn) wakeEnding() {
	if c.life.ended != nil {
		c.done.Unpark()
	}
}

// end has the connection end for that reason, if it has none yet. It may be called from anywhere.
func (c *conn) end(e *ending) {
	c.mu.Lock()
	c.endLocked(e)
	c.mu.Unlock()
}

// endLocked is end with the mutex held. Waking the reader sets a deadline, which waits for nothing.
func (c *conn) endLocked(e *ending) {
	if c.life.ended != nil {
		c.wakeEnding()
		return
	}
	c.life.ended = e
	for _, s := range c.streams {
		s.fail(c.lost(e))
	}
	clear(c.streams)
	for _, s := range c.waiting {
		s.waits = false
		s.wakeWriter()
	}
	c.waiting = nil
	if !e.silent {
		c.sayLast(e.code)
	}
	c.inbound.reader.wake()
	c.done.Unpark()
}

// sayLast queues the GOAWAY that ends the connection, unless it was sent. The mutex is held.
func (c *conn) sayLast(code errCode) {
	if c.life.goAway != lastCall || code != codeNo {
		c.life.goAway = lastCall
		c.life.refusedAbove = c.lastPeer
		c.out.add(appendGoAway(c.scratch[:0], c.lastPeer, code))
	}
}

// lost is the error of streams that end with their connection.
func (c *conn) lost(e *ending) *l7.Error {
	cause := e.cause
	if cause == nil {
		cause = errors.New("the connection ended")
	}
	if err, ok := errors.AsType[*l7.Error](cause); ok {
		return err
	}
	if c.role.isServer() {
		return &l7.Error{Reason: observe.IOError, Status: 500, Err: cause}
	}
	reason := observe.UpstreamReset
	if e.reason == observe.ProtocolError || e.reason == observe.Abuse {
		reason = observe.UpstreamProtocol
	}
	if e.reason == observe.UpstreamTimeout {
		reason = observe.UpstreamTimeout
	}
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: l7.Upstream, Err: cause}
}

// fault is the error of a message in which the peer broke a rule.
func (c *conn) fault(reason observe.Reason, text string) *l7.Error {
	err := l7.NewError(reason, text)
	if !c.role.isServer() {
		return upstreamError(err)
	}
	return err
}

// run reads until the connection ends, has everything else end, and closes the stream. It returns why.
func (c *conn) run(read func() error) *ending {
	err := read()
	c.inbound.reader.release()
	c.end(c.endingOf(err))
	c.mu.Lock()
	e := c.life.ended
	c.mu.Unlock()
	if !e.silent {
		c.flush()
		c.waitFor(c.written, time.Now().Add(c.timeouts.Linger))
		c.linger()
	}
	_ = c.stream.Close()
	c.mu.Lock()
	c.out.closed = true
	c.mu.Unlock()
	return e
}

// written reports that nothing is on its way to the peer. The mutex is held.
func (c *conn) written() bool { return !c.out.writing }

// quiet reports that nothing runs for the connection any more. The mutex is held.
func (c *conn) quiet() bool { return c.life.running == 0 }

// waitFor parks the reading function at its end until the condition holds.
func (c *conn) waitFor(holds func() bool, deadline time.Time) {
	for {
		c.mu.Lock()
		ok := holds()
		c.mu.Unlock()
		if ok || !c.done.Park(deadline) {
			return
		}
	}
}

// endingOf tells what the reading function met.
func (c *conn) endingOf(err error) *ending {
	if e, ok := errors.AsType[*connError](err); ok {
		return c.endingOfRule(e)
	}
	if e, ok := errors.AsType[*ending](err); ok {
		return e
	}
	c.mu.Lock()
	busy, going := c.active > 0, c.life.goAway != notLeaving
	c.mu.Unlock()
	if ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); ended && !busy {
		// Many clients end an unused connection without close_notify; nothing was under way that this could cut short.
		if going {
			return &ending{reason: observe.Drained, silent: true}
		}
		return &ending{reason: c.closedByPeer(), silent: true}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &ending{reason: observe.IOError, silent: true, cause: err}
}

func (c *conn) closedByPeer() observe.Reason {
	if c.role.isServer() {
		return observe.PeerClosed
	}
	return observe.UpstreamClosed
}

// linger ends the writing side and goes on reading for a moment: closing with unread input resets the connection, and the reset
// can destroy the GOAWAY before the peer has read it.
func (c *conn) linger() {
	if c.stream.CloseWrite() != nil {
		return
	}
	end := time.Now().Add(c.timeouts.Linger)
	buf := borrow(smallBuffer)
	defer giveBack(buf)
	for left := maxLinger; left > 0; {
		n, err := c.inbound.reader.read(buf, end)
		if err != nil && !errors.Is(err, errWoken) || time.Now().After(end) {
			return
		}
		left -= n
	}
	// A peer that still sends fast gets the moment, too, but nobody reads for it.
	c.driver.NewParker().Park(end)
}

// maxLinger is how much is read of what a peer sends after the end.
const maxLinger = 64 << 10

// leave begins a graceful end: what has begun goes on, and so does what the peer begins before it can know.
func (c *conn) leave(within time.Duration) {
	c.mu.Lock()
	if c.life.goAway != notLeaving || c.life.ended != nil {
		c.mu.Unlock()
		return
	}
	c.life.goAway = leaving
	c.life.final = time.Now().Add(within)
	c.out.add(appendGoAway(c.scratch[:0], maxStreamID, codeNo))
	c.out.add(appendPing(c.scratch[:0], 0, drainPing))
	c.mu.Unlock()
	c.flushSoon()
	c.inbound.reader.wake()
}

// drainPing is the payload by whose answer we know that the peer has read the announcement.
var drainPing = [8]byte{'p', 'o', 's', 't', 'e', 'r', 'n', 1}

// lastWord tells which streams are served to their end, once it is known that no others are on their way. The mutex is held.
func (c *conn) lastWord() {
	if c.life.goAway == leaving {
		c.sayLast(codeNo)
	}
}

// left reports that an announced end has come: nothing is under way. The mutex is held.
func (c *conn) left() bool { return c.life.goAway == lastCall && c.active == 0 }

// release gives a place back. The mutex is held.
func (c *conn) release() {
	if c.active--; c.active > 0 {
		return
	}
	c.life.idleSince = time.Now()
	if c.life.goAway == lastCall || c.life.peerGoes {
		c.inbound.reader.wake()
	}
	c.wakeEnding()
}

// giveBackConn announces to the peer what of the connection's window has been read. It reports that there is something to flush.
// The mutex is held.
func (c *conn) giveBackConn(n int) bool {
	if n = c.recv.giveBack(n, c.limits.ConnectionWindow/4); n == 0 {
		return false
	}
	c.out.add(appendWindowUpdate(c.scratch[:0], 0, n))
	return true
}

// wakeWaiting lets as many go on as can send with what is there, in the order in which they came to wait. Those that find nothing
// left wait again, at the end. The mutex is held.
func (c *conn) wakeWaiting() {
	if !c.out.room() {
		return
	}
	n := len(c.waiting) // without a window: those that have no content and wait for room only
	if c.send > 0 {
		n = min(n, int(c.send)/maxData+1)
	}
	for _, s := range c.waiting[:n] {
		s.waits = false
		s.wakeWriter()
	}
	left := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[left:])
	c.waiting = c.waiting[:left]
}

// stopWaiting takes a stream out of those that wait, and lets another have its turn. The mutex is held.
func (c *conn) stopWaiting(s *stream) {
	for i, w := range c.waiting {
		if w == s {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			break
		}
	}
	s.waits = false
	c.wakeWaiting()
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// endingOfRule is the end of a connection whose peer broke a rule.
func (c *conn) endingOfRule(err *connError) *ending {
	return &ending{code: err.code, reason: err.reason, cause: err}
}
