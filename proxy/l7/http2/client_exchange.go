package http2

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// clientExchange is one request on a ClientConn and its response. It is made for each request, so that who closes a body late, or
// twice, does not meet the exchange of somebody else; only the buffer of the header goes round.
type clientExchange struct {
	stream stream
	conn   *ClientConn
	// method and upgrade are the request's; accept is the answer to its WebSocket key.
	method, upgrade, accept string
	upload                  upload
	response                l7.Response
	header                  *l7.Header // borrowed, in response.Header meanwhile
	body                    responseBody
	// stop ends the effect of the context; nil when it has none.
	stop  func() bool
	ended atomic.Bool

	// The rest is guarded by the mutex of the connection.

	// responded: the head is there. heads are the informational ones before it that were not passed on yet, informed their number.
	responded bool
	heads     []informational
	informed  int
	// begun: the request is on its way; refused: and the peer said that it does not look at it.
	begun, refused bool
}

// informational is a 1xx response.
type informational struct {
	status int
	header l7.Header
}

// upload is the body of the request. Its last four fields are guarded by the mutex of the connection.
type upload struct {
	body   l7.Body
	length int64
	// held: it waits for 100 (Continue), until then.
	held  bool
	until time.Time

	// touched: something may have been read of it; running: a function sends it; err is how that ended.
	touched, running bool
	err              error
	// done is where the end of the exchange waits for it.
	done l7.Parker
}

func (c *ClientConn) newExchange(req *l7.Request) *clientExchange {
	header, _ := c.client.headers.Get().(*l7.Header)
	if header == nil {
		header = &l7.Header{}
	}
	x := &clientExchange{conn: c, method: req.Method, upgrade: req.Upgrade, header: header}
	x.stream.begin(&c.conn)
	x.stream.client = x
	x.response.Header = *header
	x.body.exchange = x
	x.body.begin(&x.stream, l7.Upstream)
	x.upload.body, x.upload.length = req.Body, req.ContentLength
	if req.Upgrade == "websocket" {
		key, _ := req.Header.Get(fieldWebSocketKey)
		x.accept = webSocketAccept(key)
	}
	return x
}

// send sends the head and, when it is small and at hand, the body; otherwise a function streams it.
func (x *clientExchange) send(req *l7.Request) error {
	if x.upgrade != "" {
		if err := x.awaitExtendedConnect(); err != nil {
			return err
		}
	}
	u := &x.upload
	ends := x.upgrade == "" && isEmpty(u.body, u.length)
	block := frameBlock(appendRequest(beginBlock(borrow(smallBuffer)), req), ends)
	err := x.begin(block, ends)
	giveBack(block)
	if err != nil || ends || x.upgrade != "" {
		x.conn.flush()
		return err
	}
	if req.ExpectContinue {
		u.held, u.until = true, time.Now().Add(x.conn.timeouts.Continue)
		x.conn.flush()
		return nil
	}
	if n, whole := l7.ReadyOf(u.body); whole && n <= maxData {
		u.touched = true
		err := x.stream.sendBody(u.body, u.length, true)
		x.conn.flush()
		return x.sendFailure(err)
	}
	x.startUpload()
	return nil
}

// sendFailure is what of an error of sending fails the exchange at once. Others are left to what the peer has said: it may have
// answered before it stopped reading.
func (x *clientExchange) sendFailure(err error) error {
	if _, ok := errors.AsType[*bodyError](err); ok || isTimeout(err) {
		return err
	}
	return nil
}

// awaitExtendedConnect waits for the peer to say whether it knows RFC 8441.
func (x *clientExchange) awaitExtendedConnect() error {
	c := x.conn
	deadline := time.Now().Add(c.timeouts.Head)
	for {
		c.mu.Lock()
		settled, knows, over, err := c.peer.received, c.peer.connectProtocol, c.life.ended != nil, x.stream.err
		if !settled && !over && err == nil {
			c.unsettled = append(c.unsettled, x)
		}
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case over:
			return errOver()
		case knows:
			return nil
		case settled:
			return &l7.Error{Reason: observe.UpgradeRefused, Status: 502, Side: l7.Upstream, Err: errNoConnect}
		}
		if !x.stream.readable.Park(deadline) {
			return os504(errSlow)
		}
	}
}

