package http2

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// inbound is what the reading function of a connection owns.
type inbound struct {
	reader  reader
	decoder *hpack.Decoder
	block   block
	open    openBlock
	// greeted: the peer's SETTINGS came, without which nothing else may (RFC 9113, Section 3.4).
	greeted bool
	// partial is since when a frame has been incomplete; zero when none is.
	partial time.Time
	// heard is when the last bytes came.
	heard time.Time
}

// openBlock is a field block whose END_HEADERS has not come: nothing but its CONTINUATION may come before.
type openBlock struct {
	stream    uint32 // 0 when there is none
	endStream bool
	bytes     int
	small     int
	until     time.Time
}

const (
	// maxSmall is how many CONTINUATION frames below smallFragment a block may have: no sender has a reason to cut so fine.
	maxSmall      = 16
	smallFragment = 1 << 10
)

// read handles frames until the connection ends. All that are buffered are handled before anything is sent.
func (c *conn) read() error {
	in := &c.inbound
	for {
		f, need, err := parseFrame(in.reader.buffered())
		if err != nil {
			return err
		}
		if need > 0 {
			if err := c.await(need); err != nil {
				return err
			}
			continue
		}
		if err := c.handle(&f); err != nil {
			return err
		}
		in.reader.consume(frameHead + len(f.payload))
		in.partial = time.Time{}
	}
}

// await sends what the frames gave reason for, and waits for more bytes, up to a buffered size of need.
func (c *conn) await(need int) error {
	in := &c.inbound
	for {
		deadline, err := c.look(time.Now())
		if err != nil {
			return err
		}
		c.flushSoon()
		switch err := in.reader.fill(need, deadline); {
		case err == nil:
			in.heard = time.Now()
			return nil
		case errors.Is(err, errWoken), isTimeout(err): // look decides what it means
		default:
			return err
		}
	}
}

// look decides by when the next bytes have to come.
func (c *conn) look(now time.Time) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.ended != nil {
		return time.Time{}, c.life.ended
	}
	deadline, err := c.lookInbound(now)
	if err != nil {
		return deadline, err
	}
	by, e := c.role.look(now)
	if e != nil {
		return by, e
	}
	return earlier(deadline, by), nil
}

// lookInbound holds the peer to finishing what it began.
func (c *conn) lookInbound(now time.Time) (time.Time, error) {
	in := &c.inbound
	var deadline time.Time
	if !in.greeted {
		deadline = c.life.began.Add(c.timeouts.Head)
		if !now.Before(deadline) {
			if c.role.isServer() {
				return deadline, &ending{reason: observe.IdleTimeout, cause: errSlow}
			}
			return deadline, &ending{reason: observe.UpstreamTimeout, cause: errSlow}
		}
	}
	if in.open.stream != 0 {
		deadline = earlier(deadline, in.open.until)
	}
	if buffered := in.reader.buffered(); len(buffered) > 0 {
		deadline = earlier(deadline, c.partialBy(buffered, now))
	}
	if !deadline.IsZero() && !now.Before(deadline) {
		return deadline, &connError{codeEnhanceYourCalm, observe.RequestTimeout, "frame or field block not complete in time"}
	}
	return deadline, nil
}

// partialBy is when a frame that has begun must be complete. The content of DATA may take its time, as long as it moves.
func (c *conn) partialBy(buffered []byte, now time.Time) time.Time {
	in := &c.inbound
	if in.partial.IsZero() {
		in.partial = now
	}
	if len(buffered) >= frameHead && frameType(buffered[3]) == frameData {
		return later(in.partial, in.heard).Add(c.timeouts.Body)
	}
	return in.partial.Add(c.timeouts.Head)
}

var errResetByPeer = errors.New("the peer reset the stream")

var errSlow = errors.New("the connection preface did not come in time")

// earlier is the earlier of two deadlines; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// handle takes one frame.
func (c *conn) handle(f *frame) error {
	in := &c.inbound
	if in.open.stream != 0 && (f.kind != frameContinuation || f.stream != in.open.stream) {
		return protocolError("field block interrupted by another frame")
	}
	if !in.greeted && (f.kind != frameSettings || f.has(flagAck)) {
		return protocolError("the first frame is not SETTINGS")
	}
	if err := c.dispatch(f); err != nil {
		return err
	}
	return nil
}

