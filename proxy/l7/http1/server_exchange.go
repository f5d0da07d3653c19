package http1

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// serverExchange is one request on a ServerConn and its answer: the l7.Exchange that the handler sees. It is reused.
type serverExchange struct {
	conn    *ServerConn
	request l7.Request
	body    requestBody
	status  exchangeStatus
	// last: the connection ends with this exchange.
	last bool
	// failure is why a response broke off.
	failure observe.Reason
}

// exchangeStatus is how far the answer has come.
type exchangeStatus uint8

const (
	unanswered exchangeStatus = iota
	answered
	tunneled
	aborted
)

// requestBody is a body that is asked for with 100 (Continue) when that is expected.
type requestBody struct {
	body
	exchange *serverExchange
	expected bool
	// unread is what is left of a body with a length, at most 0 of others. Who streams the body may read while the response is written.
	unread atomic.Int64
	// broken: reading failed, so that where the next request begins is not known. As with unread, who streams the body sets it.
	broken atomic.Bool
}

// Start implements l7.Starter.
func (b *requestBody) Start() error {
	if !b.expected {
		return nil
	}
	b.expected = false
	if b.exchange.status != unanswered {
		return b.failed(errNotAsked)
	}
	if err := b.exchange.conn.writer.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
		return b.failed(err)
	}
	return nil
}

// Read implements l7.Body.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.expected {
		if err := b.Start(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p)
	b.unread.Add(-int64(n))
	b.noteFailure()
	return n, err
}

// Ready implements l7.Ready: what was not asked for is not there.
func (b *requestBody) Ready() (int, bool) {
	if b.expected {
		return 0, false
	}
	n, whole := b.body.Ready()
	b.noteFailure()
	return n, whole
}

func (b *requestBody) noteFailure() {
	if b.err != nil && !b.complete() {
		b.broken.Store(true)
	}
}

var (
	errNotAsked = errors.New("the response came before the body was asked for")
	errAnswered = errors.New("the exchange was answered before")
)

func (s *Server) borrowExchange(c *ServerConn) *serverExchange {
	x, _ := s.exchanges.Get().(*serverExchange)
	if x == nil {
		x = &serverExchange{}
		x.body.exchange = x
	}
	x.conn, x.status, x.last, x.failure = c, unanswered, false, ""
	// A head that is refused before it is parsed is not answered like the request before it.
	x.request.Reset()
	x.body.expected = false
	x.body.unread.Store(0)
	x.body.broken.Store(false)
	return x
}

func (x *serverExchange) giveBack() {
	server := x.conn.server
	x.conn, x.body.reader = nil, nil
	server.exchanges.Put(x)
}

// readHead reads the request up to its body. The whole head has to come before one deadline, however often a byte comes.
func (x *serverExchange) readHead() *l7.Error {
	c := x.conn
	deadline := time.Now().Add(c.server.timeouts.Head)
	head, err := c.reader.section(false, c.server.limits.checkPartial, deadline)
	if err != nil {
		return streamError(err, l7.Downstream, observe.RequestTimeout, observe.IOError)
	}
	c.reader.consume(len(head))
	r := &x.request
	if err := parseRequest(head, r, &c.server.limits); err != nil {
		return err
	}
	if r.Scheme != "" && r.Scheme != c.server.options.Scheme {
		return l7.NewError(observe.BadRequest, "scheme of the request target is not that of the connection")
	}
	r.Scheme = c.server.options.Scheme
	x.beginBody()
	x.last = r.Close || r.Upgrade != "" || r.Method == "CONNECT"
	return nil
}

func (x *serverExchange) beginBody() {
	c, r := x.conn, &x.request
	kind := noBody
	switch {
	case r.ContentLength > 0:
		kind = lengthBody
	case r.ContentLength < 0:
		kind = chunkedBody
	}
	x.body.begin(&c.reader, kind, r.ContentLength, l7.Downstream, &c.server.limits, c.server.timeouts.Body)
	if kind != noBody {
		c.reader.pace.begin(c.server.limits.MinBodyRate, c.server.timeouts.Body)
	}
	x.body.expected = r.ExpectContinue && len(c.reader.buffered()) == 0
	x.body.unread.Store(max(r.ContentLength, 0))
	if kind != noBody {
		r.Body = &x.body
	}
}

// Request implements l7.Exchange.
func (x *serverExchange) Request() *l7.Request { return &x.request }

