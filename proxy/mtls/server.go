package mtls

import (
	"context"
	"crypto/tls"
	"errors"
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
	// RequirePQ takes only clients whose key exchange is a post-quantum hybrid, and with it TLS 1.3; others are refused with the
	// reason PeerNoPQ.
	RequirePQ bool
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
	epochs  epochs
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
	if options.Revocations == nil {
		options.Revocations = noRevocations
	}
	s := &Server{options: options}
	s.epochs = epochs{from: options.Credentials, presented: true, index: options.Revocations, now: options.Now, configure: s.configure}
	return s
}

func noRevocations() *revocation.Index { return nil }

func (s *Server) configure(x *source.X509) *tls.Config {
	config := baseConfig(s.options.MinVersion, s.options.RequirePQ, s.options.ALPN)
	config.Certificates = []tls.Certificate{x.Certificate}
	config.Time = s.options.Now
	config.ClientAuth = tls.NoClientCert
	if s.options.Mutual {
		// crypto/tls demands a certificate and proof of its key; what the certificate is worth is VerifyConnection's to say.
		config.ClientAuth = tls.RequireAnyClientCert
	}
	bindSessions(config)
	return config
}

// Handshake terminates TLS on raw. The error is an *Error; raw is closed then. The context bounds the handshake only.
func (s *Server) Handshake(ctx context.Context, raw net.Conn) (*Conn, error) {
	own, err := s.epochs.get()
	if err == nil && own == nil {
		err = errors.New("there is no X.509-SVID to present")
	}
	if err != nil {
		_ = raw.Close()
		return nil, &Error{Reason: observe.NoCredential, Err: err}
	}
	check := verification{epoch: own, role: svid.Client, index: s.options.Revocations, now: s.options.Now}
	config := own.config.Clone()
	if s.options.Mutual {
		config.VerifyConnection = check.verify
	}
	h := handshake{transport: &transport{Conn: raw, hello: &helloTap{}}, gate: s.options.Gate, timeout: s.options.Timeout,
		check: &check, mutual: s.options.Mutual, requirePQ: s.options.RequirePQ}
	h.session = tls.Server(h.transport, config)
	return h.run(ctx)
}
