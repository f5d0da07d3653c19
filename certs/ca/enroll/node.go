package enroll

import (
	"context"
	"crypto/x509"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Node is the verified caller of a connection. Only NodeTransport and Local make one that NodeFromContext returns.
type Node struct {
	ID spiffeid.ID
	// Local says that the caller is in this process.
	Local bool
	// Chain is what the node presented, leaf first. Empty for the local one.
	Chain []*x509.Certificate
}

// nodeInfo carries a Node from the handshake to the calls.
type nodeInfo struct {
	credentials.CommonAuthInfo
	node Node
}

// AuthType names the kind of proof.
func (nodeInfo) AuthType() string { return "postern-node" }

// NodeFromContext returns the node at the other end of the connection that a call came over; false when the connection proves none.
func NodeFromContext(ctx context.Context) (Node, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Node{}, false
	}
	info, ok := p.AuthInfo.(nodeInfo)
	if !ok || info.node.ID.IsZero() {
		return Node{}, false
	}
	node := info.node
	node.Chain = slices.Clone(node.Chain)
	return node, true
}
