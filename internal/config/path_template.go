package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// PathTemplate is a path in canonical form with parameters: {name} is one segment that is not empty, {name...} at the end is the
// rest, which may be empty after its slash. /admin/{rest...} matches /admin/ and /admin/x, not /admin. The zero value matches
// nothing.
type PathTemplate struct {
	text     string
	segments []Segment
}

// ParsePathTemplate reads a template. What no canonical path can equal is an error, since such a rule would never match.
func ParsePathTemplate(s string) (PathTemplate, error) {
	if !strings.HasPrefix(s, "/") {
		return PathTemplate{}, errors.New("a path begins with /")
	}
	if len(s) > maxPath {
		return PathTemplate{}, fmt.Errorf("a path has at most %d bytes", maxPath)
	}
	t := PathTemplate{text: s}
	parts := strings.Split(s[1:], "/")
	names := map[string]bool{}
	for i, part := range parts {
		last := i == len(parts)-1
		segment, err := parsePathSegment(part, last)
		if err != nil {
			return PathTemplate{}, err
		}
		if segment.Kind != Literal && names[segment.Text] {
			return PathTemplate{}, fmt.Errorf("parameter %q stands there twice", segment.Text)
		}
		names[segment.Text] = segment.Kind != Literal
		t.segments = append(t.segments, segment)
	}
	return t, nil
}

func parsePathSegment(part string, last bool) (Segment, error) {
	if !strings.ContainsAny(part, "{}") {
		return Segment{Text: part}, checkPathSegment(part, last)
	}
	name, ok := strings.CutPrefix(part, "{")
	if ok {
		name, ok = strings.CutSuffix(name, "}")
	}
	if !ok {
		return Segment{}, fmt.Errorf("segment %q: a parameter is a whole segment, such as {id}", part)
	}
	kind := One
	if short, rest := strings.CutSuffix(name, "..."); rest {
		name, kind = short, Rest
	}
	switch {
	case !isWord(name):
		return Segment{}, fmt.Errorf("segment %q: a parameter's name has letters, digits and _", part)
	case kind == Rest && !last:
		return Segment{}, fmt.Errorf("segment %q stands for the rest and can only be the last", part)
	}
	return Segment{Kind: kind, Text: name}, nil
}

// checkCanonicalPath says why no canonical path can be this one.
func checkCanonicalPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return errors.New("a path begins with /")
	}
	parts := strings.Split(path[1:], "/")
	for i, part := range parts {
		if err := checkPathSegment(part, i == len(parts)-1); err != nil {
			return err
		}
	}
	return nil
}

// checkPathSegment holds a segment against the one form that requests are brought into before they are matched: no dot segments,
// no empty ones but a last, unreserved characters as themselves, every other octet as %XX in capitals (RFC 3986, Section 6.2.2).
// What requests are refused for (an encoded slash, backslash or NUL, a path parameter) cannot be in a rule either.
func checkPathSegment(part string, last bool) error {
	switch {
	case part == "" && !last:
		return errors.New("two slashes in a row: requests never have them, they are merged")
	case part == "." || part == "..":
		return fmt.Errorf("segment %q: requests never have it, dot segments are resolved", part)
	}
	var raw []byte
	for i := 0; i < len(part); i++ {
		c := part[i]
		switch {
		case c == '%':
			if err := checkEscape(part[i:]); err != nil {
				return err
			}
			c = unhex(part[i+1])<<4 | unhex(part[i+2])
			i += 2
		case c == '?' || c == '#':
			return fmt.Errorf("%q begins a query or fragment, and only the path is matched", rune(c))
		case c == ';':
			return errors.New("path parameters (;) are refused in requests")
		case c == '*':
			return errors.New("* is no glob in a path: write {name} for a segment, {name...} for the rest")
		case !isPathChar(c):
			r, size := utf8.DecodeRuneInString(part[i:])
			return fmt.Errorf("%q does not stand in a path as itself: write %s", r, escaped(part[i:i+size]))
		}
		raw = append(raw, c)
	}
	if !utf8.Valid(raw) {
		return fmt.Errorf("segment %q: requests that are not UTF-8 are refused", part)
	}
	return nil
}

// escaped writes every octet as %XX.
func escaped(octets string) string {
	var b strings.Builder
	for _, octet := range []byte(octets) {
		fmt.Fprintf(&b, "%%%02X", octet)
	}
	return b.String()
}

func checkEscape(s string) error {
	if len(s) < 3 || !isHex(s[1]) || !isHex(s[2]) {
		return errors.New("% is followed by two hexadecimal digits")
	}
	escape := s[:3]
	if escape != strings.ToUpper(escape) {
		return fmt.Errorf("%s: hexadecimal digits are capitals in canonical form: %s", escape, strings.ToUpper(escape))
	}
	octet := unhex(s[1])<<4 | unhex(s[2])
	switch {
	case octet < ' ' || octet == 0x7f || strings.IndexByte(`/\;`, octet) >= 0:
		return fmt.Errorf("%s: requests with it are refused as ambiguous", escape)
	case octet == '%' && len(s) >= 5 && isHex(s[3]) && isHex(s[4]):
		return fmt.Errorf("%s: requests that are encoded twice are refused", s[:5])
	case isUnreserved(octet):
		return fmt.Errorf("%s: requests never have it, unreserved characters are decoded: write %q", escape, rune(octet))
	}
	return nil
}

// isPathChar is pchar of RFC 3986, Section 3.3, without "%", ";" and "*", which the caller has looked at.
func isPathChar(c byte) bool { return isUnreserved(c) || strings.IndexByte("!$&'()+,=:@", c) >= 0 }

func isUnreserved(c byte) bool {
	return isLower(c) || isUpper(c) || isDigit(c) || strings.IndexByte("-._~", c) >= 0
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	switch {
	case isDigit(c):
		return c - '0'
	case isLower(c):
		return c - 'a' + 10
	default:
		return c - 'A' + 10
	}
}

func isWord(s string) bool {
	for _, c := range []byte(s) {
		if !isLower(c) && !isUpper(c) && !isDigit(c) && c != '_' {
			return false
		}
	}
	return s != ""
}

// Match reports whether the canonical path fits. It does not allocate.
func (t PathTemplate) Match(path string) bool {
	return len(t.segments) > 0 && strings.HasPrefix(path, "/") && matchSegments(t.segments, path)
}

// Segments are the parts of the path, for an index. The caller does not change them.
func (t PathTemplate) Segments() []Segment { return t.segments }

// IsZero reports that there is no template.
func (t PathTemplate) IsZero() bool { return t.text == "" }

// String is the template as it was written.
func (t PathTemplate) String() string { return t.text }

// MarshalText returns String.
func (t PathTemplate) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText is ParsePathTemplate.
func (t *PathTemplate) UnmarshalText(text []byte) error {
	parsed, err := ParsePathTemplate(string(text))
	*t = parsed
	return err
}

// maxPath is the longest path that fits in a head of the default size.
const maxPath = 16 << 10
