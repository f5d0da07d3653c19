package upstream

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// Conn is a dialled connection. It belongs to one byte stream or HTTP/1 request at a time, or is shared by HTTP/2 requests. One for
// a byte stream is an l7.Stream and may be spliced. Close may be called by anybody.
type Conn struct {
	l7.Stream
	link
	endpoint *endpoint
	entry    *registry.Entry
	watch    *watch
	http     *http1.ClientConn // of HTTP/1
	multi    multiplexed       // of HTTP/2
	remote   netip.Addr        // zero for a unix socket
	retireAt time.Time

	idleSince time.Time // when it went unused to the pool; zero while an HTTP/1 request is under way
	places    int       // guarded by endpoint.mu: HTTP/2 requests under way
	full      bool      // guarded by endpoint.mu: the HTTP/2 engine has had no place since it last said Room

	requests   atomic.Int64
	in, out    atomic.Int64
	inUse      atomic.Bool // by a byte stream or an HTTP/1 request
	retired    atomic.Bool // not to be used for another request
	byteStream atomic.Bool
	blamed     atomic.Bool                    // its end has been counted as a failure of the endpoint
	ended      atomic.Pointer[observe.Reason] // nil as long as it lives
}

// link is a connection as it was opened.
type link struct {
	stream     l7.Stream
	raw        net.Conn
	session    *mtls.Conn // nil for a plain connection
	generation uint64     // of the credential of the session
	began      time.Time
}

// newConn makes a connection known.
func newConn(e *endpoint, l link) *Conn {
	c := &Conn{Stream: l.stream, link: l, endpoint: e, watch: newWatch(l.raw), remote: remoteOf(l.raw)}
	c.retireAt = l.began.Add(e.cluster.options.MaxAge)
	known := registry.Conn{Direction: registry.Dialled, Owner: e.cluster, Drain: c.drain, Close: c.abort}
	if l.session != nil {
		known.Subjects, known.NotAfter = l.session.Subjects(), l.session.NotAfter()
		// Half of what is left: long before the peer or the registry would end it in the middle of a request.
		if half := l.began.Add(known.NotAfter.Sub(l.began) / 2); half.Before(c.retireAt) {
			c.retireAt = half
		}
	}
	c.entry = e.cluster.options.Registry.New(known)
	e.cluster.metrics.opened()
	c.entry.Add()
	return c
}

