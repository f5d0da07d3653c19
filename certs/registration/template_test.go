package registration

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var digest = strings.Repeat("0a", 32)

func TestTemplateIsExpandedFromSelectors(t *testing.T) {
	selectors := []string{"unix:uid:1000", "unix:gid:100", "unix:supplementary_gid:27", "unix:user:web_1", "unix:path:/usr/bin/curl", "unix:sha256:" + digest}
	for template, want := range map[string]string{
		"spiffe://example.org/exe/{unix.path}":                    "spiffe://example.org/exe/usr/bin/curl",
		"spiffe://example.org/uid-{unix.uid}.x":                   "spiffe://example.org/uid-1000.x",
		"spiffe://example.org/{unix.user}/{unix.gid}":             "spiffe://example.org/web__1/100",
		"spiffe://example.org/{unix.user}/{unix.path}/{unix.uid}": "spiffe://example.org/web__1/usr/bin/curl/1000",
		"spiffe://example.org/h/{unix.sha256}":                    "spiffe://example.org/h/" + digest,
		"spiffe://example.org/fixed":                              "spiffe://example.org/fixed",
	} {
		id, err := Expand(template, selectors)
		if err != nil || id.String() != want {
			t.Errorf("Expand(%q) = %q, %v; want %q", template, id, err, want)
		}
		if !Matches(template, id) {
			t.Errorf("%q does not match its own %q", template, id)
		}
		if IsTemplate(template) != strings.Contains(template, "{") {
			t.Errorf("IsTemplate(%q) = %t", template, IsTemplate(template))
		}
	}
}

func TestValuesAreEscapedSoThatNoTwoMakeOneID(t *testing.T) {
	const template = "spiffe://example.org/exe/{unix.path}"
	seen := map[string]string{}
	for value, want := range map[string]string{
		"/a":           "/exe/a",
		"/a/b":         "/exe/a/b",
		"/a_b":         "/exe/a__b",
		"/a__b":        "/exe/a____b",
		"/a b":         "/exe/a_20b",
		"/a_20b":       "/exe/a__20b",
		"/ü":           "/exe/_c3_bc",
		"/\xff":        "/exe/_ff",
		"/...":         "/exe/...",
		"/.a":          "/exe/.a",
		"/a%2fb":       "/exe/a_252fb",
		"/x (deleted)": "/exe/x_20_28deleted_29",
		"/{unix.uid}":  "/exe/_7bunix.uid_7d",
	} {
		id, err := Expand(template, []string{"unix:path:" + value})
		if err != nil || id.Path() != want {
			t.Errorf("path %q gives %q, %v; want %q", value, id, err, want)
		}
		if other, twice := seen[id.String()]; twice {
			t.Errorf("%q and %q make one ID", value, other)
		}
		seen[id.String()] = value
		if !Matches(template, id) {
			t.Errorf("template does not match %q", id)
		}
	}
	for value, want := range map[string]string{".": "_2e", "..": "_2e_2e", "_2e": "__2e", "...": "..."} {
		if id, err := Expand("spiffe://example.org/{unix.user}", []string{"unix:user:" + value}); err != nil || id.Path() != "/"+want {
			t.Errorf("user %q gives %q, %v; want %q", value, id, err, want)
		}
	}
}

func TestTemplateIsNotExpandedWithout(t *testing.T) {
	const exe = "spiffe://example.org/{unix.path}"
	tests := []struct {
		name, template string
		selectors      []string
	}{
		{"a value", exe, []string{"unix:uid:1"}},
		{"a single value", exe, []string{"unix:path:/a", "unix:path:/b"}},
		{"an absolute path", exe, []string{"unix:path:a/b"}},
		{"a clean path", exe, []string{"unix:path:/a/../b"}},
		{"a path that is a file", exe, []string{"unix:path:/"}},
		{"a number", "spiffe://example.org/{unix.uid}", []string{"unix:uid:1/2"}},
		{"room", exe, []string{"unix:path:/" + strings.Repeat("%", 700)}},
		{"a well-formed template", "spiffe://example.org/{unix.path", []string{"unix:path:/a"}},
	}
	for _, test := range tests {
		if id, err := Expand(test.template, test.selectors); err == nil {
			t.Errorf("without %s: %q", test.name, id)
		}
	}
	if _, err := Expand(exe, []string{"unix:path:/a", "unix:path:/a"}); err != nil {
		t.Errorf("the same value twice: %v", err)
	}
}

