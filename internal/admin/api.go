package admin

import (
	"time"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
)

// Status is the state of a process at a glance.
type Status struct {
	Version     string           `json:"version"`
	PID         int              `json:"pid"`
	Started     time.Time        `json:"started"`
	TrustDomain string           `json:"trust_domain"`
	Roles       []string         `json:"roles"` // authority, agent, proxy
	Ready       bool             `json:"ready"`
	NotReady    []string         `json:"not_ready,omitempty"` // what is waited for
	Config      ConfigStatus     `json:"config"`
	Listeners   []ListenerStatus `json:"listeners,omitempty"`
	Clusters    []ClusterStatus  `json:"clusters,omitempty"`
	Identities  []Identity       `json:"identities,omitempty"`
	Upstream    *Following       `json:"following,omitempty"`
	Authority   *AuthorityStatus `json:"authority,omitempty"`
}

// ConfigStatus says which configuration serves.
type ConfigStatus struct {
	File       string    `json:"file,omitempty"`
	Hash       string    `json:"hash"`
	Generation uint64    `json:"generation"`
	Loaded     time.Time `json:"loaded"`
	LastError  string    `json:"last_error,omitempty"` // of a later load that was refused
}

// ListenerStatus is one listener of the proxy.
type ListenerStatus struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	Protocol    string `json:"protocol"`
	TLS         string `json:"tls"`
	Service     string `json:"service,omitempty"`
	Identity    string `json:"identity,omitempty"`
	Connections int    `json:"connections"`
}

// ClusterStatus is one cluster of the proxy.
type ClusterStatus struct {
	Name      string           `json:"name"`
	Protocol  string           `json:"protocol"`
	Endpoints []EndpointStatus `json:"endpoints"`
}

// EndpointStatus is one endpoint of a cluster.
type EndpointStatus struct {
	Address string `json:"address"`
	// State is available, ejected (left alone until then, for its failures) or unhealthy (by its health checks).
	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"`
	Until       time.Time `json:"until,omitzero"`
	UnderWay    int64     `json:"under_way"`
	Waiting     int64     `json:"waiting"`
	Connections int64     `json:"connections"`
}

// Identity is one live credential of the process; never its key.
type Identity struct {
	SPIFFEID   string    `json:"spiffe_id"`
	Serial     string    `json:"serial"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Generation uint64    `json:"generation"`
}

// Following is the state of the stream to the authority.
type Following struct {
	Authority  string    `json:"authority"`
	Node       string    `json:"node"`
	Connected  bool      `json:"connected"`
	LastUpdate time.Time `json:"last_update,omitzero"`
	Entries    int       `json:"entries"`
}

// AuthorityStatus is the state of the authority in this process.
type AuthorityStatus struct {
	Sealing     string `json:"sealing"` // how CA keys are sealed: passphrase or local_file
	Entries     int    `json:"entries"`
	Credentials int    `json:"credentials"` // issued and not yet expired
	Revocations int    `json:"revocations"`
	Nodes       []Node `json:"nodes,omitempty"` // that follow now
}

// Node is one process that follows the authority now.
type Node struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Connected time.Time `json:"connected"`
	LastNACK  string    `json:"last_nack,omitempty"`
}

// Authority is one key of the CA.
type Authority struct {
	ID        string    `json:"id"`   // subject key id, hexadecimal
	Kind      string    `json:"kind"` // root, signing
	State     string    `json:"state"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	PEM       string    `json:"pem"`
}

// Bundle is what the trust domain's SVIDs are verified with.
type Bundle struct {
	TrustDomain string `json:"trust_domain"`
	Sequence    uint64 `json:"sequence"`
	PEM         string `json:"pem"`
	SPIFFE      []byte `json:"spiffe"` // the SPIFFE bundle document (JWKS)
}

// Credential is one issued SVID that has not expired.
type Credential struct {
	Serial    string    `json:"serial"`
	SPIFFEID  string    `json:"spiffe_id"`
	Entry     string    `json:"entry,omitempty"`
	Node      string    `json:"node,omitempty"`
	Authority string    `json:"authority"`
	Issued    time.Time `json:"issued"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   bool      `json:"revoked,omitempty"`
}

// Token is a new join token: the only time its text is shown.
type Token struct {
	Token   string    `json:"token"`
	Node    string    `json:"node"`
	Expires time.Time `json:"expires"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	// Node is the last part of the node's SPIFFE ID, spiffe://<trust domain>/node/<Node>.
	Node string `json:"node"`
	// Identities are the SPIFFE IDs that the postern process on the node may present as its own.
	Identities []string      `json:"identities,omitempty"`
	TTL        time.Duration `json:"ttl,omitempty"` // 0 means 10 minutes
}

// EntryChange carries what an update sets; nil leaves a field as it is.
type EntryChange struct {
	Revision  uint64         `json:"revision,omitempty"` // of the entry as it was read; 0 takes the newest
	SPIFFEID  *string        `json:"spiffe_id,omitempty"`
	Node      *string        `json:"node,omitempty"`
	Selectors *[]string      `json:"selectors,omitempty"`
	TTL       *time.Duration `json:"ttl,omitempty"`
	DNSNames  *[]string      `json:"dns_names,omitempty"`
	Hint      *string        `json:"hint,omitempty"`
	Owner     *string        `json:"owner,omitempty"`
	Purpose   *string        `json:"purpose,omitempty"`
}

// ExplainRequest asks how a request would be judged.
type ExplainRequest struct {
	Service   string              `json:"service"`
	Principal string              `json:"principal,omitempty"` // a SPIFFE ID; empty is anonymous
	TCP       bool                `json:"tcp,omitempty"`
	Method    string              `json:"method,omitempty"`
	Target    string              `json:"target,omitempty"` // path and query as sent
	Host      string              `json:"host,omitempty"`
	Header    map[string][]string `json:"header,omitempty"`
}

// Explanation is a decision with the verdict of every rule that was weighed.
type Explanation struct {
	Decision   string        `json:"decision,omitempty"` // of a live decision
	Time       time.Time     `json:"time,omitzero"`
	Service    string        `json:"service"`
	Principal  string        `json:"principal"`
	Method     string        `json:"method,omitempty"`
	Host       string        `json:"host,omitempty"`
	Path       string        `json:"path,omitempty"` // canonical
	Effect     string        `json:"effect"`
	Reason     string        `json:"reason,omitempty"`
	Policy     string        `json:"policy,omitempty"`
	Rule       string        `json:"rule,omitempty"`
	Generation uint64        `json:"generation"` // of the policies, which count apart from the configuration
	Rules      []RuleVerdict `json:"rules,omitempty"`
	Advice     string        `json:"advice,omitempty"` // what would have to change for the other answer
}

// RuleVerdict is what one rule said.
type RuleVerdict struct {
	Policy  string `json:"policy"`
	Rule    string `json:"rule"`
	Mode    string `json:"mode"`
	Effect  string `json:"effect"`
	Matched bool   `json:"matched"`
	Why     string `json:"why"`
}

// Entries and revocations travel as they are kept.
type (
	Entry      = registration.Entry
	Revocation = revocation.Revocation
)

// Failure is the body of an answer that is not 2xx.
type Failure struct {
	Message string   `json:"error"`
	Code    string   `json:"code"`              // not_found, conflict, invalid, denied, unavailable, internal
	Details []string `json:"details,omitempty"` // of a refused configuration: each error with its place
}
