package config

import (
	"slices"
	"time"
)

// Policy says who may do what on one service. A deny rule that matches wins over every allow rule; what no allow rule matches is
// denied. The order of rules and policies never matters.
type Policy struct {
	// Name is unique among the policies: in decisions, logs and metrics.
	Name string `config:"name,required"`
	// Service is the name that a listener gives to what the policy protects.
	Service string `config:"service,required"`
	// Mode is enforce, or shadow: the policy is judged and logged but decides nothing.
	Mode PolicyMode `config:"mode"`
	// Owner is who answers for the policy.
	Owner string `config:"owner"`
	// Reason is why the policy exists.
	Reason string `config:"reason"`
	// Expires ends the policy's allow rules at that time, as 2027-01-31T00:00:00Z; its deny rules stay.
	Expires time.Time `config:"expires"`
	// Rules are what the policy says, each either an allow or a deny.
	Rules []Rule `config:"rules,required"`
	// Tests are requests and the answer that is wanted.
	Tests []PolicyTest `config:"tests"`
}

// Rule has exactly one of its keys.
type Rule struct {
	// Allow permits what it matches.
	Allow *Clause `config:"allow"`
	// Deny refuses what it matches, whatever allows it.
	Deny *Clause `config:"deny"`
}

// Clause says what a rule matches; every key that is there must hold.
type Clause struct {
	// From are SPIFFE IDs, patterns of them (* is one segment, ** is the rest), or anonymous. Left out, an allow means every
	// authenticated caller and a deny means every caller.
	From []PrincipalPattern `config:"from"`
	// HTTP restricts the rule to HTTP requests that match. With neither http nor tcp a rule matches both kinds.
	HTTP *HTTPClause `config:"http"`
	// TCP restricts the rule to TCP connections.
	TCP *TCPClause `config:"tcp"`
	// Except exempts from a deny; an allow cannot have it.
	Except *Except `config:"except"`
}

// HTTPClause is what an HTTP request must have; every key that is there must hold. Empty: every HTTP request.
type HTTPClause struct {
	// Methods are upper-case HTTP methods. One of them must fit.
	Methods []string `config:"methods"`
	// Paths are templates in canonical form: {name} stands for one segment, {name...} at the end for the rest. One must fit.
	Paths []PathTemplate `config:"paths"`
	// Hosts are names without port; a leading *. stands for one or more labels. One of them must fit.
	Hosts []HostPattern `config:"hosts"`
	// Headers are names and the exact value that one field of that name must have. A deny also matches when the value is one
	// element of a comma-separated list; an allow never does, and wants every field of that name to have the value.
	Headers map[string]string `config:"headers"`
}

// TCPClause matches every TCP connection.
type TCPClause struct{}

// Except is who a deny does not concern.
type Except struct {
	// From are SPIFFE IDs, patterns of them, or anonymous.
	From []PrincipalPattern `config:"from,required"`
}

// PolicyTest is a request to the policy's service and the answer that is wanted of this policy alone.
type PolicyTest struct {
	// Name is what the test shows.
	Name string `config:"name,required"`
	// From is the SPIFFE ID of the caller, or anonymous.
	From PrincipalPattern `config:"from,required"`
	// Request is a method and a path, such as GET /v1/orders/1, or tcp.
	Request TestRequest `config:"request,required"`
	// Host is the host of the request.
	Host string `config:"host"`
	// Headers are header fields of the request.
	Headers map[string]string `config:"headers"`
	// Expect is allow or deny.
	Expect Expectation `config:"expect,required"`
}

// PolicyMode says whether a policy decides.
type PolicyMode string

// Modes of a policy.
const (
	PolicyEnforce PolicyMode = "enforce"
	PolicyShadow  PolicyMode = "shadow"
)

func (PolicyMode) values() []string { return []string{string(PolicyEnforce), string(PolicyShadow)} }

// Expectation is the answer that a policy test wants.
type Expectation string

