package mtls

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
)

// Conn is a connection whose handshake is done. Read returns io.EOF only after the peer's close_notify; when the transport ends
// without it, the error is io.ErrUnexpectedEOF, wrapped.
type Conn struct {
	*tls.Conn
	transport *transport
	peer      *Peer
	own       *credential
	subjects  []revocation.Subject // shared
	// What is needed of the handshake's outcome; all of it would hold certificates.
	version    uint16
	group      tls.CurveID
	alpn       string
	serverName string
	accepted   bool
	resumed    bool
	ja4        string
}

func newConn(session *tls.Conn, transport *transport, own *credential, chain *verifiedChain) *Conn {
	state := session.ConnectionState()
	c := &Conn{Conn: session, transport: transport, own: own, subjects: own.subjects, version: state.Version, group: state.CurveID,
		alpn: state.NegotiatedProtocol, serverName: state.ServerName, resumed: state.DidResume}
	if chain != nil {
		c.peer, c.subjects = chain.peer, chain.subjects
	}
	return c
}

// Peer is the verified other end; nil where the peer was not asked for a certificate.
func (c *Conn) Peer() *Peer { return c.peer }

// Own is the credential that we presented, or verified with when we presented none.
func (c *Conn) Own() *source.X509 { return c.own.x509 }

// Version is the TLS version as "1.3".
func (c *Conn) Version() string {
	if c.version == tls.VersionTLS12 {
		return "1.2"
	}
	return "1.3"
}

// Group is the name of the key exchange, such as "X25519MLKEM768".
func (c *Conn) Group() string { return c.group.String() }

// ALPN is the negotiated protocol; empty for none.
func (c *Conn) ALPN() string { return c.alpn }

// ServerName is what the client asked for; empty when it did not say. It is the client's word.
func (c *Conn) ServerName() string { return c.serverName }

// NotAfter is when the first credential of either side ends.
func (c *Conn) NotAfter() time.Time {
	return earlier(c.peer.NotAfter(), c.own.notAfter)
}

// Subjects are all by which a revocation could concern the connection, of the peer and of our own credential. The slice is shared
// and must not be changed.
func (c *Conn) Subjects() []revocation.Subject { return c.subjects }

// Recheck asks the index, which may be newer than the one of the handshake, about both sides. The error is an *Error with the
// reason Revoked. To be called after the connection was registered: see package registry.
func (c *Conn) Recheck(index *revocation.Index, now time.Time) error {
	r, revoked := c.peer.revoked(index, now)
	if !revoked && c.own.presented {
		r, revoked = index.Match(c.own.chain, c.own.x509.ID, now)
	}
	if !revoked {
		return nil
	}
	return &Error{Reason: observe.Revoked, Err: fmt.Errorf("%s %q was revoked during the handshake by revocation %q", r.Kind, r.Value, r.ID)}
}

// Abort ends the connection at once, without the close_notify of an orderly end (RFC 8446, Section 6.1) and with a TCP reset
// where the transport can, so that the peer does not take what it has for the whole.
func (c *Conn) Abort() error {
	return abort(c.NetConn())
}

// abort resets the transport beneath.
func abort(raw net.Conn) error {
	for {
		switch t := raw.(type) {
		case interface{ Abort() error }:
			return t.Abort()
		case interface{ SetLinger(int) error }:
			_ = t.SetLinger(0)
			return raw.Close()
		case *transport:
			raw = t.Conn
		default:
			return raw.Close()
		}
	}
}

// Facts are what records tell of the connection. Text that the peer chose is escaped.
func (c *Conn) Facts() observe.TLSFacts {
	facts := observe.TLSFacts{Peer: idString(c.peer), Serial: c.peer.Serial(), Issuer: c.peer.Issuer(),
		Version: c.Version(), Group: c.Group(), ALPN: c.ALPN()}
	if c.accepted {
		facts.ServerName, facts.JA4, facts.Resumed = printable(c.serverName), c.ja4, c.resumed
	}
	return facts
}

// Resumed reports that the session was one of an earlier connection, whose certificates were verified again for this one.
func (c *Conn) Resumed() bool { return c.resumed }

func idString(p *Peer) string {
	if p == nil {
		return ""
	}
	return p.id.String()
}
