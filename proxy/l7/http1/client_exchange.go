package http1

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// clientExchange is one request on a ClientConn and its response. It is made for each request, so that who closes a body late, or
// twice, does not meet the exchange of somebody else; only the buffer of the header goes round.
type clientExchange struct {
	conn     *ClientConn
	request  *l7.Request
	response l7.Response
	header   *l7.Header // borrowed, in response.Header meanwhile
	body     responseBody
	// stop ends the effect of the context; nil when it has none.
	stop func() bool
	// sender streams the request's body beside the exchange; see startSender. sendErr is of whoever sent.
	sender  sender
	sendErr error
	// held: the request's body waits for 100 (Continue). unasked: it was sent although none had come, so that the upstream may
	// have answered without it, and take it for the next request.
	held, unasked bool
}

// sender is where the end of what streams a request's body is waited for: ended is set, with the exchange's sendErr before it, and
// then the parker told. Without a parker nothing was started.
type sender struct {
	ended  atomic.Bool
	parker l7.Parker
}

// responseBody is a body whose Close ends the exchange.
type responseBody struct {
	body
	exchange *clientExchange
}

// Tunnel makes the body of a 101 what l7.Tunnel asks for. The connection is then the stream's, which the caller closes; the context
// of the RoundTrip still ends it. The response stays valid until the body is closed, and for good when it is not.
func (b *responseBody) Tunnel() (l7.Stream, error) {
	x := b.exchange
	if x.conn == nil || x.response.Status != 101 {
		return nil, errNoUpgrade
	}
	return newTunnel(&x.conn.reader)
}

var errNoUpgrade = errors.New("no upgrade was answered with 101")

// Close implements l7.Body.
func (b *responseBody) Close() error {
	if x := b.exchange; x.conn != nil {
		_ = x.end()
	}
	return nil
}

func (c *Client) newExchange(conn *ClientConn, req *l7.Request) *clientExchange {
	header, _ := c.headers.Get().(*l7.Header)
	if header == nil {
		header = &l7.Header{}
	}
	x := &clientExchange{conn: conn, request: req, header: header}
	x.response.Header = *header
	x.body.exchange = x
	return x
}

// giveBack takes the buffer of the header out of the response, which has none from now on.
func (x *clientExchange) giveBack(c *Client) {
	*x.header = x.response.Header
	x.header.Reset()
	c.headers.Put(x.header)
	x.header, x.response.Header = nil, l7.Header{}
}

// send writes the head and, when it is at hand, the body; otherwise a sender streams it. A failure to write is not reported
// here: the upstream may have answered before it stopped reading.
func (x *clientExchange) send() error {
	c, r := x.conn, x.request
	buf := borrow(smallBuffer)
	head := appendRequestHead(buf[:0], r)
	if cap(head) != cap(buf) {
		giveBack(buf)
	}
	if r.Body == nil {
		x.sendErr = sendMessage(&c.writer, head, nil, noBody, 0)
		return nil
	}
	if r.ExpectContinue {
		x.held = true
		x.sendErr = sendMessage(&c.writer, head, nil, noBody, 0)
		return nil
	}
	if _, whole := l7.ReadyOf(r.Body); whole {
		x.sendErr = x.sendBody(head, r.Body, r.ContentLength)
		if _, ok := errors.AsType[*bodyError](x.sendErr); ok || isTimeout(x.sendErr) {
			return x.sendErr
		}
		return nil
	}
	x.startSender(head)
	return nil
}

// startSender streams the body, after head if there is one. It takes nothing from the request, which is the caller's again as soon
// as RoundTrip has returned.
func (x *clientExchange) startSender(head []byte) {
	x.held = false
	stream, body, length := x.conn.stream, x.request.Body, x.request.ContentLength
	driver := x.conn.client.driver
	x.sender.parker = driver.NewParker()
	driver.Go(func() {
		defer x.sender.end()
		defer func() {
			if cause := recover(); cause != nil {
				x.sendErr = &bodyError{fmt.Errorf("panic while the request's body was read: %v", cause)}
				_ = l7.Abort(stream)
			}
		}()
		x.sendErr = x.sendBody(head, body, length)
		// Without the rest of its request, or when it does not take it, the upstream may wait for ever.
		if _, failed := errors.AsType[*bodyError](x.sendErr); failed || isTimeout(x.sendErr) {
			_ = l7.Abort(stream)
		}
	})
}

func (s *sender) end() {
	s.ended.Store(true)
	s.parker.Unpark()
}

// wait returns true when the sender has ended, false when the deadline passed first; the zero deadline is none.
func (s *sender) wait(deadline time.Time) bool {
	for !s.ended.Load() {
		if !s.parker.Park(deadline) {
			return s.ended.Load()
		}
	}
	return true
}

func (x *clientExchange) sendBody(head []byte, body l7.Body, length int64) error {
	x.conn.writer.attempted = true // what is read of the body is gone, written or not
	kind := lengthBody
	if length < 0 {
		kind = chunkedBody
	}
	return sendMessage(&x.conn.writer, head, body, kind, length)
}

// receive reads heads until the final one.
func (x *clientExchange) receive(onInformational func(int, *l7.Header)) error {
	c := x.conn
	for count := 0; ; count++ {
		if count > c.client.limits.MaxInformational {
			return upstreamError(l7.NewError(observe.BadRequest, "too many 1xx responses"))
		}
		head, err := x.nextHead()
		if err != nil {
			return err
		}
		kind, parseErr := parseResponse(head, &x.response, x.request.Method, &c.client.limits)
		if parseErr != nil {
			return parseErr
		}
		c.reader.consume(len(head))
		final, err := x.accept(kind, onInformational)
		if err != nil || final {
			return err
		}
	}
}

