package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestIDPatternMatchesWholeSegments(t *testing.T) {
	for _, row := range []struct {
		pattern, id string
		want        bool
	}{
		{"spiffe://example.org/web", "spiffe://example.org/web", true},
		{"spiffe://example.org/web", "spiffe://example.org/web/x", false},
		{"spiffe://example.org/web", "spiffe://example.org/we", false},
		{"spiffe://example.org/web", "spiffe://example.com/web", false},
		{"spiffe://example.org/Web", "spiffe://example.org/web", false},
		{"spiffe://example.org/ns/*/sa/a", "spiffe://example.org/ns/x/sa/a", true},
		{"spiffe://example.org/ns/*/sa/a", "spiffe://example.org/ns/x/y/sa/a", false},
		{"spiffe://example.org/ns/*", "spiffe://example.org/ns", false},
		{"spiffe://example.org/ns/*", "spiffe://example.org/ns/a/b", false},
		{"spiffe://example.org/ns/ops/**", "spiffe://example.org/ns/ops/a", true},
		{"spiffe://example.org/ns/ops/**", "spiffe://example.org/ns/ops/a/b/c", true},
		{"spiffe://example.org/ns/ops/**", "spiffe://example.org/ns/ops", false},
		{"spiffe://example.org/ns/ops/**", "spiffe://example.org/ns/opsx/a", false},
		{"spiffe://example.org/**", "spiffe://example.org/a", true},
		{"spiffe://example.org/**", "spiffe://example.org", false},
		{"spiffe://example.org/**", "spiffe://example.org.evil/a", false},
	} {
		pattern, err := ParseIDPattern(row.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := pattern.Match(spiffeid.RequireFromString(row.id)); got != row.want {
			t.Errorf("%s matches %s: %v", row.pattern, row.id, got)
		}
		if pattern.Match(spiffeid.ID{}) {
			t.Errorf("%s matches a caller without identity", row.pattern)
		}
		exact, isExact := pattern.Exact()
		if isExact == strings.Contains(row.pattern, "*") || isExact && exact.String() != row.pattern {
			t.Errorf("%s: exact is %v %v", row.pattern, exact, isExact)
		}
	}
	if (IDPattern{}).Match(spiffeid.RequireFromString("spiffe://a/b")) {
		t.Error("the zero pattern matches")
	}
}

func TestPrincipalPatternMatchesAnonymousOnlyWhenWrittenOut(t *testing.T) {
	web := spiffeid.RequireFromString("spiffe://example.org/web")
	for text, want := range map[string][2]bool{ // matches anonymous, matches web
		"anonymous":              {true, false},
		"spiffe://example.org/*": {false, true},
	} {
		p, err := ParsePrincipalPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{p.Match(spiffeid.ID{}), p.Match(web)}; got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
	if (PrincipalPattern{}).Match(spiffeid.ID{}) || (PrincipalPattern{}).Match(web) {
		t.Error("the zero pattern matches")
	}
}

func TestPathTemplateMatchesCanonicalPaths(t *testing.T) {
	for _, row := range []struct {
		template, path string
		want           bool
	}{
		{"/", "/", true},
		{"/", "", false},
		{"/", "/a", false},
		{"/a", "/a/", false},
		{"/a/", "/a/", true},
		{"/v1/orders/{id}", "/v1/orders/7", true},
		{"/v1/orders/{id}", "/v1/orders/", false},
		{"/v1/orders/{id}", "/v1/orders/7/x", false},
		{"/v1/orders/{id}", "/v1/orders", false},
		{"/v1/{kind}/x", "/v1/a/x", true},
		{"/admin/{rest...}", "/admin", false},
		{"/admin/{rest...}", "/admin/", true},
		{"/admin/{rest...}", "/admin/a/b/", true},
		{"/admin/{rest...}", "/administrator", false},
		{"/{rest...}", "/", true},
		{"/{rest...}", "/a/b", true},
		{"/caf%C3%A9", "/caf%C3%A9", true},
		{"/100%25", "/100%25", true},
		{"/a:b@c!$&'()+,=~", "/a:b@c!$&'()+,=~", true},
	} {
		template, err := ParsePathTemplate(row.template)
		if err != nil {
			t.Fatal(err)
		}
		if got := template.Match(row.path); got != row.want {
			t.Errorf("%s matches %s: %v", row.template, row.path, got)
		}
	}
	if (PathTemplate{}).Match("/") || (PathTemplate{}).Match("") {
		t.Error("the zero template matches")
	}
}

func TestHostPatternMatchesLabels(t *testing.T) {
	for _, row := range []struct {
		pattern, host string
		want          bool
	}{
		{"Example.ORG.", "example.org", true},
		{"example.org", "a.example.org", false},
		{"*.example.org", "a.example.org", true},
		{"*.example.org", "a.b.example.org", true},
		{"*.example.org", "example.org", false},
		{"*.example.org", ".example.org", false},
		{"*.example.org", "aexample.org", false},
		{"::1", "[::1]", true},
		{"[2001:DB8::0]", "[2001:db8::]", true},
		{"10.0.0.1", "10.0.0.1", true},
	} {
		pattern, err := ParseHostPattern(row.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := pattern.Match(row.host); got != row.want {
			t.Errorf("%s matches %s: %v", row.pattern, row.host, got)
		}
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	pattern, _ := ParseIDPattern("spiffe://example.org/ns/*/**")
	template, _ := ParsePathTemplate("/v1/{a}/{b...}")
	host, _ := ParseHostPattern("*.example.org")
	id := spiffeid.RequireFromString("spiffe://example.org/ns/a/b/c")
	allocated := testing.AllocsPerRun(100, func() {
		if !pattern.Match(id) || !template.Match("/v1/x/y/z") || !host.Match("a.example.org") {
			t.Fatal("no match")
		}
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}

func TestDurationsAndSizesAreWrittenAsTheyAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"7d": 7 * day, "2w": 14 * day, "10y": 10 * year, "1d12h": 36 * time.Hour, "1.5s": 1500 * time.Millisecond, "5us": 5 * time.Microsecond,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if again, err := parseDuration(formatDuration(got)); err != nil || again != want {
			t.Errorf("%s is written as %s: %v, %v", text, formatDuration(got), again, err)
		}
	}
	for _, text := range []string{"", "30", "s", "1 s", "-1s", "1.2.3s", ".s", "1e3s", "300y", "1s ", "99999999999999999999y", "1x", "+1s"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
	for text, want := range map[string]Size{"0": 0, "512": 512, "512B": 512, "64KiB": 64 * KiB, "10MiB": 10 * MiB, "1GiB": GiB, "1025B": 1025} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if again, err := ParseSize(got.String()); err != nil || again != want {
			t.Errorf("%s is written as %s: %v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "KiB", "64KB", "64k", "-1", "+1", "1.5MiB", "1 KiB", fmt.Sprint(uint64(math.MaxUint64)), "9223372036854775807KiB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
}

func TestAddressKnowsWhatStaysOnTheMachine(t *testing.T) {
	for text, want := range map[string]struct {
		text, network string
		local         bool
	}{
		"127.0.0.1:80":          {"127.0.0.1:80", "tcp", true},
		"127.9.9.9:80":          {"127.9.9.9:80", "tcp", true},
		"[::1]:80":              {"[::1]:80", "tcp", true},
		"[::ffff:127.0.0.1]:80": {"127.0.0.1:80", "tcp", true},
		"localhost:80":          {"127.0.0.1:80", "tcp", true},
		":80":                   {"[::]:80", "tcp", false},
		"0.0.0.0:80":            {"0.0.0.0:80", "tcp", false},
		"10.0.0.1:80":           {"10.0.0.1:80", "tcp", false},
		"Example.org.:80":       {"example.org:80", "tcp", false},
		"localhost.evil:80":     {"localhost.evil:80", "tcp", false},
		"unix:///run/a.sock":    {"unix:///run/a.sock", "unix", true},
	} {
		a, err := ParseAddress(text)
		if err != nil || a.String() != want.text || a.Network() != want.network || a.Local() != want.local {
			t.Errorf("%s: got %v %s local=%v, %v", text, a, a.Network(), a.Local(), err)
		}
	}
	for _, text := range []string{"", "a", "a:b", "a:-1", "a:65536", "unix://", "http://a:1", "a/b:1", "[::1]", "a b:1", "unix://" + strings.Repeat("a", 108)} {
		if a, err := ParseAddress(text); err == nil {
			t.Errorf("%q became %v", text, a)
		}
	}
}

func TestPolicySurvivesItsDeclaration(t *testing.T) {
	for _, file := range []string{"testdata/good/everything.yaml", "testdata/good/sketch.yaml"} {
		for _, p := range parsed(t, file).Policies {
			again, err := ParsePolicy(p.Declaration())
			if err != nil {
				t.Fatalf("%s: %v\n%s", p.Name, err, p.Declaration())
			}
			if string(again.Declaration()) != string(p.Declaration()) || !again.Expires.Equal(p.Expires) || len(again.Rules) != len(p.Rules) {
				t.Errorf("%s became\n%s", p.Declaration(), again.Declaration())
			}
			var decoded Policy
			if err := json.Unmarshal(p.Declaration(), &decoded); err != nil || decoded.Name != p.Name {
				t.Errorf("through encoding/json: %v, %q", err, decoded.Name)
			}
		}
	}
}

// An older proxy must not enforce, or ignore, what it does not understand (facts: an unknown field is a NACK, never ignored).
func TestPolicyWithAnUnknownKeyIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"name":"a","service":"b","rules":[{"allow":{"when":"true"}}]}`,
		`{"name":"a","service":"b","mode":"audit","rules":[{"allow":{}}]}`,
		`{"name":"a","service":"b","rules":[{"require":{}}]}`,
		`{"name":"a","rules":[{"allow":{}}]}`,
		`{"name":"a","service":"b","rules":[{"allow":{"from":[]}}]}`,
		`{"name":"a","service":"b","rules":[{"allow":{"from":null}}]}`,
		`{"name":"a b","service":"b","rules":[{"allow":{}}]}`,
		`[]`, ``, `{`,
	} {
		_, err := ParsePolicy([]byte(text))
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestDefaultIsAnAuthorityWithoutNetworkListener(t *testing.T) {
	c, err := Default("/var/lib/postern", "/run/postern", 1000)
	if err != nil {
		t.Fatal(err)
	}
	if c.TrustDomain.Name() != "local.internal" || c.Authority.DataDir != "/var/lib/postern" || c.Authority.Sealing.LocalFile != "/var/lib/postern/sealing.key" {
		t.Errorf("%s", c.Effective())
	}
	if c.WorkloadAPI.Socket != "/run/postern/workload.sock" || c.Admin.Socket != "/run/postern/admin.sock" {
		t.Errorf("%s", c.Effective())
	}
	for _, s := range c.sockets() {
		if s.at.Network() == "tcp" {
			t.Errorf("%s listens on %s", s.path, s.at)
		}
	}
	if len(c.Warnings()) > 0 {
		t.Error(c.Warnings())
	}
}

func TestOneLinerIsWhatAFileWouldSay(t *testing.T) {
	c, err := OneLiner(Sidecar{Listen: "127.0.0.1:8443", To: "127.0.0.1:8080", Allow: []string{"spiffe://local.internal/web"}, StateDir: "/s", RunDir: "/r", UID: -1})
	if err != nil {
		t.Fatal(err)
	}
	file, err := Parse("a.yaml", []byte(`
version: 1
trust_domain: local.internal
authority: {data_dir: /s}
workload_api: {socket: /r/workload.sock}
admin: {socket: /r/admin.sock}
listeners: [{name: inbound, address: 127.0.0.1:8443, service: app, routes: [{cluster: app}]}]
clusters: [{name: app, endpoints: ["127.0.0.1:8080"]}]
policies: [{name: allow, service: app, reason: postern run --allow, rules: [{allow: {from: ["spiffe://local.internal/web"]}}]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.Effective()) != string(file.Effective()) {
		t.Error(firstDifference(c.Effective(), file.Effective()))
	}
}

func TestOneLinerNamesTheFlagThatIsWrong(t *testing.T) {
	_, err := OneLiner(Sidecar{Listen: "8443", To: "http://a", Allow: []string{"web"}, StateDir: "/s", RunDir: "/r", UID: -1})
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 3 {
		t.Fatalf("got %v", err)
	}
	for i, flag := range []string{"--listen", "--to", "--allow"} {
		if errs[i].Path != flag {
			t.Errorf("got %v, want %s", errs[i], flag)
		}
	}
	_, err = OneLiner(Sidecar{Listen: "127.0.0.1:1", To: "10.0.0.1:80", StateDir: "/s", RunDir: "/r", UID: -1})
	if !errors.As(err, &errs) || errs[0].Code != CodePlaintext {
		t.Errorf("a remote endpoint without TLS: got %v", err)
	}
}

func TestDidYouMeanFindsTypingErrors(t *testing.T) {
	choices := []string{"listeners", "clusters", "policies", "workload_api", "min_version"}
	for text, want := range map[string]string{
		"listenrs": "listeners", "Clusters": "clusters", "polices": "policies", "workload-api": "workload_api", "min_versio": "min_version",
	} {
		if got := suggest(text, choices); got != "did you mean "+want+"?" {
			t.Errorf("%s: %s", text, got)
		}
	}
	if got := suggest("frobnicate", choices); got != "choose listeners, clusters, policies, workload_api or min_version" {
		t.Error(got)
	}
}

func TestErrorsAsJSON(t *testing.T) {
	_, err := Parse("a.yaml", []byte("version: 1\ntrust_domain: a\nlistenrs: []\n"))
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	var back []map[string]any
	if err := json.Unmarshal(errs.JSON(), &back); err != nil || len(back) != 1 {
		t.Fatalf("%v: %s", err, errs.JSON())
	}
	if e := back[0]; e["file"] != "a.yaml" || e["line"] != 3.0 || e["column"] != 1.0 || e["code"] != "PST010" || e["path"] != "listenrs" {
		t.Errorf("%v", e)
	}
	if string(Errors(nil).JSON()) != "[]\n" {
		t.Errorf("none: %s", Errors(nil).JSON())
	}
}

func TestEveryCodeIsExplainedOnce(t *testing.T) {
	seen := map[Code]bool{}
	last := Code("")
	for _, e := range Codes() {
		if seen[e.Code] || e.Meaning == "" || e.Code <= last {
			t.Errorf("%s: %q after %s", e.Code, e.Meaning, last)
		}
		seen[e.Code], last = true, e.Code
	}
}
