package listener

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-proxy/postern/proxy/proxyproto"
)

// Conn is an accepted connection. Read, ReadProxyHeader and Socket belong to one goroutine; Close may be called by anybody, repeatedly.
type Conn struct {
	net.Conn
	hop      netip.AddrPort
	source   netip.AddrPort
	local    netip.AddrPort
	accepted time.Time

	policy *ProxyProtocol   // nil: PROXY headers are nothing special here
	tlvs   []proxyproto.TLV // of the header
	ahead  []byte           // read and not yet handed out
	unsure bool             // a PROXY header that must not be there has not been ruled out

	closing sync.Once
	release func()
	err     error
}

func newConn(raw net.Conn, policy *ProxyProtocol, release func()) *Conn {
	peer := addrPort(raw.RemoteAddr())
	return &Conn{Conn: raw, hop: peer, source: peer, local: addrPort(raw.LocalAddr()), accepted: time.Now(), policy: policy, release: release}
}

// Source is the client: the other end, or whom a trusted PROXY header names. The zero value for a unix socket.
func (c *Conn) Source() netip.AddrPort { return c.source }

// Local is the address that the client connected to: our end, or what a trusted PROXY header names. The zero value for a unix socket.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Hop is the other end of the socket, whatever a PROXY header says; the zero value for a unix socket.
func (c *Conn) Hop() netip.AddrPort { return c.hop }

// TLVs are the extensions of a trusted PROXY header; the sender's word.
func (c *Conn) TLVs() []proxyproto.TLV { return c.tlvs }

// Accepted is when the connection arrived.
func (c *Conn) Accepted() time.Time { return c.accepted }

// Read reads first what ReadProxyHeader has read without finding a header.
func (c *Conn) Read(p []byte) (int, error) {
	if c.unsure {
		if err := c.ruleOut(); err != nil {
			return 0, err
		}
	}
	if len(c.ahead) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.ahead)
	if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
		c.ahead = nil
	}
	return n, nil
}

// Socket returns the bare connection, for splicing, which works on sockets; the Conn itself as long as it has bytes that were read
// ahead, or has to look at the next ones.
func (c *Conn) Socket() net.Conn {
	if len(c.ahead) > 0 || c.unsure {
		return c
	}
	return c.Conn
}

// AllowStall lets the peer leave bytes that wait for it for longer than half a minute, on kernels that cannot tell such a peer from
// one that is gone; see bind. It is for byte streams, whose reader may pause; a time limit of its own bounds them.
func (c *Conn) AllowStall() { allowStall(c.Conn) }

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

// Close closes the connection and gives its place in the limits back, once.
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
