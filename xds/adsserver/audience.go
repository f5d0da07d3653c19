package adsserver

import "github.com/spiffe/go-spiffe/v2/spiffeid"

// Audience says which clients may see a resource. The zero value is nobody.
type Audience struct {
	everyone bool
	node     string
}

// Everyone is every authenticated client.
func Everyone() Audience { return Audience{everyone: true} }

// Only is the client with this identity. The zero ID is nobody.
func Only(node spiffeid.ID) Audience { return Audience{node: node.String()} }

// sees reports whether the client may see a resource with this audience.
func (a Audience) sees(client string) bool {
	return a.everyone || (a.node != "" && a.node == client)
}
