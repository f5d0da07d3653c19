package enroll

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/posternpb"
)

// Authority signs; ca.Authority does.
type Authority interface {
	IssueX509(ctx context.Context, req ca.Request) (*ca.Issued, error)
	IssueNode(ctx context.Context, req ca.Request) (*ca.Issued, error)
	Bundle() ca.Bundle
}

// Entries looks registration entries up. What it returns for an id that does not exist matches registration.ErrNotFound.
type Entries interface {
	Get(ctx context.Context, id string) (registration.Entry, error)
}

// Events appends to the audit log, and returns when the event is durable.
type Events interface {
	Append(ctx context.Context, event audit.Event) (uint64, error)
}

// ServerOptions are what NewServer needs. What stands before Logger is required.
type ServerOptions struct {
	TrustDomain spiffeid.TrustDomain
	Authority   Authority
	Entries     Entries
	Tokens      *nodeattestor.Tokens
	Nodes       *Nodes
	Events      Events
	// Register gives the postern process on a node the identities that its token promised. Those that it has already are no error.
	Register func(ctx context.Context, node spiffeid.ID, identities []spiffeid.ID, actor string) error
	// Replaced is called when a node has attested, at once after the keys of its earlier attestation stopped counting and before it is
	// answered: what it has open was opened with one of those, and should be closed. Nil does nothing.
	Replaced func(node spiffeid.ID)
	Logger   *slog.Logger
	// Registerer takes the metrics; nil means that they are kept nowhere.
	Registerer prometheus.Registerer
	// Clock is the wall clock; nil means time.Now.
	Clock  func() time.Time
	Limits Limits
}

// Limits bound what callers can make the server do. A zero field takes its default.
type Limits struct {
	Batch         int // requests in one IssueX509; 64
	PerNode       int // signatures per second for one node; 50, since each is recorded for as long as it lives
	PerNodeBurst  int // and at once; 5,000
	Attestations  int // AttestNode calls served at once; 32
	IssuesAtOnce  int // signatures made at once for one call; 16
	EvidenceBytes int // one message on the public listener; 64 KiB
}

func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value     *int
		otherwise int
	}{
		{&l.Batch, 64}, {&l.PerNode, 50}, {&l.PerNodeBurst, 5000}, {&l.Attestations, 32}, {&l.IssuesAtOnce, 16},
		{&l.EvidenceBytes, 64 << 10},
	} {
		if *field.value <= 0 {
			*field.value = field.otherwise
		}
	}
	return l
}

// maxCSR bounds a certificate request, in bytes; one with an RSA key of 4,096 bits has under 2,000.
const maxCSR = 8 << 10

// Server answers nodes. All methods may be called concurrently.
type Server struct {
	options    ServerOptions
	logger     *slog.Logger
	metrics    *metrics
	pace       *pace
	attesting  chan struct{} // one place for each attestation at once
	complaints *pace         // bounds what strangers can make the log grow
}

// NewServer returns a server that nothing reaches yet.
func NewServer(o ServerOptions) (*Server, error) {
	if o.TrustDomain.IsZero() || o.Authority == nil || o.Entries == nil || o.Tokens == nil || o.Nodes == nil || o.Events == nil || o.Register == nil {
		return nil, errors.New("make the enrolment server: an option that is required is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Replaced == nil {
		o.Replaced = func(spiffeid.ID) {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	o.Limits = o.Limits.withDefaults()
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Server{
		options: o, logger: o.Logger, metrics: m,
		pace:       newPace(o.Limits.PerNode, o.Limits.PerNodeBurst, o.Clock),
		attesting:  make(chan struct{}, o.Limits.Attestations),
		complaints: newPace(1, 10, o.Clock),
	}, nil
}

// RegisterPublic adds AttestNode, and nothing else, to the gRPC server of the public listener.
func (s *Server) RegisterPublic(r grpc.ServiceRegistrar) {
	posternpb.RegisterEnrollmentServer(r, publicService{server: s})
}

// RegisterNodes adds RenewNode and IssueX509 to a gRPC server whose credentials are a NodeTransport's or a Local's.
func (s *Server) RegisterNodes(r grpc.ServiceRegistrar) {
	posternpb.RegisterEnrollmentServer(r, nodeService{server: s})
}

// PublicGRPCOptions bound what a stranger's connection may do.
func (s *Server) PublicGRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(s.options.Limits.EvidenceBytes),
		grpc.MaxConcurrentStreams(4),
		grpc.MaxHeaderListSize(8 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 30 * time.Second, MaxConnectionAge: 2 * time.Minute, MaxConnectionAgeGrace: 10 * time.Second}),
	}
}

