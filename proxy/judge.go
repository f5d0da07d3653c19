package proxy

import (
	"iter"
	"slices"
	"strings"

	"github.com/postern-proxy/postern/authz"
)

// askedFields notes which header fields a decision looked at, and their values, so that only those are kept.
type askedFields struct {
	from  func(name string) iter.Seq[string]
	names []string
}

func (a *askedFields) header(name string) iter.Seq[string] {
	if !slices.Contains(a.names, name) {
		a.names = append(a.names, name)
	}
	return a.from(name)
}

// kept returns a header with copies of the fields that were asked for; credentials are left out. Nil when none were.
func (a *askedFields) kept() func(name string) iter.Seq[string] {
	if a == nil || len(a.names) == 0 {
		return nil
	}
	values := map[string][]string{}
	for _, name := range a.names {
		if isCredential(name) {
			continue
		}
		for value := range a.from(name) {
			values[name] = append(values[name], strings.Clone(value))
		}
	}
	return func(name string) iter.Seq[string] { return slices.Values(values[name]) }
}

// isCredential names fields whose values are secrets.
func isCredential(name string) bool {
	switch name {
	case "authorization", "cookie", "proxy-authorization", "x-api-key":
		return true
	default:
		return false
	}
}

// judgement is what is decided for one request or byte stream.
type judgement struct {
	request  authz.Request
	asked    *askedFields
	decision authz.Decision
}

// judge asks the policies of the generation. A local caller of a listener without service is judged by the routes alone, which are
// what it may reach: its identity is this proxy's own, which must exist.
func (s *Server) judge(now *active, caller callerKind, request authz.Request, fields func(string) iter.Seq[string]) judgement {
	j := judgement{request: request}
	j.request.Time = s.options.Now()
	if fields != nil {
		j.asked = &askedFields{from: fields}
		j.request.Header = j.asked.header
	}
	if caller == ownRoutes && !request.Principal.Anonymous() {
		j.decision = authz.Decided(authz.Decision{ID: s.options.IDs.Next(), Effect: authz.Allow, Rule: ruleRoutes,
			Generation: now.snapshot.generation})
		return j
	}
	j.decision = now.policies.Decide(&j.request)
	return j
}

// record keeps the judgement for explanation and counts it.
func (s *Server) record(j *judgement, listener, route string) {
	d := &j.decision
	request, clipped := recordedRequest(&j.request, j.asked)
	s.decisions.add(DecisionRecord{Decision: *d, Request: request, Clipped: clipped, Listener: listener, Route: route})
	m := s.options.Metrics
	m.Decisions.WithLabelValues(j.request.Service, d.Effect.String(), d.Policy).Inc()
	for _, shadow := range d.Shadow {
		m.ShadowDecisions.WithLabelValues(j.request.Service, shadow.Policy, shadow.Would.String()).Inc()
	}
}

// callerKind says whether policies or routes decide.
type callerKind uint8

const (
	byPolicy callerKind = iota
	ownRoutes
)

// ruleRoutes names what allowed a local caller of a listener without service.
const ruleRoutes = "routes"
