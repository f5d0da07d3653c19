package enroll

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
)

// NodeTransportOptions are what NewNodeTransport needs. Credential and TrustDomain are required.
type NodeTransportOptions struct {
	TrustDomain spiffeid.TrustDomain
	// Credential returns the authority's own SVID and the bundle that nodes are verified with; nil refuses every handshake.
	Credential func() *source.X509
	// Revocations returns the current index; nil is empty.
	Revocations func() *revocation.Index
	// Clock is the wall clock; nil means time.Now.
	Clock func() time.Time
}

// NodeTransport are the gRPC server credentials of the listener for nodes: TLS 1.3, both sides with an SVID, no resumption. It knows its open
// connections by everything under which they could be revoked. All methods may be called concurrently.
type NodeTransport struct {
	credentials.TransportCredentials
	options NodeTransportOptions

	mu        sync.Mutex
	bySubject map[revocation.Subject]map[*nodeConn]struct{}
}

// NewNodeTransport returns credentials without connections.
func NewNodeTransport(o NodeTransportOptions) (*NodeTransport, error) {
	if o.Credential == nil || o.TrustDomain.IsZero() {
		return nil, errors.New("make the transport for nodes: a credential and a trust domain are required")
	}
	if o.Revocations == nil {
		o.Revocations = func() *revocation.Index { return nil }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	t := &NodeTransport{options: o, bySubject: map[revocation.Subject]map[*nodeConn]struct{}{}}
	t.TransportCredentials = credentials.NewTLS(t.config())
	return t, nil
}

// config judges the peer in VerifyConnection, the one callback that no handshake skips.
func (t *NodeTransport) config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return serverCertificate(t.options.Credential())
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := t.verify(state.PeerCertificates)
			return err
		},
	}
}

var errNoSVID = errors.New("the authority has no SVID of its own")

func serverCertificate(x *source.X509) (*tls.Certificate, error) {
	if x == nil {
		return nil, errNoSVID
	}
	return &x.Certificate, nil
}

// verify judges what a node presented. Only nodes of this trust domain are let in: a workload has no business here.
func (t *NodeTransport) verify(chain []*x509.Certificate) (svid.Verified, error) {
	own := t.options.Credential()
	if own == nil {
		return svid.Verified{}, errors.New("the authority has no bundle yet")
	}
	verified, err := svid.Verify(chain, own.Roots, svid.VerifyOptions{
		Now: t.options.Clock(), Role: svid.Client, Revocations: t.options.Revocations(),
	})
	if err != nil {
		return svid.Verified{}, err
	}
	if _, ok := NodeName(verified.ID); !ok || !verified.ID.MemberOf(t.options.TrustDomain) {
		return svid.Verified{}, fmt.Errorf("%q is no node of trust domain %q", verified.ID.String(), t.options.TrustDomain.Name())
	}
	return verified, nil
}

// ServerHandshake makes the connection that gRPC serves, and registers it. It is registered before the index is asked a last time, so
// that a revocation that comes in between is not missed.
func (t *NodeTransport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("handshake with node: %w", err)
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok {
		_ = secured.Close()
		return nil, nil, fmt.Errorf("handshake with node: unexpected proof %q", info.AuthType())
	}
	chain := tlsInfo.State.PeerCertificates
	verified, err := t.verify(chain)
	if err != nil {
		_ = secured.Close()
		return nil, nil, err
	}
	conn := &nodeConn{Conn: secured, transport: t, subjects: subjects(verified)}
	if !t.register(conn, verified.ID, chain[0].NotAfter.Sub(t.options.Clock())) {
		_ = secured.Close()
		return nil, nil, fmt.Errorf("handshake with node: %q has %d connections open, which is the limit", verified.ID.String(), maxNodeConns)
	}
	if _, err := t.verify(chain); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, nodeInfo{CommonAuthInfo: tlsInfo.CommonAuthInfo, node: Node{ID: verified.ID, Chain: chain}}, nil
}

