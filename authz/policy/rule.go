package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
)

// rule is one compiled rule. A condition that is nil holds always.
type rule struct {
	policy  string
	name    string // "allow[0]": effect and place in the policy
	order   int    // over all policies, in the order of declaration
	shadow  bool
	effect  authz.Effect
	expires time.Time // of an allow rule; zero means never

	http bool // applies to HTTP requests
	tcp  bool // applies to TCP connections
	// namesTCP: the rule has a tcp clause.
	namesTCP bool

	from    []config.PrincipalPattern // nil: see matchFrom
	except  []config.PrincipalPattern
	methods []string
	paths   []config.PathTemplate
	hosts   []config.HostPattern
	headers []headerCondition
}

// headerCondition asks for a field of that (lower-case) name with exactly that value; of a deny rule, for one that has it in a list.
type headerCondition struct{ name, value string }

// matchProtocol, matchFrom and the others are the conditions one by one; Decide and Explain use the same.
func (r *rule) matchProtocol(req *authz.Request) bool {
	if req.Protocol == authz.TCP {
		return r.tcp
	}
	return r.http
}

// matchSniffed: a connection that is TCP by guess needs an allow rule that means TCP; deny rules need no such thing.
func (r *rule) matchSniffed(req *authz.Request) bool {
	return !req.Sniffed || r.effect == authz.Deny || r.namesTCP
}

// matchFrom: without from, an allow rule means every authenticated caller, and a deny rule every caller.
func (r *rule) matchFrom(req *authz.Request) bool {
	if r.from == nil {
		return r.effect == authz.Deny || !req.Principal.Anonymous()
	}
	return matchPrincipal(r.from, req.Principal)
}

func (r *rule) matchExcept(req *authz.Request) bool {
	return r.except != nil && matchPrincipal(r.except, req.Principal)
}

func (r *rule) matchMethod(req *authz.Request) bool {
	return r.methods == nil || slices.Contains(r.methods, req.Method)
}

func (r *rule) matchPath(req *authz.Request) bool {
	return r.paths == nil || slices.ContainsFunc(r.paths, func(t config.PathTemplate) bool { return t.Match(req.Path) })
}

func (r *rule) matchHost(req *authz.Request) bool {
	return r.hosts == nil || slices.ContainsFunc(r.hosts, func(h config.HostPattern) bool { return h.Match(req.Host) })
}

// matchHeaders: a deny rule matches when any field of the name has the value, alone or in a list, an allow rule only when every one
// has exactly it and there is at least one. So a second field of the same name, or a list in one (RFC 9110, Section 5.3: both say
// the same), can neither hide the first nor ride along with it.
func (r *rule) matchHeaders(req *authz.Request) bool {
	for _, c := range r.headers {
		if !c.match(req, r.effect) {
			return false
		}
	}
	return true
}

func (c headerCondition) match(req *authz.Request, effect authz.Effect) bool {
	if req.Header == nil {
		return false
	}
	found := false
	for value := range req.Header(c.name) {
		same := strings.TrimSpace(value) == c.value
		if effect == authz.Deny && (same || hasElement(value, c.value)) {
			return true
		}
		if !same && effect == authz.Allow {
			return false
		}
		found = found || same
	}
	return found
}

// hasElement reports that an element of the comma-separated list is the value. Empty elements are none (RFC 9110, Section 5.6.1.2).
func hasElement(list, value string) bool {
	for more := value != ""; more; {
		var element string
		element, list, more = strings.Cut(list, ",")
		if strings.Trim(element, " \t") == value {
			return true
		}
	}
	return false
}

func (r *rule) expired(now time.Time) bool {
	return r.effect == authz.Allow && !r.expires.IsZero() && !now.Before(r.expires)
}

// match is every condition but those that the index has already settled (path, from).
func (r *rule) matchRest(req *authz.Request) bool {
	return r.matchSniffed(req) && !r.expired(req.Time) && r.matchMethod(req) && r.matchHost(req) && r.matchHeaders(req) && !r.matchExcept(req)
}

func matchPrincipal(patterns []config.PrincipalPattern, p authz.Principal) bool {
	return slices.ContainsFunc(patterns, func(pattern config.PrincipalPattern) bool { return pattern.Match(p.ID) })
}
