package upstream

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Response is what an endpoint answered. Its body must be closed, which ends the use of the connection.
type Response struct {
	*l7.Response
	conn     *Conn
	body     responseBody
	cancel   context.CancelCauseFunc // nil when nothing but the caller's context ends the exchange
	finished atomic.Bool
	over     <-chan struct{} // closed when the caller's context ends
	counted  bool            // among the requests under way
	judged   atomic.Bool     // the endpoint's health knows how it went
}

// Endpoint is the address that answered.
func (r *Response) Endpoint() string { return r.conn.Endpoint() }

// Conn is the connection on which the response comes. Other requests may share it.
func (r *Response) Conn() *Conn { return r.conn }

// Tunnel returns the byte stream after a 101; see l7.Tunnel.
func (r *Response) Tunnel() (l7.Stream, error) {
	stream, err := l7.Tunnel(r.Response)
	if err != nil {
		return nil, &l7.Error{Reason: observe.UpstreamProtocol, Status: l7.StatusOf(observe.UpstreamProtocol), Side: l7.Upstream, Err: err}
	}
	return stream, nil
}

// finish ends the use of the connection, once.
func (r *Response) finish(reusable bool) {
	if r.finished.Swap(true) {
		return
	}
	if r.cancel != nil {
		r.cancel(nil)
	}
	if r.counted {
		r.conn.endpoint.cluster.underWay.Add(-1)
	}
	r.conn.release(reusable)
}

// judge tells the endpoint's health how the exchange went, once: failure is nil when the response came as far as anybody wanted it.
func (r *Response) judge(failure *l7.Error) {
	if r.judged.Swap(true) {
		return
	}
	h := &r.conn.endpoint.health
	switch {
	case failure == nil && (r.Status < 502 || r.Status > 504):
		h.answered()
	case failure == nil:
		h.failed(time.Now(), observe.UpstreamProtocol)
	case failure.Side != l7.Upstream, !gatewayFailure(failure.Reason):
	case r.conn.isEnded() && r.conn.blamed.Swap(true): // with it all others on it failed, which is one failure
	default:
		h.failed(time.Now(), failure.Reason)
	}
}

// gatewayFailure says which failures eject an endpoint.
func gatewayFailure(reason observe.Reason) bool {
	return reason == observe.UpstreamReset || reason == observe.UpstreamTimeout || reason == observe.UpstreamProtocol
}

// isOver reports that the caller wants no more.
func (r *Response) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// responseBody ends the use of the connection when it is closed.
type responseBody struct {
	l7.Body
	response *Response
	closed   atomic.Bool
}

// Read implements l7.Body.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if err == nil || errors.Is(err, io.EOF) || b.closed.Load() {
		return n, err
	}
	failure := b.response.conn.explain(err)
	if !b.response.isOver() { // what the client, or a new policy, ended says nothing
		b.response.judge(failure)
	}
	return n, failure
}

// Close implements l7.Body. The engine reuses what is behind the body, so that a second Close must not reach it.
func (b *responseBody) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	r := b.response
	r.judge(nil)
	err := b.Body.Close()
	r.finish(r.conn.multi != nil || r.conn.http.Reusable())
	return err
}

// Ready implements l7.Ready.
func (b *responseBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }

// Tunnel is what l7.Tunnel asks for. Closing the stream ends the use of the connection.
func (b *responseBody) Tunnel() (l7.Stream, error) {
	inner := *b.response.Response
	inner.Body = b.Body
	stream, err := l7.Tunnel(&inner)
	if err != nil {
		return nil, err
	}
	b.response.judge(nil)
	return &tunnel{Stream: stream, response: b.response}, nil
}

// tunnel is a stream whose end is the end of its exchange.
type tunnel struct {
	l7.Stream
	response *Response
}

// Close implements l7.Stream.
func (t *tunnel) Close() error {
	err := t.Stream.Close()
	t.response.finish(false)
	return err
}

// Abort implements l7.Aborter.
func (t *tunnel) Abort() error {
	err := l7.Abort(t.Stream)
	t.response.finish(false)
	return err
}
