package policy

import (
	"iter"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
)

// TestFailure is a test of a policy that got another answer than it expects.
type TestFailure struct {
	Test int // its place in the policy
	Name string
	Want authz.Effect
	Explanation
}

// RunTests puts each test of a policy to that policy alone, as if it were enforced, at the time now.
func RunTests(p config.Policy, now time.Time) []TestFailure {
	p.Mode = config.PolicyEnforce
	table := Compile([]config.Policy{p}, 0, authz.NewIDs())
	var failures []TestFailure
	for i := range p.Tests {
		test := &p.Tests[i]
		want := authz.Deny
		if test.Expect == config.ExpectAllow {
			want = authz.Allow
		}
		if x := table.Explain(testRequest(p.Service, test, now)); x.Decision.Effect != want {
			failures = append(failures, TestFailure{Test: i, Name: test.Name, Want: want, Explanation: x})
		}
	}
	return failures
}

func testRequest(service string, test *config.PolicyTest, now time.Time) *authz.Request {
	req := &authz.Request{Service: service, Time: now}
	if id, ok := test.From.ID().Exact(); ok {
		req.Principal.ID = id
	}
	if test.Request.TCP() {
		return req
	}
	req.Protocol, req.Method, req.Path, req.Host = authz.HTTP, test.Request.Method(), test.Request.Path(), test.Host
	req.Header = func(name string) iter.Seq[string] {
		return func(yield func(string) bool) {
			if value, ok := test.Headers[name]; ok {
				yield(value)
			}
		}
	}
	return req
}
