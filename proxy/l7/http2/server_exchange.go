package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// serverExchange is one request on a ServerConn and its answer: the l7.Exchange that the handler sees. It is reused.
type serverExchange struct {
	stream  stream
	conn    *ServerConn
	request l7.Request
	body    requestBody
	tunnel  tunnel
	status  exchangeStatus
	// begun: the answer has. Who streams the body may read while the response is written.
	begun atomic.Bool
	// refusal is why the request does not get to the handler, nil when it does; malformed: and its stream is reset.
	refusal   *l7.Error
	malformed bool
}

// exchangeStatus is how far the answer has come.
type exchangeStatus uint8

const (
	unanswered exchangeStatus = iota
	answered
	tunneled
	aborted
)

func (s *Server) borrowExchange(c *ServerConn) *serverExchange {
	x, _ := s.exchanges.Get().(*serverExchange)
	if x == nil {
		x = &serverExchange{}
		x.body.exchange = x
	}
	x.conn, x.status, x.refusal, x.malformed = c, unanswered, nil, false
	x.begun.Store(false)
	x.stream.begin(&c.conn)
	return x
}

func (x *serverExchange) beginBody() {
	r := &x.request
	if r.Upgrade != "" || r.Method == "CONNECT" {
		x.stream.tunneled = true
		return // what follows is not content
	}
	x.stream.declared = r.ContentLength
	x.body.begin(&x.stream, l7.Downstream)
	x.body.expected.Store(r.ExpectContinue)
	r.Body = &x.body
}

// run has the request answered, and ends the exchange. A panic of the handler ends this exchange only.
func (x *serverExchange) run(ctx context.Context) {
	defer x.finish()
	if x.refusal != nil {
		x.refuse(ctx, x.refusal)
		return
	}
	err := x.awaitEnd()
	if err == nil {
		err = x.handle(ctx)
	}
	if err != nil {
		x.refuse(ctx, err)
	}
}

// awaitEnd waits for the end of a request that announces no content and does not end with its head: until then it can still become
// malformed, and its head alone would be a whole message for an upstream (RFC 9113, Section 8.1.1).
func (x *serverExchange) awaitEnd() *l7.Error {
	if x.request.Body == nil || x.request.ContentLength != 0 {
		return nil
	}
	var none [1]byte
	if _, err := x.body.read(none[:], x.conn.timeouts.Body); !errors.Is(err, io.EOF) {
		return asError(err, l7.Downstream, observe.RequestTimeout, observe.IOError)
	}
	return nil
}

// handle returns an error when the handler left the request unanswered.
func (x *serverExchange) handle(ctx context.Context) (failed *l7.Error) {
	defer func() {
		cause := recover()
		if cause == nil && x.status != unanswered {
			return
		}
		err := errNoAnswer
		if cause != nil {
			err = fmt.Errorf("panic of the handler: %v", cause)
		}
		failed = &l7.Error{Reason: observe.Internal, Status: 500, Err: err}
	}()
	x.conn.server.options.Handler.ServeExchange(ctx, x)
	return nil
}

var errNoAnswer = errors.New("the handler gave no answer")

// refuse answers a request that the engine does not accept. A malformed one gets an answer that has no end, and a reset: clients
// that look see the status (RFC 9113, Section 8.1.1).
func (x *serverExchange) refuse(ctx context.Context, err *l7.Error) {
	resp := x.conn.server.refused(ctx, err)
	if x.status != unanswered {
		x.breakOff(codeInternal, err)
		return
	}
	if resp == nil {
		resp = &l7.Response{Status: err.Status}
	}
	_ = x.WriteResponse(resp)
}

// refused asks for the answer to a request that goes no further. A panic there is as if there were none.
func (s *Server) refused(ctx context.Context, err *l7.Error) (resp *l7.Response) {
	if s.options.Refused == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			resp = nil
		}
	}()
	return s.options.Refused(ctx, err)
}

// finish ends the stream, whatever the handler left of it, and gives the place back.
func (x *serverExchange) finish() {
	c, s := x.conn, &x.stream
	drain := x.request.Close
	cancel := s.cancel
	if x.status == tunneled {
		_ = x.tunnel.Close()
	}
	c.mu.Lock()
	switch {
	case x.malformed:
		if err := c.violated(s, codeProtocol, "malformed request"); err != nil {
			c.endLocked(c.endingOfRule(err))
		}
	case !s.sentEnd:
		c.reset(s, codeInternal, errUnended)
	default:
		// The answer is whole and does not depend on the rest of the request (RFC 9113, Section 8.1).
		c.reset(s, codeNo, errFinished)
	}
	s.dropContent()
	if s.waits {
		c.stopWaiting(s)
	}
	c.answered(s)
	c.release()
	c.mu.Unlock()
	cancel(nil)
	c.flush()
	if drain {
		c.Drain()
	}
	x.giveBack()
}

