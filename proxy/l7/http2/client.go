package http2

import (
	"context"
	"errors"
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
	return &Client{limits: options.Limits.withDefaults(), timeouts: options.Timeouts.withDefaults(), driver: driverOr(options.Driver)}
}

// ClientConn is one upstream connection. Any number of goroutines may use it: each takes a place with Reserve, and uses it up with
// RoundTrip.
type ClientConn struct {
	conn
	client *Client
	events ClientEvents
	// ping is what was asked of a peer that is silent. It belongs to the reading function, under the mutex.
	ping pinging

	// The rest is guarded by the mutex of the connection.

	draining bool
	// busySince is when the first of the places that are taken was.
	busySince time.Time
	// unsettled wait for the peer's SETTINGS.
	unsettled []*clientExchange
}

// pinging is a PING under way; the zero value is none.
type pinging struct{ sent, until time.Time }

// NewConn returns a connection over the stream, which it owns from now on, and starts its reader. It is at an end when
// events.Ended has been called.
func (c *Client) NewConn(under l7.Stream, events ClientEvents) *ClientConn {
	cc := &ClientConn{client: c, events: events}
	cc.init(under, c.driver, &c.limits, &c.timeouts, cc)
	cc.out.add(appendClientPreface(nil, &c.limits))
	c.driver.Go(cc.serve)
	return cc
}

// serve is the reading function of the connection.
func (c *ClientConn) serve() {
	e := c.run(func() error {
		c.flushSoon()
		return c.read()
	})
	c.wakeUnsettled()
	c.waitFor(func() bool { return c.quiet() && c.active == 0 }, time.Time{})
	if c.events.Ended != nil {
		c.events.Ended(e.reason)
	}
}

// Reserve takes a place for one request, which RoundTrip uses up or Unreserve gives back. It is false when there is none: the
// limit of the peer or of the options is reached, or the connection is to end.
func (c *ClientConn) Reserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open() || c.active >= c.places() {
		return false
	}
	if c.active == 0 {
		c.busySince = time.Now()
	}
	c.active++
	return true
}

// open reports that requests may begin. The mutex is held.
func (c *ClientConn) open() bool {
	return c.life.ended == nil && !c.life.peerGoes && !c.draining && !c.exhausted()
}

// exhausted: no more stream identifiers are left than the places that may be taken need (RFC 9113, Section 5.1.1).
func (c *ClientConn) exhausted() bool {
	return int64(c.lastOwn) >= maxStreamID-2*int64(c.limits.MaxStreams)
}

func (c *ClientConn) places() int {
	return int(min(uint32(min(c.limits.MaxStreams, maxStreamID)), c.peer.maxStreams))
}

// Unreserve gives a place back unused.
func (c *ClientConn) Unreserve() { c.freePlace() }

// freePlace gives a place back and tells it.
func (c *ClientConn) freePlace() {
	c.mu.Lock()
	if c.active == 1 && (c.draining || c.exhausted()) {
		c.inbound.reader.wake()
	}
	c.release()
	room := c.open()
	c.mu.Unlock()
	if room && c.events.Room != nil {
		c.events.Room()
	}
}

// Streams is the number of places that are taken: requests that are under way, or about to be.
func (c *ClientConn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}

// Drain ends the connection without losing a request: none begins any more, and the last one ends it. It may be called more than
// once.
func (c *ClientConn) Drain() {
	c.mu.Lock()
	c.draining = true
	c.inbound.reader.wake()
	c.mu.Unlock()
}

// Close ends the connection at once. What is under way fails.
func (c *ClientConn) Close() error {
	c.end(&ending{reason: observe.Drained, silent: true})
	return c.stream.Close()
}