func (c *conn) dispatch(f *frame) *connError {
	switch f.kind {
	case frameData:
		return c.onData(f)
	case frameHeaders:
		return c.onHeaders(f)
	case frameContinuation:
		return c.onContinuation(f)
	case framePriority:
		return c.onPriority(f)
	case frameRSTStream:
		return c.onRSTStream(f)
	case frameSettings:
		return c.onSettings(f)
	case framePushPromise:
		return protocolError("PUSH_PROMISE where it is not allowed")
	case framePing:
		return c.onPing(f)
	case frameGoAway:
		return c.onGoAway(f)
	case frameWindowUpdate:
		return c.onWindowUpdate(f)
	default:
		return c.control() // RFC 9113, Section 5.5: unknown frames are ignored
	}
}

// control counts a frame that carries nothing.
func (c *conn) control() *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.controlLocked()
}

func (c *conn) controlLocked() *connError {
	if len(c.out.pending) > outputLimit+c.limits.MaxHead {
		return abuse("answers are asked for and not read")
	}
	return c.budget.controlFrame(time.Now())
}

// onHeaders begins a field block (RFC 9113, Section 6.2).
func (c *conn) onHeaders(f *frame) *connError {
	if f.stream == 0 {
		return protocolError("HEADERS on stream 0")
	}
	fragment, err := f.unpadded()
	if err != nil {
		return err
	}
	dependsOnItself := false
	if f.has(flagPriority) {
		if len(fragment) < 5 {
			return brokenRule(codeFrameSize, "HEADERS without its priority")
		}
		dependsOnItself = binary.BigEndian.Uint32(fragment)&maxStreamID == f.stream
		fragment = fragment[5:]
	}
	kind, err := c.role.beginBlock(f.stream)
	if err != nil {
		return err
	}
	in := &c.inbound
	in.block.begin(kind)
	if dependsOnItself {
		in.block.malform("stream that depends on itself")
	}
	in.open = openBlock{stream: f.stream, endStream: f.has(flagEndStream), until: time.Now().Add(c.timeouts.Head)}
	return c.fragment(fragment, f.has(flagEndHeaders))
}

// onContinuation goes on with it (RFC 9113, Section 6.10).
func (c *conn) onContinuation(f *frame) *connError {
	open := &c.inbound.open
	if open.stream == 0 {
		return c.strayContinuation(f)
	}
	if len(f.payload) == 0 && !f.has(flagEndHeaders) {
		return abuse("empty CONTINUATION")
	}
	if len(f.payload) < smallFragment {
		if open.small++; open.small > maxSmall {
			return abuse("field block in too many pieces")
		}
	}
	return c.fragment(f.payload, f.has(flagEndHeaders))
}

func (c *conn) strayContinuation(f *frame) *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.closed.find(f.stream); ok {
		return brokenRule(codeStreamClosed, "CONTINUATION on a closed stream")
	}
	return protocolError("CONTINUATION without HEADERS")
}

// fragment decodes a part of the open block, and hands the block over when it is whole. A block that is refused is decoded to its
// end all the same, within a bound, because the state of the decoder is that of the connection.
func (c *conn) fragment(p []byte, last bool) *connError {
	in := &c.inbound
	if in.open.bytes += len(p); in.open.bytes > 2*c.limits.MaxHead {
		return abuse("field block too large")
	}
	if _, err := in.decoder.Write(p); err != nil {
		return brokenRule(codeCompression, "field block cannot be decoded")
	}
	if in.block.bomb() {
		return abuse("field block decodes to far more than a head may have")
	}
	if !last {
		return nil
	}
	if err := in.decoder.Close(); err != nil {
		return brokenRule(codeCompression, "field block is incomplete")
	}
	id, endStream := in.open.stream, in.open.endStream
	in.open = openBlock{}
	return c.role.endBlock(id, endStream)
}

