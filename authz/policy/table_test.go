package policy_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
)

const (
	web = "spiffe://example.org/web"
	ops = "spiffe://example.org/ns/ops/sa/admin"
)

func compile(t testing.TB, declarations ...string) *policy.Table {
	t.Helper()
	policies := make([]config.Policy, 0, len(declarations))
	for _, text := range declarations {
		p, err := config.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	return policy.Compile(policies, 7, authz.NewIDs())
}

// ask describes a request: from, then method and path.
func ask(from, method, path string) *authz.Request {
	req := &authz.Request{Service: "orders", Protocol: authz.HTTP, Method: method, Path: path, Host: "orders.example.org", Time: time.Unix(1_800_000_000, 0)}
	if from != "" {
		req.Principal.ID = spiffeid.RequireFromString(from)
	}
	return req
}

func header(pairs ...string) func(string) iter.Seq[string] {
	return func(name string) iter.Seq[string] {
		return func(yield func(string) bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name && !yield(pairs[i+1]) {
					return
				}
			}
		}
	}
}

const ordersRead = `{"name":"orders-read","service":"orders","rules":[
	{"allow":{"from":["spiffe://example.org/web"],"http":{"methods":["GET"],"paths":["/v1/orders/{id}"]}}},
	{"allow":{"from":["spiffe://example.org/ns/ops/**"]}},
	{"deny":{"http":{"paths":["/admin","/admin/{rest...}"]},"except":{"from":["spiffe://example.org/ns/ops/sa/admin"]}}}]}`

func TestDecideFollowsTheRules(t *testing.T) {
	table := compile(t, ordersRead)
	for _, row := range []struct {
		name, from, method, path string
		want                     authz.Effect
		rule                     string
		reason                   observe.Reason
	}{
		{"an allow rule matches", web, "GET", "/v1/orders/7", authz.Allow, "allow[0]", ""},
		{"another method is denied by default", web, "POST", "/v1/orders/7", authz.Deny, "", observe.Denied},
		{"a longer path is denied by default", web, "GET", "/v1/orders/7/items", authz.Deny, "", observe.Denied},
		{"an empty parameter does not match", web, "GET", "/v1/orders/", authz.Deny, "", observe.Denied},
		{"a caller without identity is denied", "", "GET", "/v1/orders/7", authz.Deny, "", observe.Denied},
		{"another trust domain is denied", "spiffe://other.org/web", "GET", "/v1/orders/7", authz.Deny, "", observe.Denied},
		{"a pattern allows", "spiffe://example.org/ns/ops/sa/x", "DELETE", "/anything", authz.Allow, "allow[1]", ""},
		{"deny wins over allow", "spiffe://example.org/ns/ops/sa/x", "GET", "/admin/users", authz.Deny, "deny[2]", observe.Denied},
		{"deny matches its exact path too", "spiffe://example.org/ns/ops/sa/x", "GET", "/admin", authz.Deny, "deny[2]", observe.Denied},
		{"deny matches the empty rest", "spiffe://example.org/ns/ops/sa/x", "GET", "/admin/", authz.Deny, "deny[2]", observe.Denied},
		{"who is excepted from the deny is allowed", ops, "GET", "/admin/users", authz.Allow, "allow[1]", ""},
		{"deny concerns callers without identity", "", "GET", "/admin/users", authz.Deny, "deny[2]", observe.Denied},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := table.Decide(ask(row.from, row.method, row.path))
			if d.Effect != row.want || d.Rule != row.rule || d.Reason != row.reason {
				t.Errorf("have %s by %q (%s), want %s by %q (%s)", d.Effect, d.Rule, d.Reason, row.want, row.rule, row.reason)
			}
			if _, ok := d.Permit(); ok != (row.want == authz.Allow) {
				t.Errorf("permit: %v", ok)
			}
			if d.ID == 0 || d.Generation != 7 {
				t.Errorf("id %s, generation %d", d.ID, d.Generation)
			}
		})
	}
}

