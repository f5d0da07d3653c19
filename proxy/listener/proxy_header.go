package listener

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/proxyproto"
)

// ProxyProtocol says what a socket does with PROXY headers. The specification forbids to guess whether there is one, since whoever
// may send one can claim any address; so who may is declared.
type ProxyProtocol struct {
	// Trusted are the networks of the proxies that are believed. The peers of a unix socket always are: its file says who they are.
	Trusted []netip.Prefix
	// Required: every connection has to come from a trusted proxy and to begin with a header. Without it one of a trusted proxy
	// may come without, and others are served under their own address; a header that they send is refused.
	Required bool
}

// Error is why a connection is refused before its protocol begins.
type Error struct {
	// Reason is ProxyProtocol; PeerClosed when the peer closed before its first byte, as checks of load balancers do; or IOError.
	Reason observe.Reason
	Err    error
}

// Error says what was wrong.
func (e *Error) Error() string { return e.Reason.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SetProxyProtocol says what connections accepted from now on do with PROXY headers; nil, as at first, takes them for bytes like
// any other. It may be called while serving.
func (s *Socket) SetProxyProtocol(policy *ProxyProtocol) {
	if policy != nil {
		policy = &ProxyProtocol{Trusted: slices.Clone(policy.Trusted), Required: policy.Required}
	}
	s.policy.Store(policy)
}

// ReadProxyHeader does what the socket says of PROXY headers. It is called once, before anything is read, and waits no longer than
// the given time. Afterwards Source and Local are those of the header, if there was one with addresses. It reads the header and no
// byte more; where there is none, what it has read comes first in Read. The error is an *Error; the connection is to be closed then.
func (c *Conn) ReadProxyHeader(within time.Duration) error {
	switch {
	case c.policy == nil:
		return nil
	case c.trusted():
		return c.readHeader(within)
	case c.policy.Required:
		return refuse(fmt.Errorf("%q is not trusted to send a PROXY header, and one is required", c.hop))
	}
	// Waiting for the first bytes here would keep a client waiting in whose protocol the server speaks first.
	c.unsure = true
	return nil
}

func (c *Conn) trusted() bool {
	if !c.hop.IsValid() {
		return true // a unix socket
	}
	from := c.hop.Addr().WithZone("")
	return slices.ContainsFunc(c.policy.Trusted, func(p netip.Prefix) bool { return p.Contains(from) })
}

func (c *Conn) readHeader(within time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return &Error{Reason: observe.IOError, Err: err}
	}
	h, rest, err := proxyproto.Read(c.Conn, proxyproto.DefaultLimit)
	if reset := c.SetReadDeadline(time.Time{}); err == nil && reset != nil {
		return &Error{Reason: observe.IOError, Err: reset}
	}
	switch {
	case err == nil:
		c.believe(h)
		return nil
	case errors.Is(err, io.EOF) && len(rest) == 0:
		return &Error{Reason: observe.PeerClosed, Err: err}
	case c.policy.Required || proxyproto.Begun(rest):
		return refuse(err)
	case errors.Is(err, proxyproto.ErrNone), errors.Is(err, os.ErrDeadlineExceeded):
		c.ahead = rest
		return nil
	}
	return refuse(err)
}

// believe takes the addresses of the header. Without any, of a LOCAL connection, those of the socket stay; a connection that the
// sender accepted on a unix socket has none.
func (c *Conn) believe(h proxyproto.Header) {
	c.tlvs = h.TLVs
	if !h.Local {
		c.source, c.local = h.Source, h.Destination
	}
}

// ruleOut reads until the bytes cannot be a PROXY header any more; when they are one, it is an error. What is behind us might believe it.
func (c *Conn) ruleOut() error {
	for {
		if proxyproto.Begun(c.ahead) {
			return refuse(fmt.Errorf("%q is not trusted to send a PROXY header, and sent one", c.hop))
		}
		if _, _, err := proxyproto.Decode(c.ahead, 0); errors.Is(err, proxyproto.ErrNone) {
			c.unsure = false
			return nil
		}
		var more [16]byte // more than the signature of either version; what is read too much is kept
		n, err := c.Conn.Read(more[:])
		c.ahead = append(c.ahead, more[:n]...)
		if n > 0 {
			continue
		}
		if errors.Is(err, io.EOF) && len(c.ahead) > 0 {
			c.unsure = false // and what there is, is read first
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func refuse(err error) error { return &Error{Reason: observe.ProxyProtocol, Err: err} }
