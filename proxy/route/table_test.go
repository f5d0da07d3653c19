package route

import (
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7"
)

func hosts(t testing.TB, patterns ...string) []config.HostPattern {
	t.Helper()
	var out []config.HostPattern
	for _, s := range patterns {
		p, err := config.ParseHostPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func routes(t testing.TB) []config.Route {
	match := func(name string, m config.Match) config.Route { return config.Route{Name: name, Match: m} }
	return []config.Route{
		match("any", config.Match{}),
		match("prefix", config.Match{PathPrefix: "/v1"}),
		match("longer prefix", config.Match{PathPrefix: "/v1/orders/"}),
		match("exact path", config.Match{Path: "/v1/orders"}),
		match("exact path, POST", config.Match{Path: "/v1/orders", Methods: []string{"POST", "PUT"}}),
		match("wildcard host", config.Match{Hosts: hosts(t, "*.example.org")}),
		match("longer wildcard", config.Match{Hosts: hosts(t, "*.eu.example.org"), PathPrefix: "/eu"}),
		match("exact host", config.Match{Hosts: hosts(t, "a.example.org", "b.example.org"), PathPrefix: "/only"}),
		match("header", config.Match{PathPrefix: "/v1", Headers: map[string]string{"X-Canary": "1"}}),
		match("two headers", config.Match{PathPrefix: "/v1", Headers: map[string]string{"x-canary": "1", "x-team": "a"}}),
		match("later equal", config.Match{PathPrefix: "/v1"}),
		match("root prefix of a host", config.Match{Hosts: hosts(t, "root.test"), PathPrefix: "/"}),
	}
}

func TestMostSpecificRouteWins(t *testing.T) {
	list := routes(t)
	table := Compile(list)
	canary := &l7.Header{}
	canary.Add("x-canary", "0")
	canary.Add("x-canary", "1")
	both := canary.Clone()
	both.Add("x-team", "a")
	for _, test := range []struct {
		name, host, path, method string
		fields                   *l7.Header
		want                     string
	}{
		{"nothing fits better than any", "other.test", "/", "GET", nil, "any"},
		{"prefix by itself", "other.test", "/v1", "GET", nil, "prefix"},
		{"prefix with a segment more", "other.test", "/v1/x", "GET", nil, "prefix"},
		{"prefix is by whole segments", "other.test", "/v1x", "GET", nil, "any"},
		{"exact path before prefix", "other.test", "/v1/orders", "GET", nil, "exact path"},
		{"method before none", "other.test", "/v1/orders", "PUT", nil, "exact path, POST"},
		{"longest prefix", "other.test", "/v1/orders/7", "POST", nil, "longer prefix"},
		{"prefix with final slash", "other.test", "/v1/orders/", "GET", nil, "longer prefix"},
		{"wildcard host before any host's path", "c.example.org", "/v1/orders", "GET", nil, "wildcard host"},
		{"wildcard needs a label", "example.org", "/", "GET", nil, "any"},
		{"wildcard takes several labels", "a.b.c.example.org", "/", "GET", nil, "wildcard host"},
		{"longer wildcard", "x.eu.example.org", "/eu/1", "GET", nil, "longer wildcard"},
		{"a longer wildcard whose path fails hides nothing", "x.eu.example.org", "/us", "GET", nil, "wildcard host"},
		{"exact host", "b.example.org", "/only/this", "GET", nil, "exact host"},
		{"an exact host whose path fails hides nothing", "a.example.org", "/v1", "GET", nil, "wildcard host"},
		{"one of several values of a header", "other.test", "/v1", "GET", canary, "header"},
		{"more headers before fewer", "other.test", "/v1", "GET", both, "two headers"},
		{"root prefix", "root.test", "/x/y", "GET", nil, "root prefix of a host"},
		{"the asterisk is no path", "root.test", "*", "OPTIONS", nil, "any"},
	} {
		t.Run(test.name, func(t *testing.T) {
			i, ok := table.Match(test.host, test.path, test.method, test.fields)
			if !ok || list[i].Name != test.want {
				t.Fatalf("Match(%q, %q) = %q, %v; want %q", test.host, test.path, list[i].Name, ok, test.want)
			}
		})
	}
}

func TestNoRouteIsNotGuessed(t *testing.T) {
	table := Compile([]config.Route{{Match: config.Match{Hosts: hosts(t, "a.test"), Path: "/x"}}})
	for _, at := range [][2]string{{"a.test", "/y"}, {"a.test", "/x/"}, {"b.test", "/x"}, {"", ""}, {"", "/x"}, {".", "."}, {"a.test.", "/x"}} {
		if i, ok := table.Match(at[0], at[1], "GET", nil); ok {
			t.Errorf("Match%q = %d", at, i)
		}
	}
	if _, ok := (&Table{}).Match("a.test", "/x", "GET", nil); ok {
		t.Error("the zero table matched")
	}
}

// The client chooses how deep its path is; what that costs is bounded by the routes.
func TestDeepPathsAreLookedUpNoDeeperThanTheRoutes(t *testing.T) {
	table := Compile(routes(t))
	if got, want := table.any.longest, len("/v1/orders"); got != want {
		t.Fatalf("longest %d, want %d", got, want)
	}
	for path, want := range map[string]string{
		"/v1/orders" + strings.Repeat("/x", 5000): "/v1/orders", "/v1/orders": "/v1/orders", "/v1/orders/": "/v1/orders", "/v1/ordersx": "/v1",
		"/v1/": "/v1", "/v1": "/v1", "/": "", "/aaaaaaaaaaaaaaaaaaaa": "",
	} {
		if got := table.any.deepest(path); got != want {
			t.Errorf("deepest of %.40q is %q, want %q", path, got, want)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	table := Compile(routes(t))
	fields := &l7.Header{}
	fields.Add("x-canary", "1")
	if n := testing.AllocsPerRun(100, func() {
		table.Match("x.eu.example.org", "/v1/orders/7/items", "GET", fields)
		table.Match("other.test", "/v1/orders", "POST", fields)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzMatch(f *testing.F) {
	table := Compile(routes(f))
	f.Add("a.example.org", "/v1/orders", "GET")
	f.Add("", "", "")
	f.Add("...", "//", "*")
	f.Fuzz(func(t *testing.T, host, path, method string) {
		if _, ok := table.Match(host, path, method, nil); !ok {
			t.Fatalf("Match(%q, %q): the route without conditions must fit", host, path)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	table := Compile(routes(b))
	for b.Loop() {
		table.Match("x.eu.example.org", "/v1/orders/7/items", "GET", nil)
	}
}