// Informational implements l7.Exchange.
func (x *serverExchange) Informational(status int, header *l7.Header) error {
	if x.status != unanswered || status <= 101 || status > 199 {
		return &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	if x.request.Protocol == l7.HTTP10 {
		return nil
	}
	buf := borrow(smallBuffer)
	out := appendStatusLine(buf[:0], status, "")
	out = append(appendFields(out, header), "\r\n"...)
	err := x.conn.writer.write(out)
	giveBack(buf)
	return x.writeFailed(err)
}

// WriteResponse implements l7.Exchange.
func (x *serverExchange) WriteResponse(resp *l7.Response) error {
	if x.status != unanswered || resp.Status < 200 || resp.Status > 999 {
		return &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	x.status = answered
	x.conn.writer.pace.begin(x.conn.server.limits.MinWriteRate, x.conn.writer.timeout)
	switch {
	case x.body.expected:
		// A client that was not asked for its body may send it or not; only the end of the connection settles that.
		x.last = true
	case x.body.unread.Load() > int64(x.conn.server.limits.MaxDrain):
		// finish would not read so much; the client is told before it sends another request.
		x.last = true
	case x.body.broken.Load():
		x.last = true
	case x.request.Close, x.conn.draining.Load():
		x.last = true
	}
	kind := x.framing(resp)
	buf := borrow(smallBuffer)
	head := appendResponseHead(buf[:0], resp, func(out []byte) []byte { return x.appendFraming(out, resp, kind) })
	if cap(head) != cap(buf) {
		giveBack(buf)
	}
	err := sendMessage(&x.conn.writer, head, resp.Body, kind, resp.ContentLength)
	if bodyErr, ok := errors.AsType[*bodyError](err); ok {
		x.breakOff(observe.UpstreamReset)
		failed := streamError(bodyErr.err, l7.Upstream, observe.UpstreamTimeout, observe.UpstreamReset)
		x.failure = failed.Reason
		return failed
	}
	return x.writeFailed(err)
}

// framing decides how the response ends, and with it whether the connection goes on.
func (x *serverExchange) framing(resp *l7.Response) bodyKind {
	switch {
	case !l7.HasBody(x.request.Method, resp.Status):
		return noBody
	case resp.Body == nil:
		resp.ContentLength = 0
		return lengthBody
	case resp.ContentLength >= 0:
		return lengthBody
	case x.request.Protocol == l7.HTTP11:
		return chunkedBody
	default:
		x.last = true
		return closeBody
	}
}

func (x *serverExchange) appendFraming(out []byte, resp *l7.Response, kind bodyKind) []byte {
	switch {
	case kind == chunkedBody:
		out = append(out, "transfer-encoding: chunked\r\n"...)
	case kind == lengthBody, kind == noBody && resp.ContentLength >= 0 && resp.Status != 204 && !x.unsaid(resp):
		out = appendLength(out, resp.ContentLength)
	}
	switch {
	case x.last:
		out = append(out, "connection: close\r\n"...)
	case x.request.Protocol == l7.HTTP10:
		out = append(out, "connection: keep-alive\r\n"...)
	}
	return out
}

// unsaid: a length of 0 in an answer to HEAD or in a 304 that a handler made without one would be a claim about the resource.
func (x *serverExchange) unsaid(resp *l7.Response) bool {
	return resp.ContentLength == 0 && resp.Status == 304
}

// Tunnel implements l7.Exchange.
func (x *serverExchange) Tunnel(resp *l7.Response) (l7.Stream, error) {
	if x.status != unanswered || x.request.Upgrade == "" {
		return nil, &l7.Error{Reason: observe.Internal, Status: 500, Err: errAnswered}
	}
	x.status = tunneled
	buf := borrow(smallBuffer)
	out := appendStatusLine(buf[:0], 101, "")
	out = appendFields(out, &resp.Header)
	out = append(out, "connection: upgrade\r\nupgrade: "...)
	out = append(out, x.request.Upgrade...)
	out = append(out, "\r\n\r\n"...)
	err := x.conn.writer.write(out)
	giveBack(buf)
	if err := x.writeFailed(err); err != nil {
		return nil, err
	}
	return newTunnel(&x.conn.reader)
}

// Cut implements l7.Exchange: the connection has nothing but this exchange.
func (x *serverExchange) Cut(cause *l7.Error) { x.conn.cut(cause) }

// Abort implements l7.Exchange.
func (x *serverExchange) Abort() { x.breakOff(observe.UpstreamReset) }

// breakOff ends the connection so that the client cannot take the response for whole.
func (x *serverExchange) breakOff(reason observe.Reason) {
	x.status, x.failure = aborted, reason
	_ = l7.Abort(x.conn.stream)
}

// writeFailed gives the failure of a write its reason and ends the connection.
func (x *serverExchange) writeFailed(err error) error {
	if err == nil {
		return nil
	}
	reason := observe.IOError
	if errors.Is(err, os.ErrDeadlineExceeded) {
		reason = observe.IdleTimeout
	}
	x.breakOff(reason)
	return &l7.Error{Reason: reason, Err: err}
}

// finish brings the connection to the beginning of the next request, or says why it ends.
func (x *serverExchange) finish(ctx context.Context) (observe.Reason, bool) {
	c := x.conn
	c.reader.halt, c.reader.pace, c.writer.pace = nil, pace{}, pace{}
	switch x.status {
	case unanswered:
		return x.refuse(ctx, l7.NewError(observe.Internal, "the handler gave no answer")), false
	case tunneled:
		return observe.PeerClosed, false
	case aborted:
		return x.failure, false
	case answered:
	}
	if !x.last && x.drainBody() {
		return "", true
	}
	c.linger()
	return x.ending(), false
}

// ending is the reason of an orderly end.
func (x *serverExchange) ending() observe.Reason {
	if err := x.body.err; err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errHalted) {
		return l7.ReasonOf(err, observe.IOError)
	}
	if x.conn.draining.Load() {
		return observe.Drained
	}
	return observe.PeerClosed
}

// drainBody reads what the handler left of the request's body, if that is little, so that the next request can be found.
func (x *serverExchange) drainBody() bool {
	b := &x.body.body
	if b.err != nil {
		return b.complete()
	}
	limit := int64(x.conn.server.limits.MaxDrain)
	if b.kind == lengthBody && b.left > limit {
		return false
	}
	b.closed.Store(false)
	b.timeout = x.conn.server.timeouts.Linger
	end := time.Now().Add(b.timeout)
	buf := borrow(smallBuffer)
	defer giveBack(buf)
	for limit >= 0 && time.Now().Before(end) {
		n, err := b.Read(buf)
		if err != nil {
			return b.complete()
		}
		limit -= int64(n)
	}
	return false
}
