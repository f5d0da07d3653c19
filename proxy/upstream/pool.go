package upstream

import (
	"slices"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// pooled returns an unused HTTP/1 connection that is still good, counted as used, or nil. The last used comes first, so that the
// pool shrinks to what is needed.
func (e *endpoint) pooled() *Conn {
	for {
		conn := e.pop()
		if conn == nil || conn.leavePool() {
			return conn
		}
	}
}

func (e *endpoint) pop() *Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := len(e.idle) - 1
	if last < 0 {
		return nil
	}
	conn := e.idle[last]
	e.idle[last] = nil
	e.idle = e.idle[:last]
	conn.use()
	return conn
}

// put gives an HTTP/1 connection back that may be used again: to who waits for one, else to the pool.
func (e *endpoint) put(conn *Conn) {
	conn.idleSince = time.Now()
	e.mu.Lock()
	good := !conn.retired.Load() && !conn.isEnded() // by the registry, or about to be
	if good && e.handOver(conn) {
		e.mu.Unlock()
		return
	}
	keep := good && len(e.idle) < e.cluster.options.MaxIdle && !e.cluster.closed.Load()
	if keep {
		e.idle = append(e.idle, conn)
		e.armReaper(e.cluster.options.IdleTimeout)
	}
	e.mu.Unlock()
	if !keep {
		conn.close(observe.Drained)
	}
}

// remove takes a connection out of the pool, or from those that take requests; false if it is in use or gone.
func (e *endpoint) remove(conn *Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.idle, conn); i >= 0 {
		e.idle = slices.Delete(e.idle, i, i+1)
		return true
	}
	if i := slices.Index(e.shared, conn); i >= 0 {
		e.shared = slices.Delete(e.shared, i, i+1)
		return conn.places == 0
	}
	return false
}

// armReaper has it come when a connection may have been unused for too long. The lock is held.
func (e *endpoint) armReaper(in time.Duration) {
	if e.reaper == nil {
		e.reaper = time.AfterFunc(in, e.reap)
	}
}

// reap closes what was not used for the idle time, and comes again while something is unused.
func (e *endpoint) reap() {
	var old []*Conn
	now := time.Now()
	next := time.Duration(0)
	stays := func(conn *Conn) bool {
		left := e.cluster.options.IdleTimeout - now.Sub(conn.idleSince)
		if left <= 0 {
			old = append(old, conn)
			return false
		}
		if next == 0 || left < next {
			next = left
		}
		return true
	}
	e.mu.Lock()
	e.reaper = nil
	e.idle = slices.DeleteFunc(e.idle, func(conn *Conn) bool { return !stays(conn) })
	e.shared = slices.DeleteFunc(e.shared, func(conn *Conn) bool { return conn.places == 0 && !stays(conn) })
	if next > 0 {
		e.armReaper(next)
	}
	e.mu.Unlock()
	for _, conn := range old {
		conn.close(observe.IdleTimeout)
	}
}

// closeUnused ends the connections that nobody uses; the others end with their last request.
func (e *endpoint) closeUnused(reason observe.Reason) {
	e.mu.Lock()
	unused := e.takeUnused(func(*Conn) bool { return true })
	if e.reaper != nil {
		e.reaper.Stop()
		e.reaper = nil
	}
	e.mu.Unlock()
	for _, conn := range unused {
		conn.abort(reason) // does not wait for the peer, for which nothing is lost
	}
}

// takeUnused takes the connections that nobody uses, and that which is true of, out of the pool. The lock is held.
func (e *endpoint) takeUnused(which func(*Conn) bool) []*Conn {
	var unused []*Conn
	take := func(conn *Conn) bool {
		if conn.places > 0 || !which(conn) {
			return false
		}
		unused = append(unused, conn)
		return true
	}
	e.idle = slices.DeleteFunc(e.idle, take)
	e.shared = slices.DeleteFunc(e.shared, take)
	return unused
}