func remoteOf(raw net.Conn) netip.Addr {
	if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// speak gives the connection the engine of its protocol. The registry may have ended it already; the engine notices.
func (c *Conn) speak(want purpose, protocol Protocol) {
	if want.byteStream {
		c.byteStream.Store(true)
		c.retired.Store(true) // never pooled
		return
	}
	engines := &c.endpoint.cluster.engines
	if protocol == HTTP2 {
		c.multi = engines.multiplex(&wire{Stream: c.Stream, conn: c}, func() { c.endpoint.room(c) }, c.engineEnded)
	} else {
		c.http = engines.http1.NewConn(c)
	}
	c.endpoint.spoken.Store(int32(protocol) + 1)
}

// use counts the connection as one on which something is under way.
func (c *Conn) use() {
	if c.inUse.CompareAndSwap(false, true) {
		c.endpoint.active.Add(1)
	}
}

func (c *Conn) leave() {
	if c.inUse.CompareAndSwap(true, false) {
		c.endpoint.active.Add(-1)
	}
}

// Read implements l7.Stream.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// Write implements l7.Stream.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// Quiet implements l7.Watcher. Whatever arrives between responses is an end or an attack (RFC 9112, Section 6.3). It is looked at
// once, when the connection leaves the pool: what came before it went there is still there then.
func (c *Conn) Quiet() bool {
	if c.idleSince.IsZero() {
		return true
	}
	if c.session != nil {
		return c.session.Quiet() // takes in what TLS sends for itself, such as a session ticket
	}
	return c.watch.quiet()
}

// Endpoint is the address that was dialled.
func (c *Conn) Endpoint() string { return c.endpoint.at.Target }

// Peer is the verified server; nil for a plain connection.
func (c *Conn) Peer() *mtls.Peer {
	if c.session == nil {
		return nil
	}
	return c.session.Peer()
}

// Ended is why the registry ended or drained the connection; zero if it did not.
func (c *Conn) Ended() observe.Reason { return c.entry.Reason() }

// Socket returns what to write to when bytes are spliced; see Finish.
func (c *Conn) Socket() net.Conn { return c.bare() }

// Unwrap returns what to read from when bytes are spliced; nothing was read ahead.
func (c *Conn) Unwrap() (net.Conn, []byte) { return c.bare(), nil }

func (c *Conn) bare() net.Conn {
	if c.session != nil {
		return c.session
	}
	return c.raw
}

// Finish closes a dialled byte stream and records it, with the bytes that did not pass through Read and Write. It is called once.
func (c *Conn) Finish(in, out int64) {
	_ = c.Close()
	c.leave() // the registry may have ended the connection before it was in use
	c.in.Add(in)
	c.out.Add(out)
	c.endpoint.cluster.options.AccessLog.Flow(c.flow(*c.ended.Load()))
}

// Close ends the connection in order.
func (c *Conn) Close() error {
	c.close(c.reasonOr(observe.UpstreamClosed))
	return nil
}

// Abort ends the connection so that the peer does not take it for an orderly end.
func (c *Conn) Abort() error {
	c.abort(c.reasonOr(observe.IOError))
	return nil
}

// abort does not wait for the peer. It is the registry's way to end a connection, with all that is under way on it.
func (c *Conn) abort(reason observe.Reason) {
	c.end(reason, func() { _ = l7.Abort(c.Stream) })
}

// drain is the registry's way to ask for the end: at once if the connection is unused, after its last request otherwise.
func (c *Conn) drain(reason observe.Reason) {
	c.retired.Store(true)
	if c.endpoint.remove(c) {
		c.abort(reason)
	}
}

func (c *Conn) close(reason observe.Reason) {
	c.end(reason, func() {
		switch {
		case c.multi == nil:
			_ = c.Stream.Close()
		case c.multi.Streams() == 0:
			c.multi.Drain() // says goodbye by itself, and waits for nobody meanwhile
		default:
			_ = c.multi.Close()
		}
	})
}

// engineEnded is called by the HTTP/2 engine, also while it is being closed.
func (c *Conn) engineEnded(reason observe.Reason) {
	c.end(c.reasonOr(reason), func() { _ = c.Stream.Close() })
}

// end is what happens once, whoever ends the connection. Who comes second does not wait for the first, which may be waiting for it.
func (c *Conn) end(reason observe.Reason, how func()) {
	if !c.ended.CompareAndSwap(nil, &reason) {
		return
	}
	how()
	c.leave()
	c.endpoint.remove(c)
	c.entry.Remove()
	c.endpoint.open.Add(-1)
	c.endpoint.cluster.options.Descriptors.Release()
	c.endpoint.refill()
	c.endpoint.cluster.metrics.closed(reason)
	if !c.byteStream.Load() { // that is recorded by Finish, when the bytes are counted
		c.endpoint.cluster.options.AccessLog.Flow(c.flow(reason))
	}
}

func (c *Conn) isEnded() bool { return c.ended.Load() != nil }

// begin notes that a request begins on the connection.
func (c *Conn) begin() {
	c.requests.Add(1)
	if c.multi == nil {
		c.idleSince = time.Time{}
	}
}

// release ends the use of the connection by a request: back to the pool, or closed.
func (c *Conn) release(reusable bool) {
	if c.multi != nil {
		c.endpoint.leavePlace(c)
		return
	}
	c.leave()
	if reason := c.unsuitable(time.Now()); reason != "" {
		c.close(c.reasonOr(reason))
		return
	}
	if !reusable {
		c.close(observe.UpstreamClosed)
		return
	}
	c.endpoint.put(c)
}

// giveBack returns a place that was not used after all.
func (c *Conn) giveBack() {
	if c.multi != nil {
		c.multi.Unreserve()
	}
	c.release(true)
}

// leavePool reports that an HTTP/1 connection, counted as used, can take a request; otherwise it is closed.
func (c *Conn) leavePool() bool {
	if reason := c.unusable(time.Now()); reason != "" {
		c.close(c.reasonOr(reason))
		c.leave() // the registry may have ended it, as unused, while it was taken
		return false
	}
	return true
}

// reasonOr is the registry's reason, or other when the registry has none.
func (c *Conn) reasonOr(other observe.Reason) observe.Reason {
	if reason := c.entry.Reason(); reason != "" {
		return reason
	}
	return other
}

// unusable says why a pooled connection cannot take a request; zero if it can.
func (c *Conn) unusable(now time.Time) observe.Reason {
	if reason := c.unsuitable(now); reason != "" {
		return reason
	}
	if now.Sub(c.idleSince) >= c.endpoint.cluster.options.IdleTimeout {
		return observe.IdleTimeout
	}
	if !c.http.Reusable() {
		return observe.UpstreamClosed
	}
	return ""
}

// unsuitable says why the connection shall not be kept, from what is known without asking it; zero if it may.
func (c *Conn) unsuitable(now time.Time) observe.Reason {
	if c.endpoint.cluster.closed.Load() {
		return observe.Drained
	}
	return c.stale(now)
}

// stale is unsuitable, but for connections of a closed cluster, which still serve who waits.
func (c *Conn) stale(now time.Time) observe.Reason {
	switch {
	case c.retired.Load(), c.isEnded():
		return observe.Drained
	case !now.Before(c.retireAt):
		return observe.MaxTime
	case c.session != nil && c.endpoint.cluster.options.TLS.Generation() != c.generation:
		return observe.Drained
	case c.endpoint.moved(c):
		return observe.Drained
	default:
		return ""
	}
}

func (c *Conn) flow(reason observe.Reason) *observe.Flow {
	f := &observe.Flow{
		Started: c.began, Duration: time.Since(c.began), Direction: observe.Dialled, Cluster: c.endpoint.cluster.options.Name,
		Source: c.raw.LocalAddr().String(), Target: c.endpoint.at.Target, Requests: int(c.requests.Load()),
		BytesIn: c.in.Load(), BytesOut: c.out.Load(), Close: reason,
	}
	if c.session != nil {
		f.TLS = c.session.Facts()
		f.Own = c.session.Own().ID.String()
	}
	return f
}

// plain is a stream without TLS.
type plain struct{ net.Conn }

// CloseWrite implements l7.Stream.
func (p *plain) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Abort implements l7.Aborter.
func (p *plain) Abort() error {
	if tcp, ok := p.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return p.Close()
}
