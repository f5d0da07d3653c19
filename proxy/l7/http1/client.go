package http1

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Client is what the connections to one upstream have in common.
type Client struct {
	limits   Limits
	timeouts Timeouts
	driver   l7.Driver
	headers  sync.Pool // of *l7.Header, for the heads of responses
}

// NewClient returns a client with those options, defaults filled in.
func NewClient(options ClientOptions) *Client {
	if options.Driver == nil {
		options.Driver = l7.Goroutines{}
	}
	return &Client{limits: options.Limits.withDefaults(), timeouts: options.Timeouts.withDefaults(), driver: options.Driver}
}

// ClientConn is one upstream connection. It carries one exchange at a time: from RoundTrip to the Close of the response's body.
// One goroutine uses it at a time; Close may be called from any other.
type ClientConn struct {
	client *Client
	stream l7.Stream
	reader reader
	writer writer
	// exchange under way, nil when there is none.
	exchange *clientExchange
	// spent: the connection cannot carry another request.
	spent bool
}

// NewConn returns a connection over the stream. It starts nothing.
func (c *Client) NewConn(stream l7.Stream) *ClientConn {
	return &ClientConn{
		client: c, stream: stream,
		reader: reader{stream: stream},
		writer: writer{stream: stream, timeout: c.timeouts.Write},
	}
}

// Reusable reports that the connection can carry another request: every message on it ended cleanly, nobody asked to close it, no
// upgrade was tried, and nothing has arrived that was not asked for. It is to be asked before a connection goes into a pool and
// again when it comes out.
func (c *ClientConn) Reusable() bool {
	if c.spent || c.exchange != nil || len(c.reader.buffered()) > 0 {
		return false
	}
	watcher, ok := c.stream.(l7.Watcher)
	return !ok || watcher.Quiet()
}

// Close closes the stream. It may be called concurrently; what waits on the connection then fails.
func (c *ClientConn) Close() error { return c.stream.Close() }

// RoundTrip sends the request and returns the head of its response, whose body then streams. The body of the request is sent
// meanwhile, from a function of the Driver that ends before the response's body is closed. onInformational, which may be nil, is called with
// each 1xx response but 100 and 101; its header is valid during the call.
//
// The caller must close the response's Body, which is never nil; until then the header, and strings taken from it, are valid.
// A 101 is returned only to a request with Upgrade, and to one with Sec-WebSocket-Key only with the accept value of that key; its
// stream comes from l7.Tunnel. Cancelling the context aborts the connection, also while the body
// streams.
//
// An error is an *l7.Error: of side Downstream when the request's body failed, and otherwise Upstream, with reason
// UpstreamProtocol (what came is no response), UpstreamReset (the connection ended) or UpstreamTimeout; Sent and Responded say
// whether the request can be tried again.
func (c *ClientConn) RoundTrip(ctx context.Context, req *l7.Request, onInformational func(status int, header *l7.Header)) (*l7.Response, error) {
	if c.spent || c.exchange != nil {
		return nil, &l7.Error{Reason: observe.UpstreamReset, Status: 502, Side: l7.Upstream, Err: errSpent}
	}
	if err := checkForwardable(req); err != nil {
		c.spent = true
		return nil, err
	}
	x := c.client.newExchange(c, req)
	c.exchange = x
	c.spent = req.Upgrade != ""
	c.writer.attempted = false
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, func() { _ = l7.Abort(c.stream) })
	}
	err := x.send()
	if err == nil {
		err = x.receive(onInformational)
	}
	if err != nil {
		return nil, x.fail(ctx, err)
	}
	return &x.response, nil
}

var errSpent = errors.New("the connection cannot carry another request")

// checkForwardable keeps a request that was put together wrongly from becoming two on the wire.
func checkForwardable(r *l7.Request) *l7.Error {
	ok := l7.IsToken(r.Method) && r.Method != "CONNECT" && r.Authority != "" && r.Path != ""
	for _, part := range [...]string{r.Authority, r.Path, r.RawQuery, r.Upgrade} {
		for i := range len(part) {
			ok = ok && part[i] > ' ' && part[i] < 0x7f
		}
	}
	if !ok || strings.IndexByte(r.Path, '?') >= 0 {
		return l7.NewError(observe.Internal, "the request is not in canonical form")
	}
	return nil
}

// head reads the head of the next response.
func (c *ClientConn) head(deadline time.Time) ([]byte, error) {
	return c.reader.section(false, func(partial []byte) *l7.Error {
		if len(partial) >= c.client.limits.MaxHead {
			return l7.NewError(observe.HeadTooLarge, "head too large")
		}
		return nil
	}, deadline)
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
