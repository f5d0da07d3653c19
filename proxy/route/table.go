package route

import (
	"cmp"
	"slices"
	"strings"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Table leads requests to routes. It is immutable; the zero value matches nothing.
type Table struct {
	exact     map[string]*paths
	wildcards map[string]*paths // by suffix with the leading dot
	any       *paths
}

// paths are the routes of one host pattern.
type paths struct {
	exact  map[string][]rule
	prefix map[string][]rule // without final slash; "" is every path
	// longest is the length of the longest key of prefix: what is deeper need not be looked up, so that a path costs no more than
	// the routes, however many slashes it has.
	longest int
	any     []rule
}

// rule is what is left to compare once host and path fit.
type rule struct {
	route   int
	methods []string
	headers []header
}

type header struct{ name, value string }

// Compile makes the table of a listener's routes.
func Compile(routes []config.Route) *Table {
	t := &Table{exact: map[string]*paths{}, wildcards: map[string]*paths{}, any: newPaths()}
	for i := range routes {
		t.add(i, &routes[i].Match)
	}
	for _, p := range t.exact {
		p.sort()
	}
	for _, p := range t.wildcards {
		p.sort()
	}
	t.any.sort()
	return t
}

func (t *Table) add(route int, m *config.Match) {
	r := newRule(route, m)
	if len(m.Hosts) == 0 {
		t.any.add(m, r)
		return
	}
	for _, host := range m.Hosts {
		if suffix, wildcard := host.Wildcard(); wildcard {
			bucket(t.wildcards, suffix).add(m, r)
			continue
		}
		bucket(t.exact, host.String()).add(m, r)
	}
}

// Match returns the place of the route in the list that was compiled; false when there is none. Host and path are canonical.
func (t *Table) Match(host, path, method string, fields *l7.Header) (int, bool) {
	if p := t.exact[host]; p != nil {
		if route, ok := p.match(path, method, fields); ok {
			return route, true
		}
	}
	// a.b.example.org: .b.example.org, then .example.org, then .org. A pattern needs a label in front of the star's dot.
	for at := strings.IndexByte(host, '.'); len(t.wildcards) > 0 && at > 0; {
		if p := t.wildcards[host[at:]]; p != nil {
			if route, ok := p.match(path, method, fields); ok {
				return route, true
			}
		}
		next := strings.IndexByte(host[at+1:], '.')
		if next < 0 {
			break
		}
		at += 1 + next
	}
	if t.any == nil {
		return 0, false
	}
	return t.any.match(path, method, fields)
}

func bucket(m map[string]*paths, key string) *paths {
	if m[key] == nil {
		m[key] = newPaths()
	}
	return m[key]
}

func newPaths() *paths { return &paths{exact: map[string][]rule{}, prefix: map[string][]rule{}} }

func (p *paths) add(m *config.Match, r rule) {
	switch {
	case m.Path != "":
		p.exact[m.Path] = append(p.exact[m.Path], r)
	case m.PathPrefix != "":
		key := strings.TrimSuffix(m.PathPrefix, "/")
		p.prefix[key] = append(p.prefix[key], r)
		p.longest = max(p.longest, len(key))
	default:
		p.any = append(p.any, r)
	}
}

func (p *paths) match(path, method string, fields *l7.Header) (int, bool) {
	if route, ok := first(p.exact[path], method, fields); ok {
		return route, true
	}
	if len(p.prefix) > 0 && strings.HasPrefix(path, "/") {
		for key := p.deepest(path); ; key = key[:strings.LastIndexByte(key, '/')] {
			if route, ok := first(p.prefix[key], method, fields); ok {
				return route, true
			}
			if key == "" {
				break
			}
		}
	}
	return first(p.any, method, fields)
}

// deepest is the longest prefix of the path, whole segments and no final slash, that can be a key of prefix.
func (p *paths) deepest(path string) string {
	if len(path) > p.longest {
		end := strings.LastIndexByte(path[:p.longest+1], '/')
		return path[:end]
	}
	return strings.TrimSuffix(path, "/")
}

func (p *paths) sort() {
	for _, rules := range p.exact {
		sortRules(rules)
	}
	for _, rules := range p.prefix {
		sortRules(rules)
	}
	sortRules(p.any)
}

func sortRules(rules []rule) {
	slices.SortStableFunc(rules, func(a, b rule) int {
		if (len(a.methods) > 0) != (len(b.methods) > 0) {
			return cmp.Compare(len(b.methods), len(a.methods))
		}
		return cmp.Compare(len(b.headers), len(a.headers))
	})
}

func newRule(route int, m *config.Match) rule {
	r := rule{route: route, methods: m.Methods}
	for name, value := range m.Headers {
		r.headers = append(r.headers, header{strings.ToLower(name), value})
	}
	return r
}

func first(rules []rule, method string, fields *l7.Header) (int, bool) {
	for i := range rules {
		if rules[i].fits(method, fields) {
			return rules[i].route, true
		}
	}
	return 0, false
}

func (r *rule) fits(method string, fields *l7.Header) bool {
	if len(r.methods) > 0 && !slices.Contains(r.methods, method) {
		return false
	}
	for _, want := range r.headers {
		if !has(fields, want) {
			return false
		}
	}
	return true
}

// has reports that one of the fields of that name has the value.
func has(fields *l7.Header, want header) bool {
	for i := range fields.Len() {
		if name, value := fields.At(i); name == want.name && value == want.value {
			return true
		}
	}
	return false
}