var errNoConnect = errors.New("the upstream knows no extended CONNECT")

func errOver() *l7.Error {
	return &l7.Error{Reason: observe.UpstreamReset, Status: 502, Side: l7.Upstream, Err: errors.New("the connection takes no requests")}
}

func os504(err error) *l7.Error {
	return &l7.Error{Reason: observe.UpstreamTimeout, Status: 504, Side: l7.Upstream, Err: err}
}

// begin gives the request its stream. Streams begin in the order of their identifiers, so that both happen under one lock.
func (x *clientExchange) begin(frames []byte, ends bool) error {
	c, s := x.conn, &x.stream
	if err := s.awaitRoom(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case c.life.ended != nil, c.life.peerGoes:
		return errOver()
	case int64(len(c.streams)) >= int64(c.peer.maxStreams):
		return errOver() // places were taken before the peer said how many it has (RFC 9113, Section 5.1.2)
	}
	s.id = c.nextID()
	c.lastOwn = s.id
	s.send = sendWindow(c.peer.initialWindow)
	s.recv.left = c.limits.StreamWindow
	c.streams[s.id] = s
	x.begun = true
	c.budget.streamBegan()
	setStream(frames, s.id)
	c.out.add(frames)
	if ends {
		c.endSent(s)
	}
	return nil
}

// nextID is the next of the odd numbers. The mutex is held.
func (c *ClientConn) nextID() uint32 {
	if c.lastOwn == 0 {
		return 1
	}
	return c.lastOwn + 2
}

// startUpload streams the body. The function takes nothing from the request, which is the caller's again as soon as RoundTrip has
// returned.
func (x *clientExchange) startUpload() {
	u := &x.upload
	u.held = false
	x.conn.mu.Lock()
	u.touched, u.running, u.done = true, true, x.conn.driver.NewParker()
	x.conn.mu.Unlock()
	x.conn.start(func() {
		err := x.runUpload()
		x.conn.mu.Lock()
		u.running, u.err = false, err
		if x.sendFailure(err) != nil {
			// Without the rest of its request, or when it does not take it, the upstream may wait for ever.
			x.conn.reset(&x.stream, codeCancel, x.errorOf(err))
		}
		x.stream.readable.Unpark()
		u.done.Unpark()
		x.conn.mu.Unlock()
		x.conn.flush()
	})
}

func (x *clientExchange) runUpload() (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = &bodyError{fmt.Errorf("panic while the request's body was read: %v", cause)}
		}
	}()
	return x.stream.sendBody(x.upload.body, x.upload.length, true)
}

// receive waits for the final head, and passes those before it on.
func (x *clientExchange) receive(onInformational func(int, *l7.Header)) error {
	var until time.Time
	for {
		info, done, err := x.look()
		switch {
		case err != nil:
			return err
		case info == nil && done:
			x.body.sized = x.stream.declared >= 0
			return nil
		case info != nil && info.status != 100:
			if onInformational != nil {
				onInformational(info.status, &info.header)
			}
			continue
		case info != nil && x.upload.held:
			if err := x.proceed(); err != nil {
				return err
			}
			continue
		case info != nil:
			continue
		}
		if err := x.parkForHead(&until); err != nil {
			return err
		}
	}
}

// look takes the next head: an informational one, or with done the final one.
func (x *clientExchange) look() (info *informational, done bool, err error) {
	x.conn.mu.Lock()
	defer x.conn.mu.Unlock()
	if len(x.heads) > 0 {
		info = &x.heads[0]
		x.heads = x.heads[1:]
		return info, false, nil
	}
	if x.responded {
		return nil, true, nil
	}
	if err := x.sendFailure(x.upload.err); err != nil {
		return nil, false, err
	}
	if x.stream.err != nil {
		return nil, false, x.stream.err
	}
	return nil, false, nil
}