// onData takes content (RFC 9113, Section 6.1). Padding counts for the windows and is read at once.
func (c *conn) onData(f *frame) *connError {
	if f.stream == 0 {
		return protocolError("DATA on stream 0")
	}
	content, err := f.unpadded()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.recv.take(len(f.payload)) {
		return brokenRule(codeFlowControl, "DATA beyond the connection's window")
	}
	if len(content) == 0 && !f.has(flagEndStream) {
		if err := c.controlLocked(); err != nil {
			return err
		}
	}
	s := c.streams[f.stream]
	if s == nil {
		c.giveBackConn(len(f.payload))
		return c.onClosed(f.stream, "DATA")
	}
	return c.receive(s, f, content)
}

// receive takes content on a stream that is known. The mutex is held.
func (c *conn) receive(s *stream, f *frame, content []byte) *connError {
	size := len(f.payload)
	refuse := func(code errCode, text string) *connError {
		c.giveBackConn(size)
		return c.violated(s, code, text)
	}
	switch {
	case s.recvEnd:
		return brokenRule(codeStreamClosed, "DATA after the end of the stream")
	case !s.recv.take(size):
		return refuse(codeFlowControl, "DATA beyond the stream's window")
	case s.client != nil && !s.client.responded:
		return refuse(codeProtocol, "DATA before a response")
	}
	s.received += int64(len(content))
	if s.declared >= 0 && s.received > s.declared {
		return refuse(codeProtocol, "content is longer than its content-length")
	}
	if s.deaf {
		c.giveBackConn(size)
	} else {
		s.content.add(content)
		s.giveBack(size - len(content))
	}
	if f.has(flagEndStream) {
		return c.endReceived(s)
	}
	if len(content) > 0 {
		s.readable.Unpark()
	}
	return nil
}

// onClosed judges a frame on a stream that is not known (RFC 9113, Section 5.1). The mutex is held.
func (c *conn) onClosed(id uint32, what string) *connError {
	if c.idle(id) {
		return protocolError(what + " on an idle stream")
	}
	reset, remembered := c.closed.find(id)
	switch {
	case c.refused(id): // RFC 9113, Section 6.8: what belongs to it can be discarded
		return c.controlLocked()
	case reset: // it crossed our reset on the way
		return nil
	case !remembered && !c.role.isServer():
		// So may this have done: requests that are cancelled fast are forgotten fast, and must not end the connection that others
		// share.
		return c.controlLocked()
	default:
		return brokenRule(codeStreamClosed, what+" on a closed stream")
	}
}

// idle reports a stream that nobody has begun. The mutex is held.
func (c *conn) idle(id uint32) bool {
	return id%2 == 0 || id > max(c.lastPeer, c.lastOwn) && !c.refused(id)
}

// refused reports a stream of the peer that the last GOAWAY has refused, seen or not. The mutex is held.
func (c *conn) refused(id uint32) bool {
	return c.role.isServer() && c.life.goAway == lastCall && id > c.life.refusedAbove
}

// onPriority checks the frame and ignores what it says (RFC 9113, Section 5.3.2).
func (c *conn) onPriority(f *frame) *connError {
	switch {
	case f.stream == 0:
		return protocolError("PRIORITY on stream 0")
	case len(f.payload) != 5:
		return brokenRule(codeFrameSize, "PRIORITY of a wrong length")
	case binary.BigEndian.Uint32(f.payload)&maxStreamID == f.stream:
		return protocolError("stream that depends on itself")
	}
	return c.control()
}

// onRSTStream is the peer's early end of a stream (RFC 9113, Section 6.4).
func (c *conn) onRSTStream(f *frame) *connError {
	if f.stream == 0 {
		return protocolError("RST_STREAM on stream 0")
	}
	if len(f.payload) != 4 {
		return brokenRule(codeFrameSize, "RST_STREAM of a wrong length")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.stream]
	if s == nil {
		if c.idle(f.stream) {
			return protocolError("RST_STREAM on an idle stream")
		}
		return c.controlLocked()
	}
	c.forget(s, false)
	return c.resetByPeer(s, errCode(binary.BigEndian.Uint32(f.payload)))
}