// Clone returns the same credentials: their connections belong together.
func (t *NodeTransport) Clone() credentials.TransportCredentials { return t }

// subjects are what a revocation can name to end the connection, on any of its verified paths.
func subjects(verified svid.Verified) []revocation.Subject {
	var all []revocation.Subject
	for _, chain := range verified.Chains {
		all = append(all, revocation.Subjects(chain, verified.ID)...)
	}
	return all
}

// CloseConcerned closes the connections that the revocations concern, and no others, and returns how many. The index that
// Options.Revocations returns must have them already, so that they cannot come back.
func (t *NodeTransport) CloseConcerned(revocations ...revocation.Revocation) int {
	wanted := make([]revocation.Subject, 0, len(revocations))
	for _, r := range revocations {
		wanted = append(wanted, r.Subject())
	}
	return t.close(wanted)
}

// CloseNode closes the connections of a node and returns how many there were.
func (t *NodeTransport) CloseNode(id spiffeid.ID) int {
	return t.close([]revocation.Subject{{Kind: revocation.SPIFFEID, Value: id.String()}})
}

func (t *NodeTransport) close(wanted []revocation.Subject) int {
	t.mu.Lock()
	found := map[*nodeConn]struct{}{}
	for _, subject := range wanted {
		for conn := range t.bySubject[subject] {
			found[conn] = struct{}{}
		}
	}
	t.mu.Unlock()
	for conn := range found {
		_ = conn.Close()
	}
	return len(found)
}

// maxNodeConns bounds the connections of one node: it needs one, and a second while it connects again.
const maxNodeConns = 32

// register adds a connection and ends it when its certificate does; false when the node has as many as it may.
func (t *NodeTransport) register(conn *nodeConn, id spiffeid.ID, life time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.bySubject[revocation.Subject{Kind: revocation.SPIFFEID, Value: id.String()}]) >= maxNodeConns {
		return false
	}
	for _, subject := range conn.subjects {
		if t.bySubject[subject] == nil {
			t.bySubject[subject] = map[*nodeConn]struct{}{}
		}
		t.bySubject[subject][conn] = struct{}{}
	}
	conn.expiry = time.AfterFunc(life, func() { _ = conn.Close() })
	return true
}

func (t *NodeTransport) forget(conn *nodeConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn.expiry.Stop()
	for _, subject := range conn.subjects {
		delete(t.bySubject[subject], conn)
		if len(t.bySubject[subject]) == 0 {
			delete(t.bySubject, subject)
		}
	}
}

// nodeConn is an open connection of a node.
type nodeConn struct {
	net.Conn
	transport *NodeTransport
	subjects  []revocation.Subject
	expiry    *time.Timer
	once      sync.Once
}

// Close closes the connection and forgets it.
func (c *nodeConn) Close() error {
	c.once.Do(func() { c.transport.forget(c) })
	return c.Conn.Close()
}

// PublicTLS is the configuration of the listener without client certificates. It presents the authority's SVID with the whole path up to the
// root, which is what a join token pins.
func PublicTLS(credential func() *source.X509) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.NoClientCert,
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			x := credential()
			certificate, err := serverCertificate(x)
			if err != nil {
				return nil, err
			}
			return withRoot(x, certificate)
		},
	}
}

// withRoot appends the root under which the certificate stands.
func withRoot(x *source.X509, certificate *tls.Certificate) (*tls.Certificate, error) {
	chain, err := parseChain(certificate.Certificate)
	if err != nil {
		return nil, err
	}
	verified, err := svid.Verify(chain, x.Roots, svid.VerifyOptions{Role: svid.Server})
	if err != nil {
		return nil, fmt.Errorf("find the root of the authority's own SVID: %w", err)
	}
	path := verified.Chains[0]
	full := *certificate
	full.Certificate = nil
	for _, cert := range path {
		full.Certificate = append(full.Certificate, cert.Raw)
	}
	return &full, nil
}