// parkForHead waits for the response: when the request's body is held back, not longer than a client waits for 100 (Continue), and
// while it is sent for ever, since the upstream may want the whole request first.
func (x *clientExchange) parkForHead(until *time.Time) error {
	c := x.conn
	if x.upload.held {
		if x.stream.readable.Park(x.upload.until) {
			return nil
		}
		return x.proceed()
	}
	c.mu.Lock()
	running := x.upload.running
	c.mu.Unlock()
	if running {
		*until = time.Time{}
	} else if until.IsZero() {
		*until = time.Now().Add(c.timeouts.Response)
	}
	if x.stream.readable.Park(*until) {
		return nil
	}
	return os504(errNoResponse)
}

var errNoResponse = errors.New("no response came in time")

// proceed asks the downstream for the body that was held back, and streams it.
func (x *clientExchange) proceed() error {
	if err := l7.Start(x.upload.body); err != nil {
		return &bodyError{err}
	}
	x.startUpload()
	return nil
}

// head takes a head from the reading function. The mutex is held.
func (x *clientExchange) head(b *block, endStream bool) *connError {
	c, s := x.conn, &x.stream
	b.response(&x.response, x.method, endStream)
	resp := &x.response
	if b.err != nil {
		return c.violated(s, codeProtocol, b.err.Err.Error())
	}
	if resp.Status < 200 {
		if x.informed++; x.informed > c.limits.MaxInformational {
			return c.violated(s, codeProtocol, "too many 1xx responses")
		}
		x.heads = append(x.heads, informational{resp.Status, *resp.Header.Clone()})
		s.readable.Unpark()
		return nil
	}
	switch {
	case x.upgrade != "" && resp.Status < 300:
		x.upgraded()
	case l7.HasBody(x.method, resp.Status):
		s.declared = resp.ContentLength
	default:
		s.declared = 0
	}
	resp.Body = &x.body
	x.responded = true
	s.readable.Unpark()
	if endStream {
		return c.endReceived(s)
	}
	return nil
}

// upgraded makes the answer to an extended CONNECT the one that HTTP/1 has.
func (x *clientExchange) upgraded() {
	x.stream.tunneled = true
	resp := &x.response
	resp.Status, resp.Upgrade, resp.ContentLength = 101, x.upgrade, -1
	if x.accept != "" {
		resp.Header.Set(fieldWebSocketAccept, x.accept)
	}
}

// resetByPeer is the peer's RST_STREAM. After a complete response it only ends the upload, whatever the code is (RFC 9113, Section
// 8.1). The mutex is held.
func (x *clientExchange) resetByPeer(code errCode) {
	s := &x.stream
	if s.recvEnd {
		s.stopped = true
		s.wake()
		return
	}
	x.refused = code == codeRefusedStream && !x.responded
	s.failReset(&l7.Error{Reason: observe.UpstreamReset, Status: 502, Side: l7.Upstream, Err: fmt.Errorf("the upstream reset the stream: error code %d", code)})
}

// refusedByPeer is a GOAWAY that leaves the stream out. The mutex is held.
func (x *clientExchange) refusedByPeer() {
	x.refused = true
	x.stream.fail(&l7.Error{Reason: observe.UpstreamReset, Status: 502, Side: l7.Upstream, Err: errGone})
}

var errGone = errors.New("the upstream ends the connection and did not look at the request")

// cancelled is the end of the context.
func (x *clientExchange) cancelled(ctx context.Context) {
	c := x.conn
	reason := l7.ReasonOf(context.Cause(ctx), observe.UpstreamTimeout)
	err := &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: l7.Upstream, Err: context.Cause(ctx)}
	c.mu.Lock()
	if x.begun {
		c.reset(&x.stream, codeCancel, err)
	} else {
		x.stream.fail(err)
	}
	c.mu.Unlock()
	c.flushSoon()
}