// resetByPeer ends the exchange of the stream. The mutex is held.
func (c *conn) resetByPeer(s *stream, code errCode) *connError {
	if s.client != nil {
		s.client.resetByPeer(code)
		return nil
	}
	s.failReset(&l7.Error{Reason: observe.IOError, Status: 500, Err: errResetByPeer})
	return c.budget.reset(time.Now())
}

// onSettings takes the peer's settings and acknowledges them (RFC 9113, Section 6.5).
func (c *conn) onSettings(f *frame) *connError {
	if f.stream != 0 {
		return protocolError("SETTINGS on a stream")
	}
	if err := c.control(); err != nil {
		return err
	}
	if f.has(flagAck) {
		if len(f.payload) > 0 {
			return brokenRule(codeFrameSize, "acknowledgement of SETTINGS with a payload")
		}
		return nil
	}
	c.inbound.greeted = true
	if err := c.takeSettings(f.payload); err != nil {
		return err
	}
	c.role.settled()
	return nil
}

func (c *conn) takeSettings(payload []byte) *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.peer.initialWindow
	if err := c.peer.take(payload, !c.role.isServer()); err != nil {
		return err
	}
	c.out.add(appendFrameHead(c.scratch[:0], 0, frameSettings, flagAck, 0))
	return c.shiftWindows(int64(c.peer.initialWindow) - int64(before))
}

// shiftWindows applies a change of the initial window to the streams that are open (RFC 9113, Section 6.9.2). The mutex is held.
func (c *conn) shiftWindows(by int64) *connError {
	if by == 0 {
		return nil
	}
	for _, s := range c.streams {
		if !s.send.open(by) {
			return brokenRule(codeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large")
		}
		s.wakeWriter()
	}
	return nil
}

// onPing answers, or is an answer (RFC 9113, Section 6.7).
func (c *conn) onPing(f *frame) *connError {
	if f.stream != 0 {
		return protocolError("PING on a stream")
	}
	if len(f.payload) != 8 {
		return brokenRule(codeFrameSize, "PING of a wrong length")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.controlLocked(); err != nil {
		return err
	}
	data := [8]byte(f.payload)
	if !f.has(flagAck) {
		c.out.add(appendPing(c.scratch[:0], flagAck, data))
		return nil
	}
	if data == drainPing {
		c.lastWord()
	}
	return nil
}

// onGoAway: the peer begins, or wants, nothing more (RFC 9113, Section 6.8).
func (c *conn) onGoAway(f *frame) *connError {
	if f.stream != 0 {
		return protocolError("GOAWAY on a stream")
	}
	if len(f.payload) < 8 {
		return brokenRule(codeFrameSize, "GOAWAY of a wrong length")
	}
	last := binary.BigEndian.Uint32(f.payload) & maxStreamID
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.controlLocked(); err != nil {
		return err
	}
	if c.life.peerGoes && last > c.life.peerLast {
		return protocolError("GOAWAY that takes a refusal back")
	}
	c.life.peerGoes, c.life.peerLast = true, last
	for id, s := range c.streams {
		if s.client != nil && id > last {
			c.forget(s, false)
			s.client.refusedByPeer()
		}
	}
	return nil
}

// onWindowUpdate opens a window (RFC 9113, Section 6.9).
func (c *conn) onWindowUpdate(f *frame) *connError {
	if len(f.payload) != 4 {
		return brokenRule(codeFrameSize, "WINDOW_UPDATE of a wrong length")
	}
	n := int64(binary.BigEndian.Uint32(f.payload) & maxStreamID)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.controlLocked(); err != nil {
		return err
	}
	if f.stream == 0 {
		if n == 0 {
			return protocolError("WINDOW_UPDATE of 0")
		}
		if !c.send.open(n) {
			return brokenRule(codeFlowControl, "the connection's window is too large")
		}
		c.wakeWaiting()
		return nil
	}
	s := c.streams[f.stream]
	switch {
	case s == nil && c.idle(f.stream):
		return protocolError("WINDOW_UPDATE on an idle stream")
	case s == nil:
		return nil
	case n == 0:
		return c.violated(s, codeProtocol, "WINDOW_UPDATE of 0")
	case !s.send.open(n):
		return c.violated(s, codeFlowControl, "the stream's window is too large")
	}
	s.wakeWriter()
	return nil
}
