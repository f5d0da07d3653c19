package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/observe"
)

// ClientOptions say how a cluster originates TLS.
type ClientOptions struct {
	// Credentials has the bundles to verify the server with and, with Mutual, what we present.
	Credentials Credentials
	// Mutual presents our certificate when the server asks.
	Mutual bool
	// Expect says which verified SPIFFE IDs the server may have. Nil accepts none: whoever has an SVID of the trust domain could
	// otherwise stand in for any service.
	Expect func(spiffeid.ID) bool
	// Revocations returns the current index; nil, or a nil index, revokes nothing.
	Revocations func() *revocation.Index
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13; zero means 1.3.
	MinVersion uint16
	// RequirePQ offers only post-quantum hybrids for the key exchange, and with them TLS 1.3; a server that takes none of them is
	// refused with the reason PeerNoPQ.
	RequirePQ bool
	// ALPN is what we offer, best first; empty offers nothing.
	ALPN []string
	// Timeout bounds the handshake; zero means DefaultTimeout.
	Timeout time.Duration
	// Now is the wall clock for validity; nil means time.Now.
	Now func() time.Time
}

// Client originates TLS. Safe for concurrent use.
type Client struct {
	options ClientOptions
	epochs  epochs
}

// NewClient returns a Client; it asks for credentials only when a handshake begins.
func NewClient(options ClientOptions) *Client {
	if options.MinVersion == 0 {
		options.MinVersion = tls.VersionTLS13
	}
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Revocations == nil {
		options.Revocations = noRevocations
	}
	c := &Client{options: options}
	c.epochs = epochs{from: options.Credentials, presented: options.Mutual, index: options.Revocations, now: options.Now, configure: c.configure}
	return c
}

func (c *Client) configure(x *source.X509) *tls.Config {
	config := baseConfig(c.options.MinVersion, c.options.RequirePQ, c.options.ALPN)
	config.Time = c.options.Now
	// Host names say nothing about a SPIFFE ID: VerifyConnection judges instead, and is set for every handshake.
	config.InsecureSkipVerify = true
	config.ClientSessionCache = tls.NewLRUClientSessionCache(maxSessions)
	if c.options.Mutual {
		// A function, not Certificates: our SVID is presented whatever authorities the server hints at.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &x.Certificate, nil }
	}
	return config
}

// Generation is that of the credential which a handshake would use now; zero when there is none.
func (c *Client) Generation() uint64 {
	if x := c.options.Credentials.Get(); x != nil {
		return x.Generation
	}
	return 0
}

// Handshake originates TLS on raw to the server of that name, which is sent as SNI unless it is an IP address or empty. A session
// with the same remote address and name is resumed if the server still knows it. The error is an *Error; raw is closed then. The
// context bounds the handshake only.
func (c *Client) Handshake(ctx context.Context, raw net.Conn, serverName string) (*Conn, error) {
	own, err := c.epochs.get()
	if err == nil && own == nil {
		err = errors.New("there is no X.509-SVID or bundle to verify the server with")
	}
	if err != nil {
		_ = raw.Close()
		return nil, &Error{Reason: observe.NoCredential, Err: err}
	}
	check := verification{epoch: own, role: svid.Server, index: c.options.Revocations, now: c.options.Now, expect: c.expected}
	config := own.config.Clone()
	config.VerifyConnection = check.verify
	config.ClientSessionCache = sessionsWith(own.config.ClientSessionCache, raw.RemoteAddr(), serverName)
	if _, err := netip.ParseAddr(serverName); err != nil {
		config.ServerName = serverName
	}
	h := handshake{transport: &transport{Conn: raw}, timeout: c.options.Timeout, check: &check, mutual: true, requirePQ: c.options.RequirePQ}
	h.session = tls.Client(h.transport, config)
	return h.run(ctx)
}

func (c *Client) expected(peer *Peer) error {
	if c.options.Expect == nil || !c.options.Expect(peer.ID()) {
		return &Error{Reason: observe.PeerUnexpectedID, Err: fmt.Errorf("the server is %q, which is not expected", peer.ID().String())}
	}
	return nil
}
