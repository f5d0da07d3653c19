package enroll

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/posternpb"
)

// IssueX509 signs SVIDs for entries of the calling node. Each request has its own answer, in its place.
func (n nodeService) IssueX509(ctx context.Context, req *posternpb.IssueX509Request) (*posternpb.IssueX509Response, error) {
	s := n.server
	node, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	requests := req.GetRequests()
	if len(requests) > s.options.Limits.Batch {
		return nil, status.Errorf(codes.InvalidArgument, "%d requests, the limit is %d", len(requests), s.options.Limits.Batch)
	}
	granted := len(requests)
	if !node.Local {
		granted = s.pace.take(node.ID.String(), len(requests))
	}
	results := make([]*posternpb.X509Result, len(requests))
	for i := granted; i < len(requests); i++ {
		results[i] = refusal(status.Error(codes.ResourceExhausted, "too many requests of this node"))
	}
	s.issueAll(ctx, node, requests[:granted], results)
	for _, result := range results {
		s.metrics.issued(codes.Code(result.GetCode()).String())
	}
	return &posternpb.IssueX509Response{Results: results}, nil
}

// issueAll signs several at once, because the store makes several durable at once.
func (s *Server) issueAll(ctx context.Context, node Node, requests []*posternpb.X509Request, results []*posternpb.X509Result) {
	next := make(chan int, len(requests)) // all of them, so that filling it does not wait
	for i := range requests {
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	for range min(s.options.Limits.IssuesAtOnce, len(requests)) {
		workers.Go(func() {
			for i := range next {
				results[i] = s.issueOne(ctx, node, requests[i])
			}
		})
	}
	workers.Wait()
}

func (s *Server) issueOne(ctx context.Context, node Node, req *posternpb.X509Request) *posternpb.X509Result {
	order, err := s.order(ctx, node, req)
	if err != nil {
		if status.Code(err) == codes.PermissionDenied && s.complaints.take(node.ID.String(), 1) == 1 {
			s.logger.Warn("refused to sign for a node", slog.String(observe.KeyNode, node.ID.String()), slog.String(observe.KeyError, err.Error()))
		}
		return refusal(err)
	}
	issued, err := s.options.Authority.IssueX509(ctx, order)
	if err != nil {
		return refusal(s.issueStatus(err))
	}
	return &posternpb.X509Result{Svid: toSVID(issued)}
}

// order checks that the node may have what it asks for, and makes the authority's request of it. An entry that does not exist and an
// entry of another node get the same answer.
func (s *Server) order(ctx context.Context, node Node, req *posternpb.X509Request) (ca.Request, error) {
	id, err := spiffeid.FromString(req.GetSpiffeId())
	if err != nil {
		return ca.Request{}, status.Error(codes.InvalidArgument, "spiffe_id: "+err.Error())
	}
	if len(req.GetEntryId()) > maxEntryID {
		return ca.Request{}, status.Errorf(codes.InvalidArgument, "entry_id has %d bytes, the limit is %d", len(req.GetEntryId()), maxEntryID)
	}
	entry, err := s.options.Entries.Get(ctx, req.GetEntryId())
	if err != nil && !errors.Is(err, registration.ErrNotFound) {
		return ca.Request{}, s.failed("look up the entry", err)
	}
	if err != nil || !isFor(entry, node) {
		return ca.Request{}, status.Errorf(codes.NotFound, "no entry %q for this node", req.GetEntryId())
	}
	if !grants(entry, id) {
		return ca.Request{}, status.Errorf(codes.PermissionDenied, "entry %q does not grant %q", entry.ID, id.String())
	}
	if Reserved(id) {
		return ca.Request{}, status.Errorf(codes.PermissionDenied, "%q is reserved for the trust domain itself", id.String())
	}
	key, err := publicKey(req.GetCsr())
	if err != nil {
		return ca.Request{}, err
	}
	return ca.Request{ID: id, PublicKey: key, TTL: entry.TTL, DNSNames: entry.DNSNames, EntryID: entry.ID, Node: node.ID.String()}, nil
}

// isFor reports whether the entry is one of the node's. An entry without a node is for the authority's own.
func isFor(entry registration.Entry, node Node) bool {
	if entry.Node == "" {
		return node.Local
	}
	return entry.Node == node.ID.String()
}

// grants reports whether the ID is the entry's, or one that its template can become.
func grants(entry registration.Entry, id spiffeid.ID) bool {
	if registration.IsTemplate(entry.SPIFFEID) {
		return registration.Matches(entry.SPIFFEID, id)
	}
	return entry.SPIFFEID == id.String()
}

func refusal(err error) *posternpb.X509Result {
	st := status.Convert(err)
	return &posternpb.X509Result{Code: uint32(st.Code()), Error: st.Message()}
}

// maxEntryID bounds the id of an entry, in bytes; those that the authority makes have 26.
const maxEntryID = 128