// An agent cannot step out of the template (facts row I8): what no selectors can make is not matched.
func TestTemplateMatchesOnlyWhatItCanMake(t *testing.T) {
	tests := []struct {
		template, id string
		want         bool
	}{
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/usr/bin/curl", true},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_20b", true},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe", false},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/admin", false},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://other.org/exe/usr/bin/curl", false},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_b", false},   // unfinished escape
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_61", false},  // "a" stands for itself
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_2F", false},  // capitals
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_2fb", false}, // a slash is no part of a name
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/_00", false},
		{"spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/_2e_2e/b", false}, // no clean path has it
		{"spiffe://example.org/uid-{unix.uid}", "spiffe://example.org/uid-1000", true},
		{"spiffe://example.org/uid-{unix.uid}", "spiffe://example.org/uid-01", false},
		{"spiffe://example.org/uid-{unix.uid}", "spiffe://example.org/uid-", false},
		{"spiffe://example.org/uid-{unix.uid}", "spiffe://example.org/uid-root", false},
		{"spiffe://example.org/uid-{unix.uid}", "spiffe://example.org/uid-1/x", false},
		{"spiffe://example.org/{unix.uid}/{unix.path}/{unix.uid}", "spiffe://example.org/1/a/1", true},
		{"spiffe://example.org/{unix.uid}/{unix.path}/{unix.uid}", "spiffe://example.org/1/a/2", false},
		{"spiffe://example.org/a", "spiffe://example.org/a", true},
		{"spiffe://example.org/a", "spiffe://example.org/a/b", false},
		{"spiffe://example.org/a", "spiffe://example.org", false},
		{"{", "spiffe://example.org/a", false},
	}
	for _, test := range tests {
		id, err := spiffeid.FromString(test.id)
		if err != nil {
			t.Fatal(err)
		}
		if got := Matches(test.template, id); got != test.want {
			t.Errorf("%q matches %q: %t, want %t", test.template, test.id, got, test.want)
		}
	}
	if Matches("spiffe://example.org/a", spiffeid.ID{}) {
		t.Error("the zero ID is matched")
	}
}

func TestMalformedTemplatesAreRefused(t *testing.T) {
	for template, want := range map[string]string{
		"":                                                  "spiffe://",
		"https://example.org/a":                             "spiffe://",
		"spiffe://example.org":                              "no path",
		"spiffe://example.org/":                             "no path",
		"spiffe://Example.org/a":                            "trust domain",
		"spiffe:///a":                                       "trust domain",
		"spiffe://{unix.user}/a":                            "trust domain",
		"spiffe://example.org/a/":                           "empty",
		"spiffe://example.org/a//b":                         "empty",
		"spiffe://example.org/../b":                         "dot",
		"spiffe://example.org/a%20b":                        "characters",
		"spiffe://example.org/{unix.pid}":                   "unknown placeholder",
		"spiffe://example.org/{unix.supplementary_gid}":     "unknown placeholder",
		"spiffe://example.org/{}":                           "unknown placeholder",
		"spiffe://example.org/{unix.uid":                    "in braces",
		"spiffe://example.org/unix.uid}":                    "characters",
		"spiffe://example.org/{unix.user}{unix.uid}":        "one placeholder",
		"spiffe://example.org/x{unix.path}":                 "alone",
		"spiffe://example.org/{unix.path}/a/{unix.path}":    "twice",
		"spiffe://example.org/" + strings.Repeat("a", 2048): "2069 bytes",
	} {
		if _, err := ParseTemplate(template); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseTemplate(%q): %v; want an error with %q", template, err, want)
		}
	}
}

