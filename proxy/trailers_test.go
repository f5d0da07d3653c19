package proxy

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// RFC 9110, Section 6.5.1: a trailer field must not be taken for a header field where that could go round what was decided by the
// header.
func TestTrailerFieldsThatPoliciesOrRoutesLookAtAreDropped(t *testing.T) {
	w := newWorld(t)
	app := w.app(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, strings.Join(slices.Sorted(maps.Keys(r.Trailer)), " "))
	})
	config := func(rules string) string {
		return `
listeners:
- name: inbound
  address: 127.0.0.1:0
  tls: {mode: none}
  service: orders
  routes:
  - {match: {path_prefix: /canary, headers: {X-Canary: "yes"}}, cluster: app}
  - {match: {path_prefix: /}, cluster: app}
clusters: [{name: app, endpoints: ["` + app + `"]}]
policies: [{name: p, service: orders, rules: [{allow: {from: [anonymous]}}` + rules + `]}]
`
	}
	send := func(fields ...string) string {
		t.Helper()
		c := w.dialPlain("inbound")
		trailer := strings.Join(fields, ": v\r\n") + ": v\r\n"
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"+trailer+"\r\n"); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		_, seen, _ := strings.Cut(string(text), "\r\n\r\n")
		return seen
	}
	w.apply("%s", config(`, {deny: {http: {headers: {X-Role: guest}}}}`))
	for _, row := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"of a rule", []string{"X-ROLE", "X-Checksum"}, "X-Checksum"},
		{"of a rule, twice", []string{"x-role", "X-Checksum", "x-role"}, "X-Checksum"},
		{"of a route that was not taken", []string{"x-canary", "X-Checksum"}, "X-Checksum"},
		{"all of them", []string{"x-role", "x-canary"}, ""},
		{"none of them", []string{"X-Checksum", "X-Tier"}, "X-Checksum X-Tier"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if seen := send(row.fields...); seen != row.want {
				t.Errorf("the service saw %q, want %q", seen, row.want)
			}
		})
	}
	w.policies(config(`, {deny: {http: {headers: {x-tier: free}}}}`))
	if seen := send("X-Role", "X-Tier"); seen != "X-Role" {
		t.Errorf("under the next policies the service saw %q", seen)
	}
}