// RoundTrip sends the request on a place from Reserve and returns the head of its response, whose body then streams. The body of
// the request is sent meanwhile, by a function that ends before the response's body is closed. onInformational, which may be nil,
// is called with each 1xx response but 100; its header is valid during the call.
//
// The caller must close the response's Body, which is never nil; until then the header, and strings taken from it, are valid. The
// place is free again when it is closed, or RoundTrip fails. A request with Upgrade is sent as an extended CONNECT, and its success
// returned as the 101 of HTTP/1: see l7.Tunnel. Cancelling the context resets the stream, also while the body streams.
//
// An error is an *l7.Error: of side Downstream when the request's body failed, and otherwise Upstream, with reason
// UpstreamProtocol (what came is no response), UpstreamReset (the stream or the connection ended), UpstreamTimeout, or
// UpgradeRefused (the peer knows no extended CONNECT); Sent and Responded say whether the request can be tried again. A request that
// the peer says it did not process (REFUSED_STREAM, GOAWAY) counts as not sent.
func (c *ClientConn) RoundTrip(ctx context.Context, req *l7.Request, onInformational func(status int, header *l7.Header)) (*l7.Response, error) {
	if err := checkForwardable(req); err != nil {
		c.freePlace()
		return nil, err
	}
	x := c.newExchange(req)
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, func() { x.cancelled(ctx) })
	}
	err := x.send(req)
	if err == nil {
		err = x.receive(onInformational)
	}
	if err != nil {
		return nil, x.failed(ctx, err)
	}
	return &x.response, nil
}

// checkForwardable keeps a request that was put together wrongly from becoming another one on the wire.
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

func (c *ClientConn) isServer() bool { return false }

// settled implements role.
func (c *ClientConn) settled() {
	c.wakeUnsettled()
	c.mu.Lock()
	room := c.open() && c.active < c.places()
	c.mu.Unlock()
	if room && c.events.Room != nil {
		c.events.Room()
	}
}

func (c *ClientConn) wakeUnsettled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.unsettled {
		x.stream.readable.Unpark()
	}
	c.unsettled = nil
}

// look implements role: a connection that is not used ends after a while, and one that is used and silent is asked whether it still
// lives, since requests may wait long and a peer that is gone says nothing.
func (c *ClientConn) look(now time.Time) (time.Time, *ending) {
	if c.active == 0 {
		return c.lookIdle(now)
	}
	if c.ping != (pinging{}) {
		if c.inbound.heard.After(c.ping.sent) {
			c.ping = pinging{}
		} else if !now.Before(c.ping.until) {
			return now, &ending{reason: observe.UpstreamTimeout, silent: true, cause: errSilent}
		} else {
			return c.ping.until, nil
		}
	}
	due := later(c.inbound.heard, c.busySince).Add(c.timeouts.Ping)
	if now.Before(due) {
		return due, nil
	}
	c.ping = pinging{sent: now, until: now.Add(c.timeouts.PingAnswer)}
	c.out.add(appendPing(c.scratch[:0], 0, livePing))
	return c.ping.until, nil
}

// livePing is the payload of the question; any bytes that come are an answer.
var livePing = [8]byte{'p', 'o', 's', 't', 'e', 'r', 'n', 2}

var errSilent = errors.New("the connection is silent, and does not answer a PING")

// lookIdle also bounds the wait by the time of a PING: requests may begin meanwhile, and nobody tells.
func (c *ClientConn) lookIdle(now time.Time) (time.Time, *ending) {
	c.ping = pinging{}
	idle := c.life.idleSince.Add(c.timeouts.Idle)
	switch {
	case c.draining, c.exhausted():
		return now, &ending{reason: observe.Drained}
	case c.life.peerGoes:
		return now, &ending{reason: observe.UpstreamClosed}
	case !now.Before(idle):
		return now, &ending{reason: observe.IdleTimeout}
	}
	return earlier(idle, now.Add(c.timeouts.Ping)), nil
}

// beginBlock implements role: the head of a response, or its trailers.
func (c *ClientConn) beginBlock(id uint32) (blockKind, *connError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case s == nil:
		return ignoredBlock, c.onClosed(id, "HEADERS")
	case s.recvEnd:
		return ignoredBlock, brokenRule(codeStreamClosed, "HEADERS after the end of the stream")
	case s.client.responded:
		return responseTrailer, nil
	default:
		return responseHead, nil
	}
}

// endBlock implements role.
func (c *ClientConn) endBlock(id uint32, endStream bool) *connError {
	switch c.inbound.block.kind {
	case responseHead:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.streams[id]; s != nil {
			return s.client.head(&c.inbound.block, endStream)
		}
	case responseTrailer:
		return c.endTrailer(id, endStream)
	case ignoredBlock, requestHead, requestTrailer:
	}
	return nil
}
