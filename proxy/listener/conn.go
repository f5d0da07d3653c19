package listener

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Conn is an accepted connection. Close may be called by anybody, repeatedly.
type Conn struct {
	net.Conn
	source   netip.AddrPort
	local    netip.AddrPort
	accepted time.Time

	closing sync.Once
	release func()
	err     error
}

func newConn(raw net.Conn, release func()) *Conn {
	return &Conn{Conn: raw, source: addrPort(raw.RemoteAddr()), local: addrPort(raw.LocalAddr()), accepted: time.Now(), release: release}
}

// Source is the other end; the zero value for a unix socket.
func (c *Conn) Source() netip.AddrPort { return c.source }

// Local is our end; the zero value for a unix socket.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Accepted is when the connection arrived.
func (c *Conn) Accepted() time.Time { return c.accepted }

// Socket returns the bare connection, for splicing, which works on sockets.
func (c *Conn) Socket() net.Conn { return c.Conn }

// CloseWrite ends our direction and leaves the other open, where the transport can.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Abort closes the connection with a TCP reset, so that the peer does not take it for an orderly end.
func (c *Conn) Abort() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c.Close()
}

// Close closes the connection and gives its place in the socket's limit back, once.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.err = c.Conn.Close()
		c.release()
	})
	return c.err
}

func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
