package upstream

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// Conn is a dialled connection. It is an l7.Stream and may be spliced. It belongs to one request or byte stream at a time; Close
// may be called by anybody.
type Conn struct {
	l7.Stream
	endpoint   *endpoint
	raw        net.Conn
	watch      *watch
	probe      [1]byte    // what Quiet reads into
	session    *mtls.Conn // nil for a plain connection
	http       *http1.ClientConn
	entry      *registry.Entry
	opened     time.Time
	retireAt   time.Time
	generation uint64
	idleSince  time.Time // written before the connection goes to the pool
	requests   atomic.Int64
	in, out    atomic.Int64
	inUse      atomic.Bool
	retired    atomic.Bool // not to be used for another request
	ended      atomic.Bool

	byteStream atomic.Bool
	endReason  observe.Reason // written inside closing

	closing sync.Once
}

// newConn makes a connection known. session is nil for a plain one.
func newConn(e *endpoint, stream l7.Stream, raw net.Conn, session *mtls.Conn, began time.Time) *Conn {
	c := &Conn{Stream: stream, endpoint: e, raw: raw, watch: newWatch(raw), session: session, opened: began}
	c.retireAt = began.Add(e.cluster.options.MaxAge)
	known := registry.Conn{Direction: registry.Dialled, Owner: e.cluster, Drain: c.drain, Close: c.abort}
	if session != nil {
		known.Subjects, known.NotAfter = session.Subjects(), session.NotAfter()
		// Half of what is left: long before the peer or the registry would end it in the middle of a request.
		if half := began.Add(known.NotAfter.Sub(began) / 2); half.Before(c.retireAt) {
			c.retireAt = half
		}
	}
	c.http = e.cluster.http.NewConn(c)
	c.entry = e.cluster.options.Registry.New(known)
	e.cluster.metrics.opened()
	c.entry.Add()
	return c
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

// Quiet implements l7.Watcher. Whatever arrives between responses is an end or an attack (RFC 9112, Section 6.3). Under TLS it may
// be a key update too, which is not worth telling apart; and a record may have been read from the socket together with the last
// one, so that TLS is asked as well: a deadline in the past makes it look at what it has.
func (c *Conn) Quiet() bool {
	if c.session != nil {
		if c.session.SetReadDeadline(time.Unix(1, 0)) != nil {
			return false
		}
		n, err := c.session.Read(c.probe[:])
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
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

// Finish closes a dialled byte stream and records it, with the bytes that did not pass through Read and Write. It is called once.
func (c *Conn) Finish(in, out int64) {
	_ = c.Close()
	c.leave() // the registry may have ended the connection before it was in use
	c.in.Add(in)
	c.out.Add(out)
	c.endpoint.cluster.options.AccessLog.Flow(c.flow(c.endReason))
}

func (c *Conn) bare() net.Conn {
	if c.session != nil {
		return c.session
	}
	return c.raw
}

// Close ends the connection in order.
func (c *Conn) Close() error {
	c.close(c.reasonOr(observe.UpstreamClosed))
	return nil
}

// Abort ends the connection so that the peer does not take it for an orderly end.
func (c *Conn) Abort() error {
	c.end(c.reasonOr(observe.IOError), func() { _ = l7.Abort(c.Stream) })
	return nil
}

// abort is the registry's way to end it; it does not wait for the peer.
func (c *Conn) abort(reason observe.Reason) {
	c.end(reason, func() { _ = l7.Abort(c.Stream) })
}

// drain is the registry's way to ask for the end: at once if the connection is unused, after the request otherwise.
func (c *Conn) drain(reason observe.Reason) {
	c.retired.Store(true)
	if c.endpoint.remove(c) {
		c.abort(reason)
	}
}

func (c *Conn) close(reason observe.Reason) {
	c.end(reason, func() { _ = c.Stream.Close() })
}

func (c *Conn) end(reason observe.Reason, how func()) {
	c.closing.Do(func() {
		c.ended.Store(true)
		how()
		c.leave()
		c.endpoint.remove(c)
		c.entry.Remove()
		c.endpoint.open.Add(-1)
		c.endpoint.refill()
		c.endpoint.cluster.metrics.closed(reason)
		if c.byteStream.Load() {
			c.endReason = reason // recorded by Finish, when the bytes are counted
			return
		}
		c.endpoint.cluster.options.AccessLog.Flow(c.flow(reason))
	})
}

// release ends the use of the connection: back to the pool, or closed.
func (c *Conn) release(reusable bool) {
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

// unsuitable says why the connection shall not be used again, from what is known without asking it.
func (c *Conn) unsuitable(now time.Time) observe.Reason {
	cluster := c.endpoint.cluster
	switch {
	case c.retired.Load(), c.ended.Load(), cluster.closed.Load():
		return observe.Drained
	case !now.Before(c.retireAt):
		return observe.MaxTime
	case c.session != nil && cluster.options.TLS.Generation() != c.generation:
		return observe.Drained
	default:
		return ""
	}
}

func (c *Conn) flow(reason observe.Reason) *observe.Flow {
	f := &observe.Flow{
		Started: c.opened, Duration: time.Since(c.opened), Direction: observe.Dialled, Cluster: c.endpoint.cluster.options.Name,
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