var (
	errUnended  = &l7.Error{Reason: observe.Internal, Status: 500, Err: errNoAnswer}
	errFinished = &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
)

// giveBack ends the use of the exchange. Nobody else knows its stream any more.
func (x *serverExchange) giveBack() {
	server := x.conn.server
	x.request.Reset()
	x.stream.trailer.Reset()
	x.stream.conn, x.stream.cancel, x.conn = nil, nil, nil
	server.exchanges.Put(x)
}

// Request implements l7.Exchange.
func (x *serverExchange) Request() *l7.Request { return &x.request }

// Informational implements l7.Exchange.
func (x *serverExchange) Informational(status int, header *l7.Header) error {
	if x.status != unanswered || status <= 101 || status > 199 {
		return &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	return x.informational(status, header)
}

func (x *serverExchange) informational(status int, header *l7.Header) error {
	block := appendStatus(beginBlock(borrow(smallBuffer)), status)
	block = frameBlock(appendFields(block, header), false)
	err := x.stream.sendHead(block, false)
	giveBack(block)
	x.conn.flush()
	return err
}

// WriteResponse implements l7.Exchange.
func (x *serverExchange) WriteResponse(resp *l7.Response) error {
	if x.status != unanswered || resp.Status < 200 || resp.Status > 999 {
		return &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	if x.request.Upgrade != "" && resp.Status < 300 && x.refusal == nil {
		return x.notUpgraded()
	}
	x.status = answered
	x.begun.Store(true)
	hasBody := l7.HasBody(x.request.Method, resp.Status) && !isEmpty(resp.Body, resp.ContentLength)
	ends := !hasBody && !x.malformed
	block := beginBlock(borrow(smallBuffer))
	block = frameBlock(appendResponse(block, resp, x.claim(resp)), ends)
	err := x.stream.sendHead(block, ends)
	giveBack(block)
	if err == nil && hasBody {
		err = x.stream.sendBody(resp.Body, resp.ContentLength, !x.malformed)
	}
	if err == nil {
		x.conn.flush()
		return nil
	}
	return x.failed(err)
}

// claim is the content-length of the head, negative for none.
func (x *serverExchange) claim(resp *l7.Response) int64 {
	switch {
	case !l7.HasBody(x.request.Method, resp.Status):
		// A length of 0 in a 304 that a handler made without one would be a claim about the resource.
		if resp.Status == 204 || resp.Status == 304 && resp.ContentLength == 0 {
			return -1
		}
		return resp.ContentLength
	case resp.Body == nil:
		return 0
	default:
		return resp.ContentLength
	}
}

// notUpgraded answers for an upstream that took an upgrade for an ordinary request: a 2xx would open the tunnel.
func (x *serverExchange) notUpgraded() error {
	_ = x.WriteResponse(&l7.Response{Status: 502})
	return &l7.Error{Reason: observe.UpgradeRefused, Status: 502, Side: l7.Upstream, Err: errNotUpgraded}
}

var errNotUpgraded = errors.New("the upgrade was answered like an ordinary request")

// failed gives the failure of a response its reason, and ends the stream if the peer has not.
func (x *serverExchange) failed(err error) error {
	if ofBody, ok := errors.AsType[*bodyError](err); ok {
		failed := asError(ofBody.err, l7.Upstream, observe.UpstreamTimeout, observe.UpstreamReset)
		x.breakOff(codeInternal, failed)
		return failed
	}
	failed := asError(err, l7.Downstream, observe.IdleTimeout, observe.IOError)
	x.breakOff(codeCancel, failed)
	return failed
}

// breakOff ends the stream so that the client cannot take the response for whole.
func (x *serverExchange) breakOff(code errCode, cause *l7.Error) {
	x.status = aborted
	x.conn.mu.Lock()
	x.conn.reset(&x.stream, code, cause)
	x.conn.mu.Unlock()
	x.conn.flush()
}

// Tunnel implements l7.Exchange.
func (x *serverExchange) Tunnel(resp *l7.Response) (l7.Stream, error) {
	if x.status != unanswered || x.request.Upgrade == "" {
		return nil, &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	x.status = tunneled
	x.begun.Store(true)
	block := frameBlock(appendTunnelResponse(beginBlock(borrow(smallBuffer)), resp), false)
	err := x.stream.sendHead(block, false)
	giveBack(block)
	if err != nil {
		return nil, x.failed(err)
	}
	x.conn.flush()
	x.tunnel = tunnel{stream: &x.stream}
	return &x.tunnel, nil
}

// Cut implements l7.Exchange.
func (x *serverExchange) Cut(cause *l7.Error) {
	x.conn.mu.Lock()
	x.conn.reset(&x.stream, codeCancel, cause)
	x.conn.mu.Unlock()
	x.conn.flushSoon()
}

// Abort implements l7.Exchange.
func (x *serverExchange) Abort() {
	x.breakOff(codeInternal, &l7.Error{Reason: observe.UpstreamReset, Status: 502, Err: errNoAnswer})
}