// publicService is what strangers reach.
type publicService struct {
	posternpb.UnimplementedEnrollmentServer
	server *Server
}

// nodeService is what nodes reach.
type nodeService struct {
	posternpb.UnimplementedEnrollmentServer
	server *Server
}

// AttestNode exchanges a join token for a node SVID.
func (p publicService) AttestNode(ctx context.Context, req *posternpb.AttestNodeRequest) (*posternpb.AttestNodeResponse, error) {
	s := p.server
	select {
	case s.attesting <- struct{}{}:
		defer func() { <-s.attesting }()
	default:
		s.metrics.attested("busy")
		return nil, status.Error(codes.Unavailable, "too many attestations at once, try again")
	}
	response, err := s.attest(ctx, req)
	s.metrics.attested(status.Code(err).String())
	if err != nil && s.complaints.take("attest", 1) == 1 {
		s.logger.Warn("refused to attest a node", slog.String(observe.KeyPeer, remote(ctx)), slog.String(observe.KeyError, err.Error()))
	}
	return response, err
}

// attest looks at the token before it does any work for a stranger, and at the request before it uses the token up.
func (s *Server) attest(ctx context.Context, req *posternpb.AttestNodeRequest) (*posternpb.AttestNodeResponse, error) {
	evidence, ok := req.GetEvidence().(*posternpb.AttestNodeRequest_JoinToken)
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "no evidence that this authority knows")
	}
	token, err := nodeattestor.ParseToken(evidence.JoinToken)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, err := s.options.Tokens.Lookup(ctx, token); err != nil {
		return nil, s.tokenStatus(err)
	}
	key, err := publicKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	info, err := s.options.Tokens.Redeem(ctx, token)
	if err != nil {
		return nil, s.tokenStatus(err)
	}
	return s.admit(ctx, info, key)
}

