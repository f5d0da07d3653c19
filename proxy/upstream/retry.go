package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// trial is what became of one try of a request.
type trial struct {
	conn   *Conn
	reused bool // it had carried HTTP/1 requests before
	resp   *Response
	err    error
}

// closed reports that the connection may have been closed while nobody used it, which is its server's right.
func (t *trial) closed() bool { return t.reused && t.err != nil }

// tries counts the further tries of a request.
type tries struct{ sent, unsent int }

// again decides whether a request is sent once more, and waits before it is. What has been seen of a response is gone then.
func (c *Cluster) again(ctx context.Context, req *l7.Request, call *Call, t *trial, n *tries) bool {
	unsent, may := mayRetry(ctx, req, call, t)
	switch {
	case !may, unsent && n.unsent >= maxUnsent, !unsent && n.sent >= c.options.Retry.Attempts:
		return false
	case unsent:
		n.unsent++
	case !c.budget.withdraw(time.Now(), c.underWay.Load()):
		c.metrics.retriesRefused.Inc()
		return false
	default:
		n.sent++
	}
	further := n.sent + n.unsent - 1
	if !t.closed() && (further > 0 || len(c.endpoints) == 1) && !pause(ctx, backoff(further)) {
		return false // with the response, if there is one, as it came
	}
	if t.resp != nil {
		discard(t.resp)
	}
	c.metrics.retries.Inc()
	return true
}

// maxUnsent bounds the tries of which nothing was sent: servers that say so again and again are overloaded, or leave.
const maxUnsent = 5

// mayRetry says whether the request may be sent again: always, if nothing of it was sent; otherwise if it is idempotent, has no body,
// and either nothing of a response came or it has a status that the call asks to try again for. unsent says that it is the former.
func mayRetry(ctx context.Context, req *l7.Request, call *Call, t *trial) (unsent, may bool) {
	if ctx.Err() != nil {
		return false, false
	}
	repeatable := req.Body == nil && req.Upgrade == "" && idempotent(req.Method)
	if t.err == nil {
		return false, repeatable && slices.Contains(call.RetryOn, t.resp.Status)
	}
	e, ok := errors.AsType[*l7.Error](t.err)
	if !ok || e.Side != l7.Upstream {
		return false, false
	}
	switch {
	case e.Reason == observe.UpstreamTimeout, e.Reason == observe.UpstreamTLS, e.Reason == observe.Internal:
		return false, false
	case !e.Sent:
		return true, true
	case e.Reason != observe.UpstreamReset && e.Reason != observe.UpstreamConnect:
		return false, false
	default:
		return false, repeatable && !e.Responded
	}
}

// idempotent names the methods of RFC 9110, Section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	default:
		return false
	}
}

// discard lets go of a response nobody will see. What is at hand is read, which saves an HTTP/1 connection.
func discard(resp *Response) {
	if n, whole := l7.ReadyOf(resp.Body); whole && n <= maxDiscard {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	_ = resp.Body.Close()
}

const maxDiscard = 64 << 10

// backoff is how long to wait before a further try after n others: anything up to a bound that doubles, so that those who failed
// together do not come back together.
func backoff(n int) time.Duration { return rand.N(min(backoffMin<<min(n, 8), backoffMax)) }

const (
	backoffMin = 25 * time.Millisecond
	backoffMax = 250 * time.Millisecond
)