func TestAServiceWithoutPolicyIsDeniedAsSuch(t *testing.T) {
	var none *policy.Table
	for name, table := range map[string]*policy.Table{"no table": none, "no policy": compile(t), "only shadow": compile(t,
		`{"name":"s","service":"orders","mode":"shadow","rules":[{"allow":{}}]}`)} {
		d := table.Decide(ask(web, "GET", "/"))
		if _, ok := d.Permit(); ok || d.Reason != observe.NoPolicy {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestAllowWithoutFromMeansEveryAuthenticatedCaller(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","rules":[{"allow":{}}]}`)
	if d := table.Decide(ask(web, "GET", "/")); d.Effect != authz.Allow {
		t.Error("an authenticated caller was denied")
	}
	if d := table.Decide(ask("", "GET", "/")); d.Effect != authz.Deny {
		t.Error("an anonymous caller was allowed")
	}
	open := compile(t, `{"name":"p","service":"orders","rules":[{"allow":{"from":["anonymous"]}}]}`)
	if d := open.Decide(ask("", "GET", "/")); d.Effect != authz.Allow {
		t.Error("an anonymous caller was denied though anonymous is written out")
	}
	if d := open.Decide(ask(web, "GET", "/")); d.Effect != authz.Deny {
		t.Error("anonymous let an authenticated caller in")
	}
}

// A second value of a header can neither hide the first from a deny rule nor ride along with it through an allow rule (the class
// of CVE-2026-26308).
func TestHeaderConditionsLookAtEveryValue(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","rules":[
		{"allow":{"http":{"headers":{"x-team":"blue"}}}}, {"deny":{"http":{"headers":{"x-role":"guest"}}}}]}`)
	for _, row := range []struct {
		name   string
		header []string
		want   authz.Effect
	}{
		{"the one value allows", []string{"x-team", "blue"}, authz.Allow},
		{"absent is not allowed", nil, authz.Deny},
		{"empty is not allowed", []string{"x-team", ""}, authz.Deny},
		{"a second other value is not allowed", []string{"x-team", "blue", "x-team", "red"}, authz.Deny},
		{"the second value is denied", []string{"x-team", "blue", "x-role", "admin", "x-role", "guest"}, authz.Deny},
		{"space around the value changes nothing", []string{"x-team", "blue", "x-role", " guest\t"}, authz.Deny},
	} {
		req := ask(web, "GET", "/")
		req.Header = header(row.header...)
		if d := table.Decide(req); d.Effect != row.want {
			t.Errorf("%s: %s", row.name, d.Effect)
		}
	}
}

// RFC 9110, Section 5.3: fields of one name and one field with their values in a list say the same. A list can neither hide a value
// from a deny rule nor carry one through an allow rule.
func TestDenyLooksIntoListsAndAllowDoesNot(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","rules":[
		{"allow":{"http":{"headers":{"x-team":"blue"}}}}, {"deny":{"http":{"headers":{"x-role":"guest"}}}},
		{"deny":{"http":{"headers":{"x-pair":"a, b"}}}}, {"deny":{"http":{"headers":{"x-none":""}}}}]}`)
	for _, row := range []struct {
		header []string
		want   authz.Effect
	}{
		{[]string{"x-role", "staff, guest"}, authz.Deny},
		{[]string{"x-role", "guest,staff"}, authz.Deny},
		{[]string{"x-role", ",,guest,"}, authz.Deny},
		{[]string{"x-role", "a", "x-role", "b ,\tguest"}, authz.Deny},
		{[]string{"x-role", "guests, a guest,"}, authz.Allow},
		{[]string{"x-role", "Guest,"}, authz.Allow},
		{[]string{"x-pair", "a, b"}, authz.Deny},
		{[]string{"x-pair", "a", "x-pair", "b"}, authz.Allow},
		{[]string{"x-none", ""}, authz.Deny},
		{[]string{"x-none", "a,,b"}, authz.Allow},
		{[]string{"x-team", "blue, red"}, authz.Deny},
		{[]string{"x-team", "blue,"}, authz.Deny},
		{[]string{"x-team", ",blue"}, authz.Deny},
	} {
		req := ask(web, "GET", "/")
		pairs := row.header
		if pairs[0] != "x-team" {
			pairs = append([]string{"x-team", "blue"}, pairs...)
		}
		req.Header = header(pairs...)
		if d := table.Decide(req); d.Effect != row.want {
			t.Errorf("%q: %s", row.header, d.Effect)
		}
		if x := table.Explain(req); byWalk(x.Rules) != row.want {
			t.Errorf("%q: explained as %+v", row.header, x.Rules)
		}
	}
}