func (s *Server) tokenStatus(err error) error {
	if errors.Is(err, nodeattestor.ErrToken) {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return s.failed("join token", err)
}

// admit makes a node of the machine whose token was used up. Its record is written before its SVID leaves.
func (s *Server) admit(ctx context.Context, info nodeattestor.Info, key crypto.PublicKey) (*posternpb.AttestNodeResponse, error) {
	if _, ok := NodeName(info.Node); !ok {
		return nil, status.Errorf(codes.FailedPrecondition, "the token is for %q, which is no node", info.Node.String())
	}
	if err := s.tell(ctx, audit.TokenUsed, info.Node, map[string]string{"token": info.ID, "created_by": info.CreatedBy, "remote": remote(ctx)}); err != nil {
		return nil, err
	}
	if err := s.options.Register(ctx, info.Node, info.Identities, info.CreatedBy); err != nil {
		return nil, s.failed("register the node's identities", err)
	}
	issued, err := s.options.Authority.IssueNode(ctx, ca.Request{ID: info.Node, PublicKey: key, Node: info.Node.String()})
	if err != nil {
		return nil, s.issueStatus(err)
	}
	if err := s.options.Nodes.attested(ctx, info.Node, "join_token", issued.Chain[0], s.options.Clock()); err != nil {
		return nil, s.failed("record the node", err)
	}
	s.options.Replaced(info.Node)
	if err := s.tell(ctx, audit.NodeAttested, info.Node, map[string]string{
		"attestor": "join_token", "token": info.ID, "serial": issued.Serial, "key": revocation.KeyString(issued.Chain[0]), "remote": remote(ctx),
	}); err != nil {
		return nil, err
	}
	s.logger.Info("attested a node", slog.String(observe.KeyNode, info.Node.String()), slog.String(observe.KeyPeer, remote(ctx)))
	return &posternpb.AttestNodeResponse{
		Svid: toSVID(issued), X509Authorities: rawOf(s.options.Authority.Bundle().Authorities), TrustDomain: s.options.TrustDomain.Name(),
	}, nil
}

// RenewNode signs a new key for the calling node.
func (n nodeService) RenewNode(ctx context.Context, req *posternpb.RenewNodeRequest) (*posternpb.RenewNodeResponse, error) {
	response, err := n.server.renew(ctx, req)
	n.server.metrics.renewed(status.Code(err).String())
	return response, err
}

func (s *Server) renew(ctx context.Context, req *posternpb.RenewNodeRequest) (*posternpb.RenewNodeResponse, error) {
	node, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if node.Local {
		return nil, status.Error(codes.FailedPrecondition, "the authority's own node has no SVID to renew")
	}
	if s.pace.take(node.ID.String(), 1) == 0 {
		return nil, status.Error(codes.ResourceExhausted, "too many requests of this node")
	}
	key, err := publicKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	issued, err := s.options.Authority.IssueNode(ctx, ca.Request{ID: node.ID, PublicKey: key, Node: node.ID.String()})
	if err != nil {
		return nil, s.issueStatus(err)
	}
	if err := s.options.Nodes.renewed(ctx, node, issued.Chain[0], s.options.Clock()); err != nil {
		return nil, s.failed("record the renewal", err)
	}
	if err := s.tell(ctx, audit.NodeRenewed, node.ID, map[string]string{"serial": issued.Serial, "key": revocation.KeyString(issued.Chain[0])}); err != nil {
		return nil, err
	}
	return &posternpb.RenewNodeResponse{Svid: toSVID(issued)}, nil
}

// Authenticate returns the identity of the calling node if the authority still knows it and the key of its connection, in the form that
// xds/adsserver asks for. The node in this process needs no record. Its errors are gRPC statuses.
func (s *Server) Authenticate(ctx context.Context) (spiffeid.ID, error) {
	node, err := s.caller(ctx)
	return node.ID, err
}

// caller returns who calls, from the connection, if the authority still knows it.
func (s *Server) caller(ctx context.Context) (Node, error) {
	node, ok := NodeFromContext(ctx)
	if !ok {
		return Node{}, status.Error(codes.Unauthenticated, "the connection proves no node")
	}
	if node.Local {
		return node, nil
	}
	if err := s.options.Nodes.authorize(ctx, node); err != nil {
		if s.complaints.take(node.ID.String(), 1) == 1 {
			s.logger.Warn("refused a node", slog.String(observe.KeyNode, node.ID.String()), slog.String(observe.KeyError, err.Error()))
		}
		return Node{}, status.Error(codes.PermissionDenied, "this node is not known, or was attested again elsewhere")
	}
	return node, nil
}

// publicKey takes the key out of a certificate request, its possession proven. Everything else that the request says is ignored.
func publicKey(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request of %d bytes, the limit is %d", len(csr), maxCSR)
	}
	key, err := svid.ValidateCSR(csr)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return key, nil
}

// issueStatus tells a refusal, which the caller may know the reason of, from a failure, which the operator has to.
func (s *Server) issueStatus(err error) error {
	if errors.Is(err, ca.ErrRefused) {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return s.failed("sign", err)
}

// failed logs what went wrong here and returns what the caller is told.
func (s *Server) failed(doing string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if s.complaints.take("failed", 1) == 1 {
		s.logger.Error("could not serve a node", slog.String(observe.KeyError, fmt.Sprintf("%s: %v", doing, err)))
	}
	return status.Errorf(codes.Unavailable, "%s: failed at the authority, try again", doing)
}

// tell appends an event. What cannot be recorded is not done.
func (s *Server) tell(ctx context.Context, event string, node spiffeid.ID, detail map[string]string) error {
	_, err := s.options.Events.Append(ctx, audit.Event{Type: event, Actor: node.String(), Target: node.String(), Detail: detail})
	if err != nil {
		return s.failed("record the event", err)
	}
	return nil
}

func toSVID(issued *ca.Issued) *posternpb.X509SVID {
	return &posternpb.X509SVID{SpiffeId: issued.ID.String(), Certificates: rawOf(issued.Chain), NotAfter: timestamppb.New(issued.NotAfter)}
}

func rawOf(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, 0, len(certs))
	for _, cert := range certs {
		raw = append(raw, cert.Raw)
	}
	return raw
}

func remote(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}
