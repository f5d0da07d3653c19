package enroll

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/posternpb"
)

// Client asks an authority on behalf of this node, over a connection that proves which node that is. It is a source.Issuer. All methods may be
// called concurrently.
type Client struct {
	rpc posternpb.EnrollmentClient
}

var _ source.Issuer = (*Client)(nil)

const (
	// batch is how many SVIDs are asked for in one call: the authority's default limit.
	batch = 64
	// callTimeout bounds one call. A batch is 64 signatures and a few durable commits.
	callTimeout = 30 * time.Second
)

// NewClient returns a client over a connection to the authority, which NodeCredential or Local made.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: posternpb.NewEnrollmentClient(conn)}
}

// dialOptions are for every connection to an authority. A dead connection is noticed within 40 s; a new one is tried at least
// every 5 s, so that an authority that comes back is found.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	}
}

// IssueX509 has SVIDs signed. The error concerns the call; what concerns one request is in its result.
func (c *Client) IssueX509(ctx context.Context, requests []source.IssueRequest) ([]source.IssueResult, error) {
	results := make([]source.IssueResult, 0, len(requests))
	for len(requests) > 0 {
		part := requests[:min(batch, len(requests))]
		requests = requests[len(part):]
		answered, err := c.issue(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("ask the authority for SVIDs: %w", err)
		}
		results = append(results, answered...)
	}
	return results, nil
}

func (c *Client) issue(ctx context.Context, requests []source.IssueRequest) ([]source.IssueResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call := &posternpb.IssueX509Request{Requests: make([]*posternpb.X509Request, 0, len(requests))}
	for _, r := range requests {
		call.Requests = append(call.Requests, &posternpb.X509Request{EntryId: r.EntryID, SpiffeId: r.ID.String(), Csr: r.CSR})
	}
	response, err := c.rpc.IssueX509(ctx, call)
	if err != nil {
		return nil, err
	}
	if len(response.GetResults()) != len(requests) {
		return nil, fmt.Errorf("%d answers to %d requests", len(response.GetResults()), len(requests))
	}
	results := make([]source.IssueResult, 0, len(requests))
	for _, answer := range response.GetResults() {
		results = append(results, resultOf(answer))
	}
	return results, nil
}

func resultOf(answer *posternpb.X509Result) source.IssueResult {
	if answer.GetSvid() == nil {
		code := codes.Code(answer.GetCode())
		if code == codes.OK {
			code = codes.Internal
		}
		return source.IssueResult{Err: status.Error(code, answer.GetError())}
	}
	chain, err := parseChain(answer.GetSvid().GetCertificates())
	if err != nil {
		return source.IssueResult{Err: fmt.Errorf("parse SVID: %w", err)}
	}
	return source.IssueResult{Chain: chain}
}

// RenewNode has a new key of this node signed.
func (c *Client) RenewNode(ctx context.Context, csr []byte) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := c.rpc.RenewNode(ctx, &posternpb.RenewNodeRequest{Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("ask the authority to renew this node: %w", err)
	}
	chain, err := parseChain(response.GetSvid().GetCertificates())
	if err != nil {
		return nil, fmt.Errorf("parse SVID of this node: %w", err)
	}
	return chain, nil
}