// nextHead waits for a head; when the request's body is held back, not longer than a client waits for 100 (Continue).
func (x *clientExchange) nextHead() ([]byte, error) {
	if x.held {
		head, err := x.conn.head(time.Now().Add(x.conn.client.timeouts.Continue))
		if !isTimeout(err) {
			return head, err
		}
		if err := x.proceed(); err != nil {
			return nil, err
		}
		x.unasked = true
	}
	for {
		head, err := x.conn.head(time.Now().Add(x.conn.client.timeouts.Response))
		if isTimeout(err) && x.sending() {
			continue // the upstream may want the whole request first, however long it takes
		}
		return head, err
	}
}

// sending: the request's body is still under way.
func (x *clientExchange) sending() bool { return x.sender.parker != nil && !x.sender.ended.Load() }

// proceed asks the downstream for the body that was held back, and streams it.
func (x *clientExchange) proceed() error {
	if err := l7.Start(x.request.Body); err != nil {
		return &bodyError{err}
	}
	x.startSender(borrow(smallBuffer)[:0])
	return nil
}

// accept looks at one head and reports whether it is the final one.
func (x *clientExchange) accept(kind bodyKind, onInformational func(int, *l7.Header)) (bool, error) {
	c, resp := x.conn, &x.response
	switch {
	case resp.Status == 101:
		if x.request.Upgrade == "" || !strings.EqualFold(resp.Upgrade, x.request.Upgrade) {
			return false, upstreamError(l7.NewError(observe.BadRequest, "101 for an upgrade that was not asked for"))
		}
		if err := checkAccept(x.request, resp); err != nil {
			return false, err
		}
	case resp.Status == 100:
		x.unasked = false
		if x.held {
			return false, x.proceed()
		}
		return false, nil
	case resp.Status < 200:
		if onInformational != nil {
			onInformational(resp.Status, &resp.Header)
		}
		return false, nil
	}
	x.body.begin(&c.reader, kind, resp.ContentLength, l7.Upstream, &c.client.limits, c.client.timeouts.Body)
	resp.Body = &x.body
	return true, nil
}

// fail ends the exchange and says whose fault it was.
func (x *clientExchange) fail(ctx context.Context, err error) *l7.Error {
	c := x.conn
	c.spent = true
	sendErr := x.end() // the sender has ended: only now is it known what was attempted
	sent, responded := c.writer.attempted, x.response.Status != 0 || len(c.reader.buffered()) > 0
	bodyErr, ofBody := errors.AsType[*bodyError](err)
	if !ofBody {
		bodyErr, ofBody = errors.AsType[*bodyError](sendErr)
	}
	var failed *l7.Error
	switch {
	case ctx.Err() != nil:
		failed = &l7.Error{Reason: contextReason(ctx), Side: l7.Upstream, Err: context.Cause(ctx)}
	case ofBody && !errors.Is(bodyErr, errHalted):
		cause := streamError(bodyErr.err, l7.Downstream, observe.RequestTimeout, observe.IOError)
		failed = &l7.Error{Reason: cause.Reason, Side: l7.Downstream, Err: cause.Err}
	default:
		cause := streamError(err, l7.Upstream, observe.UpstreamTimeout, observe.UpstreamReset)
		if cause.Side == l7.Downstream {
			cause = upstreamError(cause)
		}
		failed = &l7.Error{Reason: cause.Reason, Side: l7.Upstream, Err: cause.Err}
	}
	failed.Status, failed.Sent, failed.Responded = l7.StatusOf(failed.Reason), sent, responded
	return failed
}

// contextReason is that of the context's cause, if it has one, and otherwise UpstreamTimeout.
func contextReason(ctx context.Context) observe.Reason {
	return l7.ReasonOf(context.Cause(ctx), observe.UpstreamTimeout)
}

// end finishes the exchange: the sender has ended, buffers are given back, and the connection is spent unless both messages ended
// cleanly. It returns the error of the sender.
func (x *clientExchange) end() error {
	c := x.conn
	if x.response.Status == 101 {
		c.spent = true
	}
	x.endSender()
	if x.stop != nil && !x.stop() {
		c.spent = true
	}
	sendErr := x.sendErr
	clean := x.body.complete() && !x.response.Close && sendErr == nil && !x.held && !x.unasked && len(c.reader.buffered()) == 0
	c.spent = c.spent || !clean
	c.exchange = nil
	c.reader.halt = nil
	if !c.spent {
		c.reader.release()
	}
	x.conn, x.request, x.stop = nil, nil, nil
	if !x.body.complete() {
		x.body.err = errSpent
	}
	x.giveBack(c.client)
	return sendErr
}

// endSender waits for what sends the body. When it still runs, the response came before the whole request was taken: the rest is
// given up, and the connection with it.
func (x *clientExchange) endSender() {
	// The upstream may have answered the last bytes before the function that wrote them goes on.
	if !x.sending() || x.sender.wait(time.Now().Add(lastWords)) {
		return
	}
	x.conn.spent = true
	_ = l7.Abort(x.conn.stream)
	_ = x.request.Body.Close()
	x.sender.wait(time.Time{})
}

// lastWords is ample for a function that only has to return.
const lastWords = 10 * time.Millisecond
