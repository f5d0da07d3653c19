// Package authz has the words in which postern decides: a Principal asks a Request of a service, the answer is a Decision, and
// only a Decision that allows yields a Permit, which the upstream side demands.
//
// The package does no I/O and knows nothing of configuration; authz/policy compiles rules and decides.
package authz

import (
	"iter"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/internal/observe"
)

// Principal is who asks, after all credentials are weighed. The zero value is anonymous.
type Principal struct {
	// ID is the machine's verified SPIFFE ID; zero for a caller without one.
	ID spiffeid.ID
}

// Anonymous reports that the caller proved nothing.
func (p Principal) Anonymous() bool { return p.ID.IsZero() }

// String returns the SPIFFE ID, or "anonymous".
func (p Principal) String() string {
	if p.Anonymous() {
		return "anonymous"
	}
	return p.ID.String()
}

// Protocol is the kind of request that is judged; rules for one kind never match another.
type Protocol uint8

// Protocols.
const (
	TCP Protocol = iota
	HTTP
)

// Request is what is asked, in canonical form. A decision reads it and keeps nothing of it.
type Request struct {
	Service   string
	Principal Principal
	Protocol  Protocol
	// Sniffed: the listener guessed the protocol from the first bytes. The client chooses those, so it must not reach more that way:
	// only a rule that names tcp allows such a connection.
	Sniffed bool
	Source  netip.AddrPort
	// Time of the request; rules that expire are judged by it.
	Time time.Time
	// Of HTTP only. Host and Path are canonical (proxy/l7/canonical); Path is without query.
	Method string
	Host   string
	Path   string
	// Header yields every value of the field, whose name is given in lower case. Nil when there are none.
	Header func(name string) iter.Seq[string]
}

// Effect is the answer of a decision. The zero value denies.
type Effect uint8

// Effects.
const (
	Deny Effect = iota
	Allow
)

// String returns "deny" or "allow".
func (e Effect) String() string {
	if e == Allow {
		return "allow"
	}
	return "deny"
}

// Decision is the answer to one request. The zero value denies without a reason and was made by nobody.
type Decision struct {
	ID     ID
	Effect Effect
	// Reason is set on a denial: Denied, NoPolicy, PolicyError, Unauthenticated.
	Reason observe.Reason
	// Policy and Rule name what decided: the rule as "allow[0]" by its place in the policy. Empty on a default denial.
	Policy string
	Rule   string
	// Shadow lists what policies in shadow mode would have changed; usually nil.
	Shadow []Shadow
	// Generation is that of the policies that decided.
	Generation uint64

	made bool
}

// Shadow says that a policy in shadow mode would have answered otherwise.
type Shadow struct {
	Policy string
	Rule   string
	Would  Effect
}

// Permit is the proof that a decision allowed. Only Decision.Permit makes one; the zero value is not valid.
type Permit struct {
	decision ID
	valid    bool
}

// Valid reports that a decision stands behind the permit.
func (p Permit) Valid() bool { return p.valid }

// Decision is the id of the decision that made the permit.
func (p Permit) Decision() ID { return p.decision }

// Decided marks a decision as made: by a policy table, or by the routes of a listener whose callers speak as this proxy. Nobody else
// calls it.
func Decided(d Decision) Decision {
	d.made = true
	return d
}

// Permit returns the proof when the decision allows.
func (d Decision) Permit() (Permit, bool) {
	if !d.made || d.Effect != Allow {
		return Permit{}, false
	}
	return Permit{decision: d.ID, valid: true}, true
}