// Expectations of a test.
const (
	ExpectAllow Expectation = "allow"
	ExpectDeny  Expectation = "deny"
)

func (Expectation) values() []string { return []string{string(ExpectAllow), string(ExpectDeny)} }

func (p *Policy) setDefaults() { p.Mode = PolicyEnforce }

// allows reports that the policy has an allow rule.
func (p *Policy) allows() bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Allow != nil })
}

// check looks at the policy alone, without the listeners around it.
func (p *Policy) check(k *checker, path string) {
	if p.Service != "" && !isName(p.Service) {
		k.fail(join(path, "service"), CodeFormat, withText(p.Service, errNotName), "a name has up to 63 letters, digits, -, _ and .")
	}
	for i := range p.Rules {
		p.Rules[i].check(k, index(join(path, "rules"), i))
	}
	names := map[string]bool{}
	for i := range p.Tests {
		at, test := index(join(path, "tests"), i), &p.Tests[i]
		if names[test.Name] && test.Name != "" {
			k.fail(at+".name", CodeDuplicate, "another test has the same name", "")
		}
		names[test.Name] = true
		test.check(k, at)
	}
}

func (r *Rule) check(k *checker, path string) {
	if k.anyBad(path, path+".allow", path+".deny") {
		return
	}
	switch {
	case r.Allow != nil && r.Deny != nil:
		k.fail(path, CodeConflict, "a rule is an allow or a deny, not both", "write two rules")
	case r.Allow != nil:
		r.Allow.check(k, path+".allow")
		if r.Allow.Except != nil {
			k.fail(path+".allow.except", CodeConflict, "an allow has no except", "write a deny rule for who is excepted")
		}
	case r.Deny != nil:
		r.Deny.check(k, path+".deny")
	default:
		k.fail(path, CodeMissing, "a rule is an allow or a deny, here is neither", "- allow: {from: [...]}")
	}
}

func (c *Clause) check(k *checker, path string) {
	unique(k, path+".from", c.From)
	if c.Except != nil {
		unique(k, path+".except.from", c.Except.From)
	}
	if c.HTTP != nil && c.TCP != nil {
		k.fail(path, CodeConflict, "nothing is an HTTP request and a TCP connection at once", "write two rules")
	}
	if c.HTTP == nil {
		return
	}
	k.methods(path+".http.methods", c.HTTP.Methods)
	k.headers(path+".http.headers", c.HTTP.Headers)
	unique(k, path+".http.paths", c.HTTP.Paths)
	unique(k, path+".http.hosts", c.HTTP.Hosts)
}

func (t *PolicyTest) check(k *checker, path string) {
	if _, exact := t.From.ID().Exact(); !exact && !t.From.Anonymous() && t.From.String() != "" {
		k.fail(path+".from", CodeFormat, "a test has one caller, not a pattern", "write a SPIFFE ID, or anonymous")
	}
	if t.Request.TCP() && (t.Host != "" || t.Headers != nil) {
		k.fail(path+".request", CodeConflict, "a TCP connection has no host or headers", "")
	}
}

// checkProtocols finds rules for a kind of traffic that no listener of the service takes: they would never match.
func (p *Policy) checkProtocols(k *checker, path string, service serviceProtocols) {
	for i, rule := range p.Rules {
		for key, clause := range map[string]*Clause{".allow": rule.Allow, ".deny": rule.Deny} {
			at := index(path+".rules", i) + key
			switch {
			case clause == nil:
			case clause.HTTP != nil && !service.http:
				k.fail(at+".http", CodeProtocol, "no listener of the service takes HTTP, so the rule would never match", "leave http out, or give the listener protocol: http")
			case clause.TCP != nil && !service.tcp:
				k.fail(at+".tcp", CodeProtocol, "no listener of the service takes TCP connections, so the rule would never match", "leave tcp out, or give the listener protocol: tcp")
			}
		}
	}
}
