package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/posternpb"
)

// AttestOptions are what Attest needs. Address and Token are required.
type AttestOptions struct {
	// Address is host:port of the authority's public listener.
	Address string
	Token   nodeattestor.Token
	// TrustDomain, unless zero, is the one that the authority must be of.
	TrustDomain spiffeid.TrustDomain
	// Dialer opens connections; nil means TCP.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Clock is the wall clock; nil means time.Now.
	Clock func() time.Time
}

// attestTimeout bounds the whole exchange.
const attestTimeout = 30 * time.Second

// ErrPin: the server at the address is not under the root authority that the token names. The token was not shown to it.
var ErrPin = errors.New("the server is not the authority that the join token is for")

// Attest makes this machine a node: it makes a key, shows the token to the authority, and returns the identity it got. The token is used up
// when the authority accepted it, whether or not the answer arrives. The caller saves the identity (State.Save).
func Attest(ctx context.Context, o AttestOptions) (*NodeIdentity, error) {
	if o.Address == "" || o.Token.IsZero() {
		return nil, errors.New("attest this node: an address and a join token are required")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	ctx, cancel := context.WithTimeout(ctx, attestTimeout)
	defer cancel()
	identity, err := attest(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("attest this node at %q: %w", o.Address, err)
	}
	return identity, nil
}

func attest(ctx context.Context, o AttestOptions) (*NodeIdentity, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, err
	}
	pinned := &pinnedServer{options: o}
	conn, err := dial(o.Address, pinned.config(), o.Dialer)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	response, err := posternpb.NewEnrollmentClient(conn).AttestNode(ctx, &posternpb.AttestNodeRequest{
		Evidence: &posternpb.AttestNodeRequest_JoinToken{JoinToken: o.Token.Text()}, Csr: csr,
	})
	if err != nil {
		// What the handshake refused, gRPC only reports as text.
		return nil, errors.Join(pinned.refused(), err)
	}
	return accept(response, key, o)
}

// newKey makes a node's key and the request that proves its possession.
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, csr, nil
}

// pinnedServer recognises the authority by the pin of the token.
type pinnedServer struct {
	options AttestOptions

	mu     sync.Mutex
	failed error // why the last handshake was refused
}

func (p *pinnedServer) config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		// The name in the certificate is a SPIFFE ID; VerifyConnection judges it, and the whole chain.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			err := verifyPinned(state.PeerCertificates, p.options.Token.Pin(), p.options.TrustDomain, p.options.Clock())
			p.mu.Lock()
			defer p.mu.Unlock()
			p.failed = err
			return err
		},
	}
}

func (p *pinnedServer) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// verifyPinned checks that a chain leads to the pinned root, which the server sends along, and that its leaf is the authority itself.
func verifyPinned(chain []*x509.Certificate, pin nodeattestor.Pin, td spiffeid.TrustDomain, now time.Time) error {
	if len(chain) < 2 {
		return fmt.Errorf("%w: it does not show its root authority", ErrPin)
	}
	i := slices.IndexFunc(chain[1:], func(cert *x509.Certificate) bool { return cert.IsCA && pin.Matches(cert) })
	if i < 0 {
		return fmt.Errorf("%w: none of its authorities has the key with SHA-256 %s", ErrPin, pin)
	}
	id, err := leafID(chain[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPin, err)
	}
	if !td.IsZero() && id.TrustDomain() != td {
		return fmt.Errorf("%w: it is of trust domain %q, not %q", ErrPin, id.TrustDomain().Name(), td.Name())
	}
	pool := x509.NewCertPool()
	pool.AddCert(chain[1+i])
	verified, err := svid.Verify(chain, map[spiffeid.TrustDomain]*x509.CertPool{id.TrustDomain(): pool}, svid.VerifyOptions{Now: now, Role: svid.Server})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPin, err)
	}
	if verified.ID != AuthorityID(id.TrustDomain()) {
		return fmt.Errorf("%w: it is %q", ErrPin, verified.ID.String())
	}
	return nil
}

// accept takes nothing of the answer on trust: the SVID must be for our key, of a node, and under a bundle that has the pinned root.
func accept(response *posternpb.AttestNodeResponse, key crypto.Signer, o AttestOptions) (*NodeIdentity, error) {
	chain, err := parseChain(response.GetSvid().GetCertificates())
	if err != nil {
		return nil, fmt.Errorf("the SVID it issued: %w", err)
	}
	authorities, err := parseChain(response.GetX509Authorities())
	if err != nil {
		return nil, fmt.Errorf("the bundle it sent: %w", err)
	}
	if !slices.ContainsFunc(authorities, o.Token.Pin().Matches) {
		return nil, fmt.Errorf("%w: its bundle does not have the pinned root", ErrPin)
	}
	identity := &NodeIdentity{Key: key, Chain: chain, Authorities: authorities}
	if err := identity.check(); err != nil {
		return nil, fmt.Errorf("the SVID it issued: %w", err)
	}
	if err := verifyOwn(chain, authorities, identity.ID, o.Clock()); err != nil {
		return nil, err
	}
	if !o.TrustDomain.IsZero() && !identity.ID.MemberOf(o.TrustDomain) {
		return nil, fmt.Errorf("the SVID it issued is of trust domain %q, not %q", identity.ID.TrustDomain().Name(), o.TrustDomain.Name())
	}
	return identity, nil
}

// verifyOwn checks that an SVID just issued is what an authority of the bundle gives to this node.
func verifyOwn(chain, authorities []*x509.Certificate, id spiffeid.ID, now time.Time) error {
	verified, err := svid.Verify(chain, rootsOf(id.TrustDomain(), authorities), svid.VerifyOptions{Now: now, Role: svid.Client})
	if err != nil {
		return fmt.Errorf("the SVID it issued: %w", err)
	}
	if verified.ID != id {
		return fmt.Errorf("the SVID it issued is for %q, not %q", verified.ID.String(), id.String())
	}
	return nil
}

func rootsOf(td spiffeid.TrustDomain, authorities []*x509.Certificate) map[spiffeid.TrustDomain]*x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range authorities {
		pool.AddCert(cert)
	}
	return map[spiffeid.TrustDomain]*x509.CertPool{td: pool}
}

// maxChain bounds the certificates of one answer.
const maxChain = 64

// parseChain parses certificates that stand one by one.
func parseChain(raw [][]byte) ([]*x509.Certificate, error) {
	if len(raw) == 0 || len(raw) > maxChain {
		return nil, fmt.Errorf("%d certificates, from 1 to %d are possible", len(raw), maxChain)
	}
	return parseEach(raw)
}

func parseEach(raw [][]byte) ([]*x509.Certificate, error) {
	joined, err := svid.ParseChain(bytes.Join(raw, nil))
	if err != nil {
		return nil, err
	}
	if len(joined) != len(raw) {
		return nil, fmt.Errorf("%d certificates in %d elements", len(joined), len(raw))
	}
	return joined, nil
}

// dial returns a gRPC connection that connects with its first call.
func dial(address string, config *tls.Config, dialer func(context.Context, string) (net.Conn, error)) (*grpc.ClientConn, error) {
	options := append(dialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if dialer != nil {
		options = append(options, grpc.WithContextDialer(dialer))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to the authority: %w", err)
	}
	return conn, nil
}
