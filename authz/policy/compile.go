package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
)

// compileRule compiles the i-th rule of a policy.
func compileRule(p *config.Policy, i, order int) *rule {
	r := &rule{policy: p.Name, order: order, shadow: p.Mode == config.PolicyShadow, expires: p.Expires}
	clause := p.Rules[i].Allow
	r.effect = authz.Allow
	if clause == nil {
		clause = p.Rules[i].Deny
		r.effect = authz.Deny
	}
	r.name = fmt.Sprintf("%s[%d]", r.effect, i)
	r.from = someOf(clause.From)
	if clause.Except != nil {
		r.except = someOf(clause.Except.From)
	}
	r.http = clause.HTTP != nil || clause.TCP == nil
	r.tcp = clause.TCP != nil || clause.HTTP == nil
	r.namesTCP = clause.TCP != nil
	if clause.HTTP != nil {
		r.compileHTTP(clause.HTTP)
	}
	return r
}

func (r *rule) compileHTTP(c *config.HTTPClause) {
	r.methods, r.paths, r.hosts = someOf(c.Methods), someOf(c.Paths), someOf(c.Hosts)
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		r.headers = append(r.headers, headerCondition{name: strings.ToLower(name), value: c.Headers[name]})
	}
}

// someOf makes "none given" nil, which a rule takes for "no condition".
func someOf[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
