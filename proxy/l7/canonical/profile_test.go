package canonical

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

const everything = EncodedSlash | EncodedPercent | Semicolon | EncodedBackslash | EmptySegments

func TestProfileIsParsedFromNamesAndSaysThem(t *testing.T) {
	p, err := ParseProfile(Names())
	if err != nil || p != everything || p.String() != strings.Join(Names(), ",") {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := ParseProfile(nil); err != nil || p != 0 || p.String() != "strict" {
		t.Errorf("no names: %v, %v", p, err)
	}
	for i, name := range Names() {
		if p, err := ParseProfile([]string{name, name}); err != nil || p != 1<<i || p.String() != name {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if p, err := ParseProfile([]string{"semicolon", "dots"}); err == nil || p != 0 || !strings.Contains(err.Error(), `"dots"`) || !strings.Contains(err.Error(), "encoded_slash") {
		t.Errorf("unknown name: %v, %v", p, err)
	}
	if !everything.Allows(Semicolon|EncodedSlash) || Semicolon.Allows(Semicolon|EncodedSlash) || !Profile(0).Allows(0) {
		t.Error("a profile allows what is in it and nothing else")
	}
}

func TestRelaxationKeepsThePathAsItIs(t *testing.T) {
	rows := []struct {
		name, path, want string
		needs            Profile
	}{
		{"encoded slash", "/projects/group%2fname", "/projects/group%2Fname", EncodedSlash},
		{"URL in a segment", "/fetch/https:%2F%2Fa%2fb", "/fetch/https:%2F%2Fa%2Fb", EncodedSlash},
		{"encoded twice", "/a/%2541", "/a/%2541", EncodedPercent},
		{"encoded twice in three steps", "/a/%25%32%65x", "/a/%252ex", EncodedPercent},
		{"slash encoded twice", "/a/b%252Fc", "/a/b%252Fc", EncodedPercent | EncodedSlash},
		{"semicolon encoded twice", "/a/b%253bc", "/a/b%253bc", EncodedPercent | Semicolon},
		{"backslash encoded twice", "/a/b%255cc", "/a/b%255cc", EncodedPercent | EncodedBackslash},
		{"UTF-8 encoded twice", "/a/%25c3%25a9", "/a/%25c3%25a9", EncodedPercent},
		{"parameter", "/cart;id=1;x/items", "/cart;id=1;x/items", Semicolon},
		{"parameter of the trailing slash", "/;jsessionid=1", "/;jsessionid=1", Semicolon},
		{"encoded semicolon", "/a%3bb;c", "/a%3Bb;c", Semicolon},
		{"encoded backslash", "/DOMAIN%5cuser", "/DOMAIN%5Cuser", EncodedBackslash},
		{"empty segment", "/a//b", "/a//b", EmptySegments},
		{"empty segment last", "/a//", "/a//", EmptySegments},
		{"empty segments first and within", "//a//b", "/a//b", EmptySegments},
		{"several", "/a;x//%2f%5c", "/a;x//%2F%5C", Semicolon | EmptySegments | EncodedSlash | EncodedBackslash},
		{"dots within names", "/a;..x/..b%2F.c", "/a;..x/..b%2F.c", Semicolon | EncodedSlash},
		// These need nothing and are as they were.
		{"slashes first only", "//a/b", "/a/b", 0},
		{"plain", "/a/b/", "/a/b/", 0},
		{"dots", "/a/../b/./c", "/b/c", 0},
		{"dots up to the slashes", "/a/..//b", "/b", 0},
		{"percent sign", "/100%25", "/100%25", 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			for _, p := range []Profile{row.needs, everything} {
				got, used, err := Path(row.path, p)
				if err != nil || got != row.want || used != row.needs {
					t.Fatalf("%v: %q becomes %q with %v, %v; want %q with %v", p, row.path, got, used, err, row.want, row.needs)
				}
			}
			for bit := Profile(1); bit <= everything; bit <<= 1 {
				if row.needs&bit == 0 || bit == EmptySegments {
					continue
				}
				if got, _, err := Path(row.path, everything&^bit); l7.ReasonOf(err, "") != observe.AmbiguousPath {
					t.Errorf("without %v: %q, %v", bit, got, err)
				}
			}
		})
	}
}

func TestNoRelaxationAllowsWhatReadersTakeForAnotherPath(t *testing.T) {
	rows := []struct {
		name, path string
		reason     observe.Reason
	}{
		{"raw backslash", `/a\b`, observe.AmbiguousPath},
		{"NUL", "/a%00", observe.AmbiguousPath},
		{"NUL encoded twice", "/a%2500", observe.AmbiguousPath},
		{"line feed encoded twice", "/a%250a", observe.AmbiguousPath},
		{"no UTF-8", "/%ff", observe.AmbiguousPath},
		{"no UTF-8 when decoded twice", "/%25ff", observe.AmbiguousPath},
		{"overlong slash", "/a%c0%af", observe.AmbiguousPath},
		{"overlong slash encoded twice", "/a%25c0%25af", observe.AmbiguousPath},
		{"encoded three times", "/%252541", observe.AmbiguousPath},
		{"broken encoding", "/%zz%2f", observe.BadRequest},
		{"dots before an encoded slash", "/public/..%2fadmin", observe.AmbiguousPath},
		{"dots between encoded slashes", "/public%2F..%2Fadmin", observe.AmbiguousPath},
		{"dots after an encoded slash", "/public/x%2f..", observe.AmbiguousPath},
		{"dot between encoded slashes", "/public%2F.%2Fadmin", observe.AmbiguousPath},
		{"dots before an encoded backslash", "/public/..%5cadmin", observe.AmbiguousPath},
		{"dots with a parameter", "/public/..;/admin", observe.AmbiguousPath},
		{"dots with an encoded parameter", "/public/..%3b/admin", observe.AmbiguousPath},
		{"dot with a parameter", "/public/.;x/admin", observe.AmbiguousPath},
		{"dots behind a parameter and an encoded slash", "/a;x%2f../admin", observe.AmbiguousPath},
		{"dots encoded twice", "/public/%252e%252e/admin", observe.AmbiguousPath},
		{"dots of which one is encoded twice", "/public/.%252e/admin", observe.AmbiguousPath},
		{"dots and slash encoded twice", "/public/x%252f%252e.", observe.AmbiguousPath},
		{"dots with a parameter encoded twice", "/public/..%253bx", observe.AmbiguousPath},
		{"parameter of nothing", "/;x/admin", observe.AmbiguousPath},
		{"parameter of nothing within", "/a/;x/admin", observe.AmbiguousPath},
		{"dots over an encoded slash", "/a%2fb/../c", observe.AmbiguousPath},
		{"dots over an empty segment", "/a//../b", observe.AmbiguousPath},
		{"dots over an empty segment last", "/a//..", observe.AmbiguousPath},
		{"dots beside an empty segment", "/a//b/../c", observe.AmbiguousPath},
		{"dots and a parameter", "/a/../b;x", observe.AmbiguousPath},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			got, _, err := Path(row.path, everything)
			if err == nil {
				t.Fatalf("%q becomes %q", row.path, got)
			}
			if reason := l7.ReasonOf(err, ""); reason != row.reason {
				t.Errorf("%q: %v, want %s", row.path, err, row.reason)
			}
		})
	}
}

func TestRequestSaysWhatItsPathNeeded(t *testing.T) {
	r := request("GET", "https", "a", "/x%2fy", "")
	if _, err := Request(r, Semicolon); l7.ReasonOf(err, "") != observe.AmbiguousPath {
		t.Errorf("%v", err)
	}
	used, err := Request(r, Semicolon|EncodedSlash)
	if err != nil || used != EncodedSlash || r.Path != "/x%2Fy" {
		t.Errorf("%v, %v, %q", used, err, r.Path)
	}
	if used, err := Request(request("OPTIONS", "https", "a", "*", ""), everything); used != 0 || err != nil {
		t.Errorf("%v, %v", used, err)
	}
}

func TestProfileNamesAreACopy(t *testing.T) {
	Names()[0] = "x"
	if !slices.Contains(Names(), "encoded_slash") {
		t.Error("a caller changed the names")
	}
}
