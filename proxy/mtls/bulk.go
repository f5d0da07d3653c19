package mtls

import (
	"errors"
	"net"
	"sync"
)

// Sizes of the buffers in which bytes cross from and to the socket. crypto/tls makes one write of every record and reads hardly
// more than one. Measured per GB between TLS and plain TCP on two cores: see BenchmarkBulk.
const (
	recordRoom = maxPlaintext + 64 // a full record with header, tag and TLS 1.2's nonce
	batchSize  = 4 * recordRoom    // of messages: what a client that does not read can pin
	bulkSize   = 16 * recordRoom   // of byte streams
)

type (
	batchBuffer [batchSize]byte
	bulkBuffer  [bulkSize]byte
)

var (
	batchBuffers = sync.Pool{New: func() any { return new(batchBuffer) }}
	bulkBuffers  = sync.Pool{New: func() any { return new(bulkBuffer) }}
)

// Bulk prepares the connection for a byte stream: what has arrived is read in large pieces, and Read fills its buffer as far as it
// can without waiting; a large Write leaves in large pieces. A buffer is borrowed only while bytes are in it. To be called before
// the stream begins, while no Read or Write is under way.
func (c *Conn) Bulk() {
	t := c.transport
	if t.ahead == nil && t.probing() {
		t.ahead = &readAhead{}
	}
	t.out.setBulk()
}

// Read implements net.Conn. After Bulk it returns as much as has arrived, not only what is left of one record.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.transport.ahead == nil {
		return n, err
	}
	for n < len(p) && err == nil {
		var more int
		if more, err = c.readInstantly(p[n:]); err != nil {
			return n + more, nil //nolint:nilerr // nothing more now; what is no pause comes again with the next Read
		}
		n += more
	}
	return n, err
}

// Write implements net.Conn. What is longer than a record leaves in as few pieces as its buffer allows. When the transport fails,
// nothing is known of what the peer has.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) <= maxPlaintext {
		return c.Conn.Write(p)
	}
	t := c.transport
	t.out.begin()
	n, err := c.Conn.Write(p)
	if flushErr := t.out.end(t.Conn); flushErr != nil && err == nil {
		return 0, flushErr
	}
	return n, err
}

// readAhead empties the socket in large pieces while there is much in it.
type readAhead struct {
	buf      *bulkBuffer // nil while nothing is in it
	from, to int
	full     bool // the last read of the socket filled all that it was given: there is likely more
}

func (a *readAhead) read(t *transport, p []byte) (int, error) {
	if a.buf == nil && a.full {
		if err := a.fill(t.probe); err != nil {
			return 0, err
		}
	}
	if a.buf != nil {
		return a.next(p), nil
	}
	if t.instant {
		return 0, errNothing
	}
	// Waits with the buffer of crypto/tls, which is there anyway.
	n, err := t.Conn.Read(p)
	a.full = n == len(p)
	return n, err
}

// fill borrows a buffer for what the socket has; when it has nothing, that is no error and no buffer is kept.
func (a *readAhead) fill(probe *probe) error {
	buf, _ := bulkBuffers.Get().(*bulkBuffer)
	n, err := probe.try(buf[:])
	a.full = n == len(buf)
	if n == 0 {
		bulkBuffers.Put(buf)
		if errors.Is(err, errNothing) {
			return nil
		}
		return err
	}
	a.buf, a.from, a.to = buf, 0, n
	return nil
}

func (a *readAhead) next(p []byte) int {
	n := copy(p, a.buf[a.from:a.to])
	if a.from += n; a.from == a.to {
		bulkBuffers.Put(a.buf)
		a.buf = nil
	}
	return n
}

// batch collects the records of large writes. What is written outside of them, such as the answer to a key update, comes through
// the same lock and keeps its order.
type batch struct {
	// mu is held while a batch is sent: whatever comes next must wait for that anyway, as it does for the lock of crypto/tls.
	mu    sync.Mutex
	bulk  bool         // guarded by mu
	open  int          // guarded by mu: large writes under way; nothing is pending when there are none
	large *bulkBuffer  // guarded by mu: nil while nothing is pending
	small *batchBuffer // guarded by mu: likewise
	used  int          // guarded by mu
	err   error        // guarded by mu: part of a record may have been sent, so that nothing can follow
}

func (b *batch) setBulk() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bulk = true
}

func (b *batch) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
}

// end sends what is pending.
func (b *batch) end(conn net.Conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	return b.flush(conn)
}

func (b *batch) write(conn net.Conn, p []byte) (int, error) {
	b.mu.Lock()
	if b.open == 0 && b.err == nil {
		b.mu.Unlock() // crypto/tls lets one in at a time, and its lock is held
		return conn.Write(p)
	}
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if b.used > 0 && b.used+len(p) > len(b.buffer()) {
		if err := b.flush(conn); err != nil {
			return 0, err
		}
	}
	if len(p) > len(b.buffer()) { // no record is that long
		return conn.Write(p)
	}
	b.used += copy(b.buffer()[b.used:], p)
	return len(p), nil
}

// buffer is where the pending records are; it borrows one when there are none. The caller holds mu.
func (b *batch) buffer() []byte {
	switch {
	case b.large != nil:
		return b.large[:]
	case b.small != nil:
		return b.small[:]
	case b.bulk:
		b.large, _ = bulkBuffers.Get().(*bulkBuffer)
		return b.large[:]
	default:
		b.small, _ = batchBuffers.Get().(*batchBuffer)
		return b.small[:]
	}
}

// flush sends what is pending and gives the buffer back. The caller holds mu.
func (b *batch) flush(conn net.Conn) error {
	if b.used > 0 && b.err == nil {
		_, b.err = conn.Write(b.buffer()[:b.used])
	}
	b.used = 0
	if b.large != nil {
		bulkBuffers.Put(b.large)
		b.large = nil
	}
	if b.small != nil {
		batchBuffers.Put(b.small)
		b.small = nil
	}
	return b.err
}
