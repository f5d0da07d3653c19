// Package registration holds entries: which selectors earn which SPIFFE ID on which node, for how long, and who owns it.
//
// The story: an operator, or the declared configuration, creates an entry in the Registry of the authority. The Registry holds
// it against the rules (Entry.Validate), keeps it in the store and records who did it. Watch feeds every entry and every change
// to the control plane, which gives each node its own (ForNode). There an Index finds the entries that the selectors of an
// attested workload earn, and Expand turns a template into the SPIFFE ID of that workload. The authority, asked to sign, repeats
// the question with Matches, so that a node cannot step out of the template.
//
// Invariants: no two entries have the same node, SPIFFE ID and selectors; the values of two workloads never make one ID from one
// template.
//
// The package attests nothing and signs nothing.
package registration

import (
	"time"

	"github.com/postern-proxy/postern/certs/store"
)

// Entry says that a workload on Node that has every selector of Selectors is SPIFFEID.
type Entry struct {
	ID string `json:"id"` // made by the authority
	// SPIFFEID is the identity, or a template of it: "{unix.path}" and "{unix.uid}" stand for the value of that selector,
	// escaped so that two values never make one ID. See ParseTemplate.
	SPIFFEID string `json:"spiffe_id"`
	// Node is the SPIFFE ID of the node the entry is for. Empty means the authority's own node.
	Node string `json:"node,omitempty"`
	// Selectors are facts as "type:key:value" ("unix:uid:1000"), sorted. SelfSelector names the postern process of the node.
	Selectors []string `json:"selectors"`
	// TTL is the life of its SVIDs; 0 means the authority's default.
	TTL      time.Duration `json:"ttl,omitempty"`
	DNSNames []string      `json:"dns_names,omitempty"`
	Hint     string        `json:"hint,omitempty"`
	Owner    string        `json:"owner,omitempty"`
	Purpose  string        `json:"purpose,omitempty"`
	// Origin says what keeps the entry: OriginConfig, or empty for an operator.
	Origin  string    `json:"origin,omitempty"`
	Created time.Time `json:"created"`
	// Revision is the store revision of the last change; an update must name it.
	Revision store.Revision `json:"revision"`
}

// SelfSelector is the selector of the postern process itself on its node, whose identity its listeners and clusters present.
const SelfSelector = "postern:self"

// OriginConfig marks an entry that the authority's configuration declares: it goes when the declaration does.
const OriginConfig = "config"