// errorOf is whose fault a failure of the exchange is.
func (x *clientExchange) errorOf(err error) *l7.Error {
	if ofBody, ok := errors.AsType[*bodyError](err); ok {
		cause := asError(ofBody.err, l7.Downstream, observe.RequestTimeout, observe.IOError)
		return &l7.Error{Reason: cause.Reason, Side: l7.Downstream, Err: cause.Err}
	}
	if isTimeout(err) {
		return os504(err)
	}
	cause := asError(err, l7.Upstream, observe.UpstreamTimeout, observe.UpstreamReset)
	return &l7.Error{Reason: cause.Reason, Side: cause.Side, Err: cause.Err}
}

// failed ends the exchange and says whose fault it was.
func (x *clientExchange) failed(ctx context.Context, err error) *l7.Error {
	x.end()
	c := x.conn
	c.mu.Lock()
	sent := x.begun && !x.refused || x.upload.touched
	responded := x.responded || x.informed > 0
	if uploadErr := x.sendFailure(x.upload.err); uploadErr != nil && !responded {
		err = uploadErr
	}
	c.mu.Unlock()
	failed := x.errorOf(err)
	if ctx.Err() != nil {
		failed = &l7.Error{Reason: l7.ReasonOf(context.Cause(ctx), observe.UpstreamTimeout), Side: l7.Upstream, Err: context.Cause(ctx)}
	}
	if failed.Reason == observe.UpgradeRefused {
		failed.Status = 502
	} else {
		failed.Status = l7.StatusOf(failed.Reason)
	}
	failed.Sent, failed.Responded = sent, responded
	return failed
}

// end finishes the exchange, once: nothing of it runs any more, and its place is free.
func (x *clientExchange) end() {
	if x.ended.Swap(true) {
		return
	}
	if x.stop != nil {
		x.stop()
	}
	c, s := x.conn, &x.stream
	c.mu.Lock()
	if x.begun {
		c.reset(s, codeCancel, &l7.Error{Reason: observe.UpstreamReset, Status: 502, Side: l7.Upstream, Err: errBodyClosed})
	}
	s.dropContent()
	if s.waits {
		c.stopWaiting(s)
	}
	s.wake()
	flush := len(c.out.pending) > 0
	c.mu.Unlock()
	if flush {
		c.flushSoon()
	}
	x.endUpload()
	c.mu.Lock()
	*x.header = x.response.Header
	x.response.Header = l7.Header{}
	c.mu.Unlock()
	x.header.Reset()
	c.client.headers.Put(x.header)
	c.freePlace()
}

// endUpload waits for the function that sends the body. What it still waits for is given up.
func (x *clientExchange) endUpload() {
	closed := false
	for {
		x.conn.mu.Lock()
		running, all := x.upload.running, x.stream.sentEnd
		x.conn.mu.Unlock()
		if !running {
			return
		}
		if !closed && !all {
			closed = true
			_ = x.upload.body.Close()
		}
		x.upload.done.Park(time.Time{})
	}
}

// responseBody is a body whose Close ends the exchange.
type responseBody struct {
	body
	exchange *clientExchange
	// sized: the response said how long it is.
	sized bool
}

// Read implements l7.Body.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.exchange.ended.Load() {
		return 0, errBodyClosed
	}
	t := b.exchange.conn.timeouts
	if b.sized {
		return b.read(p, t.Body)
	}
	return b.read(p, t.StreamIdle)
}

// Ready implements l7.Ready.
func (b *responseBody) Ready() (int, bool) {
	if b.exchange.ended.Load() {
		return 0, false
	}
	return b.body.Ready()
}

// Close implements l7.Body.
func (b *responseBody) Close() error {
	b.exchange.end()
	return nil
}

// Tunnel returns the byte stream behind the answer to an upgrade; see l7.Tunnel.
func (b *responseBody) Tunnel() (l7.Stream, error) {
	if b.exchange.response.Status != 101 {
		return nil, errors.New("no upgrade was answered with 101")
	}
	return &tunnel{stream: &b.exchange.stream, closed: b.exchange.end}, nil
}