func TestTheTableTellsWhichFieldsItsRulesAskFor(t *testing.T) {
	var none *policy.Table
	table := compile(t, `{"name":"p","service":"orders","rules":[{"allow":{"http":{"headers":{"X-Team":"blue"}}}}]}`,
		`{"name":"q","service":"other","mode":"shadow","rules":[{"deny":{"http":{"paths":["/a"],"headers":{"x-role":"guest"}}}}]}`)
	if none.Asks("x-team") || !table.Asks("x-team") || !table.Asks("x-role") || table.Asks("x-other") {
		t.Error("not the names of the rules' conditions")
	}
}

func TestHTTPRulesNeverMatchConnectionsAndTCPRulesNeverRequests(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","rules":[
		{"allow":{"from":["spiffe://example.org/web"],"http":{}}}, {"allow":{"from":["spiffe://example.org/db"],"tcp":{}}}, {"allow":{"from":["spiffe://example.org/both"]}}]}`)
	for _, row := range []struct {
		from     string
		protocol authz.Protocol
		want     authz.Effect
	}{
		{"web", authz.HTTP, authz.Allow}, {"web", authz.TCP, authz.Deny}, {"db", authz.TCP, authz.Allow},
		{"db", authz.HTTP, authz.Deny}, {"both", authz.TCP, authz.Allow}, {"both", authz.HTTP, authz.Allow},
	} {
		req := ask("spiffe://example.org/"+row.from, "GET", "/")
		req.Protocol = row.protocol
		if d := table.Decide(req); d.Effect != row.want {
			t.Errorf("%s over %d: %s", row.from, row.protocol, d.Effect)
		}
	}
}

// The client of a listener that guesses the protocol chooses what is guessed: rules written for HTTP must not become rules for TCP.
func TestGuessedTCPNeedsARuleThatNamesIt(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","rules":[
		{"allow":{"from":["spiffe://example.org/both"]}}, {"deny":{"from":["spiffe://example.org/evil"]}},
		{"allow":{"from":["spiffe://example.org/db","spiffe://example.org/evil"],"tcp":{}}}]}`)
	for _, row := range []struct {
		from    string
		sniffed bool
		want    authz.Effect
	}{
		{"both", false, authz.Allow}, {"both", true, authz.Deny}, {"db", true, authz.Allow}, {"evil", true, authz.Deny},
	} {
		req := ask("spiffe://example.org/"+row.from, "", "")
		req.Protocol, req.Sniffed = authz.TCP, row.sniffed
		d := table.Decide(req)
		if d.Effect != row.want {
			t.Errorf("%s, sniffed %v: %s", row.from, row.sniffed, d.Effect)
		}
		if x := table.Explain(req); x.Decision.Effect != d.Effect || x.Rules[0].Matched != (row.from == "both" && !row.sniffed) {
			t.Errorf("%s, sniffed %v: explained as %+v", row.from, row.sniffed, x)
		}
	}
}

func TestAnExpiredPolicyNoLongerAllowsAndStillDenies(t *testing.T) {
	table := compile(t, `{"name":"p","service":"orders","expires":"2027-01-15T08:00:00Z","rules":[{"allow":{}},{"deny":{"http":{"paths":["/secret"]}}}]}`,
		`{"name":"q","service":"orders","rules":[{"allow":{"from":["spiffe://example.org/web"],"http":{"methods":["PUT"]}}}]}`)
	expires := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)
	req := ask(web, "GET", "/")
	req.Time = expires.Add(-time.Nanosecond)
	if d := table.Decide(req); d.Effect != authz.Allow {
		t.Error("denied before the expiry")
	}
	req.Time = expires
	if d := table.Decide(req); d.Effect != authz.Deny {
		t.Error("allowed at the expiry")
	}
	req = ask(web, "PUT", "/secret")
	req.Time = expires.Add(time.Hour)
	if d := table.Decide(req); d.Rule != "deny[1]" {
		t.Errorf("the deny rule ended with the policy: %+v", d)
	}
}

