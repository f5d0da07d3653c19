package policy

import (
	"slices"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
)

// Table answers requests by the policies it was compiled from.
type Table struct {
	generation uint64
	ids        *authz.IDs
	services   map[string]*service
	asked      map[string]struct{} // names of header fields that some rule has a condition on, in lower case
}

// service has the rules that protect one service.
type service struct {
	rules    []*rule // all, in order: what Explain walks
	enforced bool    // at least one policy is not in shadow mode
	http     bucket  // HTTP rules without paths
	tree     node    // HTTP rules with paths
	tcp      bucket
}

// Compile makes a table of policies as Parse or ParsePolicy returned them. ids makes the ids of its decisions, so that they stay
// unique from one generation to the next.
func Compile(policies []config.Policy, generation uint64, ids *authz.IDs) *Table {
	t := &Table{generation: generation, ids: ids, services: map[string]*service{}, asked: map[string]struct{}{}}
	order := 0
	for i := range policies {
		p := &policies[i]
		s := t.services[p.Service]
		if s == nil {
			s = &service{}
			t.services[p.Service] = s
		}
		s.enforced = s.enforced || p.Mode != config.PolicyShadow
		for j := range p.Rules {
			r := compileRule(p, j, order)
			for _, h := range r.headers {
				t.asked[h.name] = struct{}{}
			}
			s.add(r)
			order++
		}
	}
	return t
}

// Generation is the number given to Compile.
func (t *Table) Generation() uint64 { return t.generation }

// Asks reports whether a rule of any service, in shadow mode or not, has a condition on the header field of that lower-case name.
// A nil table asks for none.
func (t *Table) Asks(name string) bool {
	if t == nil {
		return false
	}
	_, asks := t.asked[name]
	return asks
}

// Services returns the names of the services that have a policy, sorted.
func (t *Table) Services() []string {
	names := make([]string, 0, len(t.services))
	for name := range t.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *service) add(r *rule) {
	s.rules = append(s.rules, r)
	if r.tcp {
		s.tcp.add(r)
	}
	if !r.http {
		return
	}
	if r.paths == nil {
		s.http.add(r)
		return
	}
	for _, template := range r.paths {
		s.tree.add(template.Segments(), r)
	}
}

// Decide answers the request. A nil table has no policies.
func (t *Table) Decide(req *authz.Request) authz.Decision {
	if t == nil {
		return authz.Decided(authz.Decision{Reason: observe.NoPolicy})
	}
	s := t.services[req.Service]
	if s == nil {
		return authz.Decided(authz.Decision{ID: t.ids.Next(), Reason: observe.NoPolicy, Generation: t.generation})
	}
	var v verdict
	if req.Protocol == authz.TCP {
		s.tcp.weigh(req, &v)
	} else {
		s.http.weigh(req, &v)
		if len(req.Path) > 0 && req.Path[0] == '/' {
			s.tree.walk(req.Path[1:], false, req, &v)
		}
	}
	d := v.decision(s.enforced)
	d.ID, d.Generation = t.ids.Next(), t.generation
	return authz.Decided(d)
}

// NextExpiry is when the next rule ends that still allows something; false when none will. A nil table has none.
func (t *Table) NextExpiry(now time.Time) (next time.Time, ok bool) {
	if t == nil {
		return time.Time{}, false
	}
	for _, s := range t.services {
		for _, r := range s.rules {
			ends := r.effect == authz.Allow && !r.shadow && r.expires.After(now)
			if ends && (!ok || r.expires.Before(next)) {
				next, ok = r.expires, true
			}
		}
	}
	return next, ok
}

// verdict gathers the matching rules of one request: of each effect the first in the order of declaration.
type verdict struct {
	deny, allow *rule
	shadow      []*rule // matching rules of policies in shadow mode; nil in the usual case
}

func (v *verdict) take(r *rule) {
	if r.shadow {
		v.shadow = append(v.shadow, r)
		return
	}
	if r.effect == authz.Deny {
		v.deny = first(v.deny, r)
		return
	}
	v.allow = first(v.allow, r)
}

func first(have, r *rule) *rule {
	if have == nil || r.order < have.order {
		return r
	}
	return have
}

// decision is the answer, without id and generation.
func (v *verdict) decision(enforced bool) authz.Decision {
	d := authz.Decision{Effect: authz.Deny, Reason: observe.Denied}
	switch {
	case v.deny != nil:
		d.Policy, d.Rule = v.deny.policy, v.deny.name
	case v.allow != nil:
		d = authz.Decision{Effect: authz.Allow, Policy: v.allow.policy, Rule: v.allow.name}
	case !enforced:
		d.Reason = observe.NoPolicy
	}
	d.Shadow = v.shadows(d.Effect)
	return d
}

// shadows reports, for each policy in shadow mode, the answer that it would have changed if it had been enforced: its deny turns
// an allow into a deny, its allow turns a default denial into an allow.
func (v *verdict) shadows(have authz.Effect) []authz.Shadow {
	if len(v.shadow) == 0 {
		return nil
	}
	slices.SortFunc(v.shadow, func(a, b *rule) int { return a.order - b.order })
	var out []authz.Shadow
	seen := ""
	for _, r := range v.shadow {
		if r.policy == seen {
			continue
		}
		seen = r.policy
		decider := v.deciderOf(r.policy)
		would := decider.effect
		if would == authz.Allow && v.deny != nil {
			would = authz.Deny
		}
		if would != have {
			out = append(out, authz.Shadow{Policy: decider.policy, Rule: decider.name, Would: would})
		}
	}
	return out
}

// deciderOf is the matching rule of one shadow policy that would speak for it: a deny before an allow.
func (v *verdict) deciderOf(policy string) *rule {
	var found *rule
	for _, r := range v.shadow {
		if r.policy == policy && (found == nil || r.effect == authz.Deny && found.effect == authz.Allow) {
			found = r
		}
	}
	return found
}
