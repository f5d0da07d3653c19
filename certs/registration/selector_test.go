package registration

import (
	"strings"
	"testing"
)

func TestSelectorsThatAttestorsEstablishAreRead(t *testing.T) {
	for in, want := range map[string]Selector{
		"unix:uid:1000":                           {"unix", "uid", "1000"},
		"unix:gid:0":                              {"unix", "gid", "0"},
		"unix:supplementary_gid:27":               {"unix", "supplementary_gid", "27"},
		"unix:user:www-data":                      {"unix", "user", "www-data"},
		"unix:path:/opt/a b:c/ü":                  {"unix", "path", "/opt/a b:c/ü"},
		"unix:sha256:" + strings.Repeat("0a", 32): {"unix", "sha256", strings.Repeat("0a", 32)},
		SelfSelector:                              {"postern", "", "self"},
	} {
		got, err := ParseSelector(in)
		if err != nil || got != want {
			t.Errorf("ParseSelector(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if got.String() != in {
			t.Errorf("String() = %q, want %q", got.String(), in)
		}
	}
}

func TestSelectorsThatCannotMatchAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "type:key:value",
		"unix":                    "type:key:value",
		"unix:uid":                "type:key:value",
		"unix:uid:":               "type:key:value",
		":uid:1":                  "type:key:value",
		"unix::1":                 "type:key:value",
		"postern:other":           "type:key:value",
		"k8s:ns:default":          "unknown type",
		"postern:self:x":          "unknown type",
		"UNIX:uid:1":              "unknown type",
		"unix:pid:1":              "unknown key",
		"unix:uid:01":             "decimal",
		"unix:uid:-1":             "decimal",
		"unix:uid:4294967296":     "decimal",
		"unix:gid:root":           "decimal",
		"unix:path:usr/bin/x":     "absolute",
		"unix:path:/usr/../bin/x": "absolute",
		"unix:path:/usr//bin/x":   "absolute",
		"unix:path:/usr/bin/":     "absolute",
		"unix:path:/":             "absolute",
		"unix:path:/a\nb":         "unprintable",
		"unix:user:a\u202eb":      "unprintable",
		"unix:user:a\xff":         "UTF-8",
		"unix:user:a:b":           "account",
		"unix:sha256:abc":         "SHA-256",
		"unix:sha256:" + strings.Repeat("0A", 32): "SHA-256",
		"unix:path:/" + strings.Repeat("a", 4096): "4097 bytes",
	} {
		if got, err := ParseSelector(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSelector(%q) = %+v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"unix:uid:1000", "unix:path:/usr/bin/x", SelfSelector, "unix:user:a:b", "::", "unix:sha256:00", "unix:path:/a\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := ParseSelector(s)
		if err != nil {
			return
		}
		if sel.String() != s {
			t.Errorf("%q was read as %q", s, sel.String())
		}
		if strings.ContainsAny(s, "\n\x00\x1b") {
			t.Errorf("%q holds a control character", s)
		}
	})
}