var fuzzTemplates = []string{
	"spiffe://example.org/exe/{unix.path}",
	"spiffe://example.org/{unix.user}",
	"spiffe://example.org/a.{unix.user}._/{unix.path}/{unix.uid}",
	"spiffe://example.org/{unix.gid}-/{unix.sha256}/{unix.user}",
}

// For any selectors: what Expand makes, Matches accepts and SPIFFE allows, and two workloads that differ in a value the template names
// never get one ID.
func FuzzExpand(f *testing.F) {
	f.Add("1", "0", "root", "/usr/bin/a", "2", "0", "root", "/usr/bin/b")
	f.Add("1", "0", "..", "/a_b", "1", "0", "_2e_2e", "/a__b")
	f.Add("1", "0", "\xff", "/a/b", "1", "0", "_ff", "/a_2fb")
	f.Fuzz(func(t *testing.T, uid1, gid1, user1, path1, uid2, gid2, user2, path2 string) {
		values := []map[string]string{
			{"uid": uid1, "gid": gid1, "user": user1, "path": path1, "sha256": digest},
			{"uid": uid2, "gid": gid2, "user": user2, "path": path2, "sha256": digest},
		}
		for _, template := range fuzzTemplates {
			var ids [2]spiffeid.ID
			var errs [2]error
			for i, v := range values {
				var selectors []string
				for key, value := range v {
					selectors = append(selectors, "unix:"+key+":"+value)
				}
				if ids[i], errs[i] = Expand(template, selectors); errs[i] != nil {
					continue
				}
				if !Matches(template, ids[i]) {
					t.Errorf("%q does not match %q, made of %q", template, ids[i], selectors)
				}
				if back, err := spiffeid.FromString(ids[i].String()); err != nil || back != ids[i] || len(back.String()) > 2048 {
					t.Errorf("%q is no SPIFFE ID: %v", ids[i], err)
				}
			}
			if errs[0] != nil || errs[1] != nil || ids[0] != ids[1] {
				continue
			}
			for _, name := range placeholders {
				key := strings.TrimPrefix(name, "unix.")
				if strings.Contains(template, "{"+name+"}") && values[0][key] != values[1][key] {
					t.Errorf("%s %q and %q make one ID of %q: %q", key, values[0][key], values[1][key], template, ids[0])
				}
			}
		}
	})
}

// What Matches accepts, some selectors make.
func FuzzMatches(f *testing.F) {
	f.Add("spiffe://example.org/exe/{unix.path}", "spiffe://example.org/exe/a_20b/c")
	f.Add("spiffe://example.org/a.{unix.user}._/{unix.path}/{unix.uid}", "spiffe://example.org/a._2e._/x/y/7")
	f.Add("spiffe://example.org/{unix.uid}/{unix.uid}", "spiffe://example.org/1/1")
	f.Fuzz(func(t *testing.T, template, idText string) {
		parsed, err := ParseTemplate(template)
		if err != nil {
			return
		}
		id, err := spiffeid.FromString(idText)
		if err != nil || !parsed.Matches(id) {
			return
		}
		selectors := selectorsOf(parsed, id)
		if made, err := parsed.Expand(selectors); err != nil || made != id {
			t.Errorf("%q matches %q, but %q make %q, %v", template, id, selectors, made, err)
		}
	})
}

// selectorsOf reads the values out of an ID that the template matches.
func selectorsOf(t Template, id spiffeid.ID) []string {
	parts := strings.Split(id.Path()[1:], "/")
	width := len(parts) - len(t.segments) + 1
	var selectors []string
	for _, seg := range t.segments {
		n := 1
		if seg.name == pathPlaceholder {
			n = width
		}
		text := strings.Join(parts[:n], "/")
		parts = parts[n:]
		if seg.name == "" {
			continue
		}
		value, _ := decodeValue(seg.name, strings.TrimSuffix(strings.TrimPrefix(text, seg.before), seg.after))
		selectors = append(selectors, strings.Replace(seg.name, ".", ":", 1)+":"+value)
	}
	return selectors
}