func TestShadowPoliciesDecideNothingAndReportWhatTheyWouldChange(t *testing.T) {
	enforced := `{"name":"enforced","service":"orders","rules":[{"allow":{"http":{"methods":["GET"]}}}]}`
	shadow := `{"name":"shadow","service":"orders","mode":"shadow","rules":[{"deny":{"http":{"paths":["/old"]}}},{"allow":{"http":{"methods":["PUT"]}}}]}`
	table := compile(t, enforced, shadow)
	for _, row := range []struct {
		method, path string
		want         authz.Effect
		would        []authz.Shadow
	}{
		{"GET", "/new", authz.Allow, nil},
		{"GET", "/old", authz.Allow, []authz.Shadow{{Policy: "shadow", Rule: "deny[0]", Would: authz.Deny}}},
		{"PUT", "/new", authz.Deny, []authz.Shadow{{Policy: "shadow", Rule: "allow[1]", Would: authz.Allow}}},
		{"PUT", "/old", authz.Deny, nil},
		{"POST", "/old", authz.Deny, nil},
	} {
		d := table.Decide(ask(web, row.method, row.path))
		if d.Effect != row.want || !slices.Equal(d.Shadow, row.would) {
			t.Errorf("%s %s: %s, shadow %v", row.method, row.path, d.Effect, d.Shadow)
		}
	}
}

func TestExplainNamesWhatFailedAndTheNearestAllow(t *testing.T) {
	x := compile(t, ordersRead).Explain(ask(web, "POST", "/v1/orders/7"))
	if x.Decision.Effect != authz.Deny || len(x.Rules) != 3 {
		t.Fatalf("%+v", x)
	}
	if want := "the nearest is rule allow[0] of policy orders-read, but method POST is not GET"; x.Advice != want {
		t.Errorf("advice %q, want %q", x.Advice, want)
	}
	if x := compile(t, ordersRead).Explain(ask(web, "GET", "/v1/orders/7")); !x.Rules[0].Matched || x.Advice != "" {
		t.Errorf("%+v", x)
	}
}

// The index and the walk rule by rule are two implementations of one meaning.
func TestTheIndexAnswersAsAWalkThroughTheRulesDoes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable, not secret
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	froms := []string{"", `"from":["spiffe://example.org/a"],`, `"from":["spiffe://example.org/*"],`, `"from":["spiffe://example.org/**"],`,
		`"from":["anonymous"],`, `"from":["spiffe://example.org/a","spiffe://example.org/b/**"],`}
	paths := []string{`"/"`, `"/a"`, `"/a/"`, `"/a/{x}"`, `"/{x}"`, `"/{x}/b"`, `"/a/{r...}"`, `"/{r...}"`, `"/a/b"`}
	for range 300 {
		var declarations []string
		for p := range 1 + random.IntN(3) {
			rules := ""
			for range 1 + random.IntN(5) {
				if rules != "" {
					rules += ","
				}
				first := random.IntN(len(paths))
				second := (first + 1 + random.IntN(len(paths)-1)) % len(paths)
				rules += fmt.Sprintf(`{%q:{%s"http":{"paths":[%s,%s]%s}}}`, pick("allow", "allow", "deny"), pick(froms...), paths[first], paths[second],
					pick("", `,"methods":["GET"]`))
			}
			declarations = append(declarations, fmt.Sprintf(`{"name":"p%d","service":"orders","mode":%q,"rules":[%s]}`, p, pick("enforce", "enforce", "shadow"), rules))
		}
		table := compile(t, declarations...)
		for range 40 {
			req := ask(pick("", "spiffe://example.org/a", "spiffe://example.org/b", "spiffe://example.org/b/c", "spiffe://other.org/a"),
				pick("GET", "PUT"), pick("/", "/a", "/a/", "/a/b", "/b", "/b/b", "/a/b/c", "*"))
			x := table.Explain(req)
			if want := byWalk(x.Rules); want != x.Decision.Effect {
				t.Fatalf("%v\n%s %s %s: index says %s, rules say %s: %+v", declarations, req.Principal, req.Method, req.Path, x.Decision.Effect, want, x.Rules)
			}
		}
	}
}

