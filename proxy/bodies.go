package proxy

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// limitedBody counts a request's body, ends it at the limit, and keeps what decides out of its trailers.
type limitedBody struct {
	l7.Body
	call  *call // of which only what never changes: another goroutine may read
	limit int64 // 0 is none
	n     atomic.Int64
}

// limitBody puts the listener's limit on the request's body; a length that is known to exceed it is refused at once.
func (c *call) limitBody() error {
	if c.req.Body == nil {
		return nil
	}
	limit := int64(c.state.spec.declared.Limits.MaxBody)
	if limit > 0 && c.req.ContentLength > limit {
		return l7.NewError(observe.BodyTooLarge, "the body is longer than the listener allows")
	}
	c.body = &limitedBody{Body: c.req.Body, call: c, limit: limit}
	c.req.Body = c.body
	return nil
}

// Read implements l7.Body.
func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if total := b.n.Add(int64(n)); b.limit > 0 && total > b.limit {
		return 0, errBodyTooLarge
	}
	return n, err
}

// Start implements l7.Starter.
func (b *limitedBody) Start() error { return l7.Start(b.Body) }

// Ready implements l7.Ready.
func (b *limitedBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }

var errBodyTooLarge = &l7.Error{Reason: observe.BodyTooLarge, Status: 413, Side: l7.Downstream,
	Err: errors.New("the body is longer than the listener allows")}

// countedBody counts a response's body. One goroutine uses it.
type countedBody struct {
	l7.Body
	n int64
}

// Read implements l7.Body.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	b.n += int64(n)
	return n, err
}

// Ready implements l7.Ready.
func (b *countedBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }

// refusal is the answer to a request that goes no further. The client learns the code and the ids to ask an operator with, and
// nothing about rules or upstreams.
func refusal(e *l7.Error, requestID, decision string) *l7.Response {
	var text strings.Builder
	text.WriteString(`{"error":"` + errorWord(e) + `"`)
	resp := &l7.Response{Status: e.Status}
	resp.Header.Add("content-type", "application/json")
	resp.Header.Add(fieldRequestID, requestID)
	if decision != "" {
		text.WriteString(`,"decision":"` + decision + `"`)
		resp.Header.Add(fieldDecision, decision)
	}
	text.WriteString(`,"request_id":"` + requestID + "\"}\n") // every value is free of what JSON would escape
	body := text.String()
	resp.Body, resp.ContentLength = l7.NewStringBody(body), int64(len(body))
	return resp
}

// errorWord is the reason as the client sees it: of a denial only that it was one, since why is the operator's to know.
func errorWord(e *l7.Error) string {
	switch e.Reason {
	case observe.NoPolicy, observe.PolicyError:
		return observe.Denied.String()
	default:
		return e.Reason.String()
	}
}

// malformed reports a reason for which the connection ends with the answer, as it does when the engine refuses: who sends such a
// request either does not speak the protocol or tries how it is read.
func malformed(reason observe.Reason) bool {
	switch reason {
	case observe.BadRequest, observe.AmbiguousPath, observe.NotImplemented:
		return true
	default:
		return false
	}
}
