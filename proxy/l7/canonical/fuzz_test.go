package canonical

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzPath holds every profile to the promises of Path: what comes out is what comes out again, no more was used than allowed and
// no less than needed, and no service that reads the path in another way finds another one than was judged.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/", "/a/../b", "//a", "/%2e%2E/x", "/%25%32%65", "/a;b", "/%c3%a9", "/a/.", "/%zz", "/.a/..b/...", "/|", "/%252e", "/a%2fb/../c",
		"/..%2f", "/..;/", "/;a/b", "/a//../b", "//a//b", "/%252f..", "/%2525", "/%25ff", "/%5c%5C.", "/a%3B;b//", "/a;%2F..%255c", "/%25c3%25a9",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		strict, _, strictErr := Path(path, 0)
		for p := range everything + 1 {
			once, used, err := Path(path, p)
			if err != nil {
				if strictErr == nil && p&EmptySegments == 0 {
					t.Fatalf("%q: strict makes %q of it, %v refuses: %v", path, strict, p, err)
				}
				continue
			}
			if used == 0 && (strictErr != nil || strict != once) {
				t.Fatalf("%q with %v becomes %q; strict: %q, %v", path, p, once, strict, strictErr)
			}
			checkUsed(t, path, p, once, used)
			checkOneReading(t, once, used)
		}
	})
}

// checkUsed: no more was used than allowed and no less than needed, and with that the path is canonical.
func checkUsed(t *testing.T, path string, p Profile, once string, used Profile) {
	if !p.Allows(used) {
		t.Fatalf("%q: %v was used of %v", path, used, p)
	}
	for _, again := range []Profile{used, p, everything} {
		if twice, usedAgain, err := Path(once, again); err != nil || twice != once || usedAgain != used {
			t.Fatalf("%q with %v becomes %q with %v; with %v that becomes %q with %v, %v", path, p, once, used, again, twice, usedAgain, err)
		}
	}
	for bit := Profile(1); bit <= everything; bit <<= 1 {
		if used&bit == 0 {
			continue
		}
		if less, _, err := Path(path, p&^bit); err == nil && less == once {
			t.Fatalf("%q does not need %v", path, bit)
		}
	}
}

// checkOneReading looks for anything that a service could read as another path, beyond what was relaxed.
func checkOneReading(t *testing.T, path string, used Profile) {
	for i := range len(path) {
		b := path[i]
		if b <= ' ' || b >= 0x7f || strings.IndexByte(`\#?`, b) >= 0 || b == ';' && used&Semicolon == 0 {
			t.Fatalf("%q contains %q", path, b)
		}
	}
	if path[0] != '/' || strings.HasPrefix(path, "//") {
		t.Fatalf("%q does not begin with one slash", path)
	}
	if strings.Contains(path, "//") && used&EmptySegments == 0 {
		t.Fatalf("%q has an empty segment", path)
	}
	for encoding, relaxation := range map[string]Profile{"%2F": EncodedSlash, "%5C": EncodedBackslash, "%3B": Semicolon, "%00": 0, "%0A": 0, "%7F": 0} {
		if strings.Contains(path, encoding) && used&relaxation == 0 {
			t.Fatalf("%q contains %s", path, encoding)
		}
	}
	reading := path
	for range 3 {
		checkSegments(t, path, reading, used)
		reading = decodeAll(reading)
		if strings.ContainsAny(reading, "\x00\r\n\x7f") || !utf8.ValidString(reading) {
			t.Fatalf("%q can be read as %q", path, reading)
		}
	}
}

// checkSegments: no reader finds a dot segment.
func checkSegments(t *testing.T, path, reading string, used Profile) {
	for segment := range strings.FieldsFuncSeq(reading, func(r rune) bool { return r == '/' || r == '\\' }) {
		name := segment
		if used&Semicolon != 0 {
			name, _, _ = strings.Cut(segment, ";")
		}
		if name == "." || name == ".." {
			t.Fatalf("%q can be read as %q, with segment %q", path, reading, segment)
		}
	}
}

// decodeAll resolves percent-encodings as a lenient service does.
func decodeAll(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i] == '%' {
			high, low := strings.IndexByte(upperHex, upper(s[i+1])), strings.IndexByte(upperHex, upper(s[i+2]))
			if high >= 0 && low >= 0 {
				out.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func upper(b byte) byte {
	if b-'a' < 26 {
		return b - 32
	}
	return b
}
