package policy

import (
	"fmt"
	"strings"

	"github.com/postern-proxy/postern/authz"
)

// Explanation is a decision with what each rule of the service said.
type Explanation struct {
	Decision authz.Decision
	Rules    []RuleVerdict
	// Advice says what would have to change for a denied request to be allowed; empty for an allowed one.
	Advice string
}

// RuleVerdict is what one rule said of a request.
type RuleVerdict struct {
	Policy  string
	Rule    string
	Shadow  bool
	Effect  authz.Effect
	Matched bool
	// Why names the conditions that failed, or says that all hold.
	Why string

	failed int
}

// Explain judges the request rule by rule. Its decision is the one that Decide makes, with an id of its own.
func (t *Table) Explain(req *authz.Request) Explanation {
	x := Explanation{Decision: t.Decide(req)}
	if t == nil || t.services[req.Service] == nil {
		x.Advice = fmt.Sprintf("no policy names service %q: declare one with an allow rule", req.Service)
		return x
	}
	for _, r := range t.services[req.Service].rules {
		x.Rules = append(x.Rules, r.explain(req))
	}
	if x.Decision.Effect == authz.Deny {
		x.Advice = advice(x.Decision, x.Rules)
	}
	return x
}

func (r *rule) explain(req *authz.Request) RuleVerdict {
	v := RuleVerdict{Policy: r.policy, Rule: r.name, Shadow: r.shadow, Effect: r.effect}
	var failed []string
	for _, c := range r.conditions(req) {
		if !c.holds {
			failed = append(failed, c.failure)
		}
	}
	v.failed = len(failed)
	v.Matched = len(failed) == 0
	v.Why = strings.Join(failed, "; ")
	if v.Matched {
		v.Why = "every condition holds"
	}
	return v
}

// condition is one condition of a rule with its outcome.
type condition struct {
	holds   bool
	failure string
}

func (r *rule) conditions(req *authz.Request) []condition {
	if !r.matchProtocol(req) {
		return []condition{{false, "it is for another protocol"}}
	}
	list := []condition{
		{r.matchSniffed(req), "that the connection is TCP was guessed, and the rule has no tcp clause"},
		{r.matchFrom(req), fmt.Sprintf("caller %s is not %s", req.Principal, fromText(r))},
		{!r.expired(req.Time), "the policy expired at " + r.expires.Format("2006-01-02T15:04:05Z07:00")},
		{!r.matchExcept(req), fmt.Sprintf("caller %s is excepted", req.Principal)},
	}
	if req.Protocol == authz.TCP {
		return list
	}
	list = append(list,
		condition{r.matchMethod(req), fmt.Sprintf("method %s is not %s", req.Method, oneOf(r.methods))},
		condition{r.matchPath(req), fmt.Sprintf("path %q fits none of %s", req.Path, texts(r.paths))},
		condition{r.matchHost(req), fmt.Sprintf("host %q fits none of %s", req.Host, texts(r.hosts))})
	for _, h := range r.headers {
		list = append(list, condition{h.match(req, r.effect), fmt.Sprintf("header %s is not %q", h.name, h.value)})
	}
	return list
}

// advice names the deny rule in the way, or the allow rule that came nearest and what it lacks.
func advice(d authz.Decision, rules []RuleVerdict) string {
	if d.Rule != "" {
		return fmt.Sprintf("rule %s of policy %s denies it, whatever allows it", d.Rule, d.Policy)
	}
	var nearest *RuleVerdict
	for i := range rules {
		v := &rules[i]
		if v.Shadow || v.Effect != authz.Allow || nearest != nil && v.failed >= nearest.failed {
			continue
		}
		nearest = v
	}
	if nearest == nil {
		return "no policy of the service in force has an allow rule"
	}
	return fmt.Sprintf("the nearest is rule %s of policy %s, but %s", nearest.Rule, nearest.Policy, nearest.Why)
}

func fromText(r *rule) string {
	if r.from == nil {
		return "authenticated"
	}
	return texts(r.from)
}

func oneOf(list []string) string { return strings.Join(list, ", ") }

func texts[T fmt.Stringer](list []T) string {
	out := make([]string, 0, len(list))
	for _, item := range list {
		out = append(out, item.String())
	}
	return strings.Join(out, ", ")
}
