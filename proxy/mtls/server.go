package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/observe"
)

// DefaultTimeout bounds a handshake when the options do not.
const DefaultTimeout = 10 * time.Second

// ServerOptions say how a listener terminates TLS.
type ServerOptions struct {
	// Credentials has what we present and, with Mutual, the bundles to verify the peer with.
	Credentials Credentials
	// Mutual demands a verified client certificate. It is a property of the listener: nothing a client says weakens it.
	Mutual bool
	// Revocations returns the current index; nil, or a nil index, revokes nothing.
	Revocations func() *revocation.Index
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13; zero means 1.3.
	MinVersion uint16
	// ALPN is what the listener speaks, best first; empty negotiates nothing.
	ALPN []string
	// Timeout bounds the handshake; zero means DefaultTimeout.
	Timeout time.Duration
	// Gate bounds how many handshakes compute at once; nil does not.
	Gate *Gate
	// Now is the wall clock for validity; nil means time.Now.
	Now func() time.Time
}

// Server terminates TLS. Safe for concurrent use.
type Server struct {
	options ServerOptions
	live    live
}

// NewServer returns a Server; it asks for credentials only when a handshake begins.
func NewServer(options ServerOptions) *Server {
	if options.MinVersion == 0 {
		options.MinVersion = tls.VersionTLS13
	}
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	s := &Server{options: options}
	s.live = live{from: options.Credentials, build: s.credential}
	return s
}

func (s *Server) credential(x *source.X509) (*credential, error) {
	config := baseConfig(s.options.MinVersion, s.options.ALPN)
	config.Certificates = []tls.Certificate{x.Certificate}
	config.Time = s.options.Now
	config.ClientAuth = tls.NoClientCert
	if s.options.Mutual {
		// crypto/tls demands a certificate and proof of its key; what the certificate is worth is VerifyConnection's to say.
		config.ClientAuth = tls.RequireAnyClientCert
	}
	return newCredential(x, true, config)
}

// Handshake terminates TLS on raw. The error is an *Error; raw is closed then. The context bounds the handshake only.
func (s *Server) Handshake(ctx context.Context, raw net.Conn) (*Conn, error) {
	own, err := s.live.get()
	if err == nil && own == nil {
		err = errors.New("there is no X.509-SVID to present")
	}
	if err != nil {
		_ = raw.Close()
		return nil, &Error{Reason: observe.NoCredential, Err: err}
	}
	check := verification{roots: own.x509, role: svid.Client, index: s.options.Revocations, now: s.options.Now}
	config := own.config.Clone()
	if s.options.Mutual {
		config.VerifyConnection = check.verify
	}
	conn := &handshakeConn{Conn: raw, gate: s.options.Gate}
	done, err := handshake(ctx, conn, s.options.Timeout, tls.Server(conn, config), &check)
	if err != nil {
		return nil, err
	}
	if s.options.Mutual && check.verified == nil {
		_ = raw.Close()
		return nil, &Error{Reason: observe.Internal, Err: errors.New("the peer was not verified")}
	}
	return newConn(done, own, &check), nil
}

// handshake runs it within the time, and closes the transport when it fails.
func handshake(ctx context.Context, conn *handshakeConn, timeout time.Duration, session *tls.Conn, check *verification) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := conn.enter(ctx)
	if err == nil {
		err = session.HandshakeContext(ctx)
	}
	conn.leave()
	if err != nil {
		_ = conn.Close()
		return nil, handshakeError(ctx, err, check.verdict)
	}
	return session, nil
}

func newConn(session *tls.Conn, own *credential, check *verification) *Conn {
	c := &Conn{Conn: session, own: own, state: session.ConnectionState()}
	if check.verified != nil {
		c.peer = newPeer(*check.verified)
	}
	// What the state holds of certificates is in Peer; a parsed chain of our own per idle connection would be dead weight.
	c.state.PeerCertificates, c.state.VerifiedChains = nil, nil
	return c
}

// verification judges the peer of one handshake and keeps the verdict.
type verification struct {
	roots    *source.X509
	role     svid.Role
	index    func() *revocation.Index
	now      func() time.Time
	expect   func(svid.Verified) error // nil expects nobody in particular
	verified *svid.Verified
	verdict  error
}

// verify is a tls.Config.VerifyConnection. crypto/tls calls it before the peer has proved possession of its key, so what it keeps
// counts only once the handshake is done.
func (v *verification) verify(state tls.ConnectionState) error {
	options := svid.VerifyOptions{Now: v.now(), Role: v.role}
	if v.index != nil {
		options.Revocations = v.index()
	}
	verified, err := svid.Verify(state.PeerCertificates, v.roots.Roots, options)
	if err == nil && v.expect != nil {
		err = v.expect(verified)
	}
	if err != nil {
		v.verdict = err
		return fmt.Errorf("verify peer: %w", err)
	}
	v.verified = &verified
	return nil
}
