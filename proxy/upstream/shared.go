package upstream

import (
	"errors"
	"slices"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// reserve takes a place for one request on an HTTP/2 connection and returns it, counted; nil when there is none. The fullest that
// has room comes first, so that few connections carry the load and the others end unused. Connections that are not to be used any
// more are taken out; who holds the lock closes those that nobody uses. The lock is held.
func (e *endpoint) reserve(now time.Time) (conn *Conn, unused []*Conn) {
	e.shared = slices.DeleteFunc(e.shared, func(c *Conn) bool {
		stale := c.stale(now) != ""
		if stale && c.places == 0 {
			unused = append(unused, c)
		}
		return stale
	})
	for {
		best := e.fullest()
		if best == nil || best.reserve() {
			return best, unused
		}
	}
}

// fullest is the connection with the most requests among those with room. The lock is held.
func (e *endpoint) fullest() *Conn {
	var best *Conn
	for _, c := range e.shared {
		if !c.full && c.places < e.cluster.options.MaxStreams && (best == nil || c.places > best.places) {
			best = c
		}
	}
	return best
}

// reserve takes a place on the connection; without one it is full until it says otherwise. The endpoint's lock is held.
func (c *Conn) reserve() bool {
	if !c.multi.Reserve() {
		c.full = true
		return false
	}
	c.places++
	c.endpoint.active.Add(1)
	return true
}

// leavePlace gives a place back, and closes a connection whose last request this was when it takes no more.
func (e *endpoint) leavePlace(conn *Conn) {
	now := time.Now()
	e.active.Add(-1)
	e.mu.Lock()
	conn.places--
	last := conn.places == 0
	reason := observe.Reason("")
	if last {
		conn.idleSince = now
		if reason = conn.unsuitable(now); reason != "" {
			if i := slices.Index(e.shared, conn); i >= 0 {
				e.shared = slices.Delete(e.shared, i, i+1)
			}
		} else {
			e.armReaper(e.cluster.options.IdleTimeout)
		}
	}
	unused := e.serveWaiting(now)
	e.mu.Unlock()
	if reason != "" {
		conn.close(conn.reasonOr(reason))
	}
	closeAll(unused)
}

// room is called by the engine when a connection has places that it had not.
func (e *endpoint) room(conn *Conn) {
	e.mu.Lock()
	conn.full = false
	unused := e.serveWaiting(time.Now())
	e.mu.Unlock()
	closeAll(unused)
}

// share adds a new HTTP/2 connection, first for those who wait. Of a closed cluster it serves only them.
func (e *endpoint) share(conn *Conn) {
	now := time.Now()
	conn.idleSince = now
	e.mu.Lock()
	if !conn.isEnded() {
		e.shared = append(e.shared, conn)
	} else if len(e.waiting) > 0 { // those who wait must not have it dialled at once, and again at once
		e.gate.shut(now, e.failed(observe.UpstreamReset, errors.New("the server ended the connection before a request")))
	}
	unused := e.serveWaiting(now)
	if conn.places == 0 {
		e.armReaper(e.cluster.options.IdleTimeout)
		if reason := conn.unsuitable(now); reason != "" {
			unused = append(unused, conn)
			if i := slices.Index(e.shared, conn); i >= 0 {
				e.shared = slices.Delete(e.shared, i, i+1)
			}
		}
	}
	e.mu.Unlock()
	closeAll(unused)
}

// serveWaiting gives places to those who wait, as far as there are. It returns the connections to close. The lock is held.
func (e *endpoint) serveWaiting(now time.Time) (unused []*Conn) {
	for len(e.waiting) > 0 && len(e.shared) > 0 {
		conn, stale := e.reserve(now)
		unused = append(unused, stale...)
		if conn == nil {
			break
		}
		e.waiting[0].got <- delivery{conn: conn}
		e.waiting = slices.Delete(e.waiting, 0, 1)
	}
	return unused
}

// closeAll ends connections that were taken out because they are not to be used any more.
func closeAll(conns []*Conn) {
	for _, conn := range conns {
		reason := conn.unsuitable(time.Now())
		if reason == "" {
			reason = observe.Drained
		}
		conn.close(conn.reasonOr(reason))
	}
}

// empty reports that an HTTP/2 connection carries nothing and yet takes nothing: it waits for the server, and another one would too.
// The lock is held.
func (e *endpoint) empty() bool {
	return slices.ContainsFunc(e.shared, func(c *Conn) bool { return c.full && c.places == 0 })
}