func byWalk(rules []policy.RuleVerdict) authz.Effect {
	effect := authz.Deny
	for _, v := range rules {
		if !v.Matched || v.Shadow {
			continue
		}
		if v.Effect == authz.Deny {
			return authz.Deny
		}
		effect = authz.Allow
	}
	return effect
}

func BenchmarkDecide(b *testing.B) {
	for _, rules := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			table := compile(b, manyRules(b, rules)...)
			req := ask(fmt.Sprintf("spiffe://example.org/caller-%d", rules-1), "GET", fmt.Sprintf("/v1/r%d/7", rules-1))
			if d := table.Decide(req); d.Effect != authz.Allow {
				b.Fatalf("%+v", d)
			}
			b.ReportAllocs()
			for b.Loop() {
				table.Decide(req)
			}
		})
	}
}

func manyRules(b *testing.B, n int) []string {
	b.Helper()
	out := make([]string, 0, n)
	for i := range n {
		out = append(out, fmt.Sprintf(`{"name":"p%d","service":"orders","rules":[{"allow":{"from":["spiffe://example.org/caller-%d"],"http":{"methods":["GET"],"paths":["/v1/r%d/{id}"]}}}]}`, i, i, i))
	}
	return out
}

func TestTheTestsOfAPolicyAreRunAgainstItAlone(t *testing.T) {
	p, err := config.ParsePolicy([]byte(`{"name":"p","service":"orders","mode":"shadow","rules":[{"allow":{"from":["spiffe://example.org/web"],"http":{"methods":["GET"],"headers":{"x-team":"blue"}}}}],
		"tests":[{"name":"holds","from":"spiffe://example.org/web","request":"GET /a","headers":{"x-team":"blue"},"expect":"allow"},
		{"name":"does not hold","from":"spiffe://example.org/web","request":"GET /a","expect":"allow"},
		{"name":"anonymous","from":"anonymous","request":"GET /a","expect":"deny"},
		{"name":"another protocol","from":"spiffe://example.org/web","request":"tcp","expect":"deny"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	failures := policy.RunTests(p, time.Unix(0, 0))
	if len(failures) != 1 || failures[0].Test != 1 || failures[0].Name != "does not hold" || failures[0].Advice == "" {
		t.Errorf("%+v", failures)
	}
}

func TestTheNextExpiryIsOfTheFirstRuleThatStillAllows(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	expiring := func(name, mode, at string) string {
		return fmt.Sprintf(`{"name":%q,"service":%q,"mode":%q,"expires":%q,"rules":[{"allow":{}}]}`, name, name, mode, at)
	}
	table := compile(t, ordersRead, expiring("past", "enforce", "2026-01-02T03:00:00Z"), expiring("late", "enforce", "2026-01-02T05:00:00Z"),
		expiring("soon", "enforce", "2026-01-02T04:00:00Z"), expiring("shadow", "shadow", "2026-01-02T03:30:00Z"))
	if at, ok := table.NextExpiry(now); !ok || !at.Equal(now.Add(time.Hour)) {
		t.Errorf("have %s, %v", at, ok)
	}
	if at, ok := table.NextExpiry(now.Add(2 * time.Hour)); ok {
		t.Errorf("have %s after the last", at)
	}
	var none *policy.Table
	if _, ok := none.NextExpiry(now); ok {
		t.Error("no table has an expiry")
	}
}
