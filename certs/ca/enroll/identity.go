package enroll

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Paths that belong to the trust domain itself. No entry may have an ID there.
const (
	nodePath      = "/node"
	authorityPath = "/authority"
)

// maxNodeName bounds the name of a node, in bytes; a host name fits.
const maxNodeName = 253

// AuthorityID is the identity of a trust domain's authority on its listeners.
func AuthorityID(td spiffeid.TrustDomain) spiffeid.ID {
	return spiffeid.RequireFromPath(td, authorityPath)
}

// NodeID is the identity of the node of this name: one path segment of letters, digits, dots, dashes and underscores.
func NodeID(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	if len(name) > maxNodeName {
		return spiffeid.ID{}, fmt.Errorf("name of node has %d bytes, the limit is %d", len(name), maxNodeName)
	}
	id, err := spiffeid.FromSegments(td, strings.TrimPrefix(nodePath, "/"), name)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("name of node %q: %w", name, err)
	}
	return id, nil
}

// NodeName is the name of the node with this ID; false when it is no node's.
func NodeName(id spiffeid.ID) (string, bool) {
	name, ok := strings.CutPrefix(id.Path(), nodePath+"/")
	if !ok || name == "" || len(name) > maxNodeName || strings.Contains(name, "/") {
		return "", false
	}
	return name, true
}

// Reserved reports whether the path belongs to the trust domain itself, so that no workload may have it.
func Reserved(id spiffeid.ID) bool {
	for _, path := range []string{nodePath, authorityPath} {
		if id.Path() == path || strings.HasPrefix(id.Path(), path+"/") {
			return true
		}
	}
	return false
}
