package canonical

import (
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestPathHasOneForm(t *testing.T) {
	rows := []struct{ name, path, want string }{
		{"root", "/", "/"},
		{"plain", "/a/b-c_d~e.f", "/a/b-c_d~e.f"},
		{"case is kept", "/A/b", "/A/b"},
		{"trailing slash is kept", "/a/", "/a/"},
		{"sub-delimiters", "/a!$&'()*+,=:@b", "/a!$&'()*+,=:@b"},
		// RFC 3986, Section 6.2.2.2: unreserved characters "should always be decoded".
		{"encoded letter", "/adm%69n", "/admin"},
		{"encoded letter in upper case", "/%41", "/A"},
		{"encoded unreserved", "/%2D%2e%5F%7e%30", "/-._~0"},
		{"reserved stays encoded", "/a%21%26%3d%2b", "/a%21%26%3D%2B"},
		{"encoding in upper case", "/%c3%a9", "/%C3%A9"},
		{"encoded space", "/a%20b", "/a%20b"},
		{"encoded question mark", "/a%3fb", "/a%3Fb"},
		{"encoded number sign", "/a%23b", "/a%23b"},
		{"percent sign", "/100%25", "/100%25"},
		{"percent sign before a letter", "/%25zz", "/%25zz"},
		{"raw characters that no path has", `/a"<>^|{}` + "`", "/a%22%3C%3E%5E%7C%7B%7D%60"},
		// RFC 3986, Section 5.2.4.
		{"dot", "/a/./b", "/a/b"},
		{"dots", "/public/../admin", "/admin"},
		{"encoded dots", "/public/%2e%2e/admin", "/admin"},
		{"half encoded dots", "/public/.%2E/admin", "/admin"},
		{"dots above the root", "/../../a", "/a"},
		{"dot last", "/a/.", "/a/"},
		{"dots last", "/a/b/..", "/a/"},
		{"dots to the root", "/a/..", "/"},
		{"three dots are a name", "/a/.../b", "/a/.../b"},
		{"name that begins with a dot", "/.well-known/x", "/.well-known/x"},
		{"name that begins with two dots", "/..a", "/..a"},
		{"RFC example", "/a/b/c/./../../g", "/a/g"},
		{"slashes", "//admin", "/admin"},
		{"slashes within", "/a///b", "/a/b"},
		{"slashes last", "/a//", "/a/"},
		{"only slashes", "///", "/"},
		{"slashes and dots", "/a//../b", "/b"},
		{"a dot between slashes", "/a/.//b", "/a/b"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, used, err := Path(row.path, 0)
			if err != nil || got != row.want || used != 0 {
				t.Fatalf("%q becomes %q, %v; want %q", row.path, got, err, row.want)
			}
			if again, _, err := Path(got, 0); err != nil || again != got {
				t.Errorf("%q becomes %q, %v: not idempotent", got, again, err)
			}
		})
	}
}

func TestAmbiguousPathsAreRefused(t *testing.T) {
	rows := []struct {
		name, path string
		reason     observe.Reason
	}{
		{"encoded slash", "/public%2fadmin", observe.AmbiguousPath},
		{"encoded slash in upper case", "/public%2Fadmin", observe.AmbiguousPath},
		{"encoded slash and dots", "/public%2f..%2fadmin", observe.AmbiguousPath},
		{"backslash", `/public\admin`, observe.AmbiguousPath},
		{"encoded backslash", "/public%5cadmin", observe.AmbiguousPath},
		{"NUL", "/admin%00.png", observe.AmbiguousPath},
		{"encoded line feed", "/a%0ab", observe.AmbiguousPath},
		{"encoded delete", "/a%7f", observe.AmbiguousPath},
		{"parameter", "/admin;x=1", observe.AmbiguousPath},
		{"dots with a parameter", "/public/..;/admin", observe.AmbiguousPath},
		{"encoded semicolon", "/public/..%3b/admin", observe.AmbiguousPath},
		{"no UTF-8", "/%ff", observe.AmbiguousPath},
		{"overlong slash", "/a%c0%afb", observe.AmbiguousPath},
		{"overlong dots", "/%c0%ae%c0%ae/admin", observe.AmbiguousPath},
		{"surrogate", "/%ed%a0%80", observe.AmbiguousPath},
		{"encoded twice", "/%252e%252e/admin", observe.AmbiguousPath},
		{"encoded twice in three steps", "/%25%32%65", observe.AmbiguousPath},
		{"encoded twice after an unreserved one", "/%252%66", observe.AmbiguousPath},
		{"encoded NUL twice", "/%2500", observe.AmbiguousPath},
		{"broken encoding", "/%zz", observe.BadRequest},
		{"encoding of IIS", "/%u002e", observe.BadRequest},
		{"cut encoding", "/%2", observe.BadRequest},
		{"percent last", "/a%", observe.BadRequest},
		{"no slash", "admin", observe.BadRequest},
		{"nothing", "", observe.BadRequest},
		{"space", "/a b", observe.BadRequest},
		{"fragment", "/a#b", observe.BadRequest},
		{"query", "/a?b", observe.BadRequest},
		{"raw control", "/a\nb", observe.AmbiguousPath},
		{"raw byte above ASCII", "/\xc3\xa9", observe.BadRequest},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, _, err := Path(row.path, 0)
			if err == nil {
				t.Fatalf("%q becomes %q", row.path, got)
			}
			if reason := l7.ReasonOf(err, ""); reason != row.reason {
				t.Errorf("%q: %v, want %s", row.path, err, row.reason)
			}
		})
	}
}

func TestCanonicalPathCostsNothing(t *testing.T) {
	const path = "/api/v1/users/42/orders"
	if allocs := testing.AllocsPerRun(100, func() { _, _, _ = Path(path, 0) }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
