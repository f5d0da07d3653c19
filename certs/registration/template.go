package registration

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxSPIFFEID is the length that a SPIFFE ID may have at most: SPIFFE-ID, Section 2.3.
const maxSPIFFEID = 2048

// placeholders are the selectors whose value may stand in a template. A key of which a workload has several values cannot.
var placeholders = []string{"unix.uid", "unix.gid", "unix.user", "unix.path", "unix.sha256"}

// Template is a SPIFFE ID with placeholders in its path, such as "spiffe://example.org/exe/{unix.path}". Expanding it is
// injective: two workloads whose values differ in any placeholder never get one ID, because
//
//   - a path segment holds at most one placeholder, which may have fixed text before and behind it ("uid-{unix.uid}"),
//   - "{unix.path}" stands as segments of its own, at most once, and each part of the path becomes one segment,
//   - a value is escaped: letters, digits, "." and "-" stand for themselves, "_" is written "__", every other byte "_" and two
//     lower-case hex digits. A whole value "." or ".." has its points escaped too, since such segments are illegal.
type Template struct {
	td       spiffeid.TrustDomain
	segments []templateSegment
}

// templateSegment is fixed text, or a placeholder between fixed texts.
type templateSegment struct {
	before, name, after string // without a placeholder, name is empty and before the whole
}

const pathPlaceholder = "unix.path"

// IsTemplate says whether a SPIFFE ID of an entry is meant as a template. SPIFFE IDs hold no braces.
func IsTemplate(id string) bool { return strings.ContainsAny(id, "{}") }

// ParseTemplate reads a template. A SPIFFE ID without placeholders is a template too, of itself alone.
func ParseTemplate(s string) (Template, error) {
	if len(s) > maxSPIFFEID {
		return Template{}, fmt.Errorf("SPIFFE ID of %d bytes, at most %d", len(s), maxSPIFFEID)
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return Template{}, fmt.Errorf("SPIFFE ID %q does not begin with spiffe://", s)
	}
	host, idPath, ok := strings.Cut(rest, "/")
	if !ok || idPath == "" {
		return Template{}, fmt.Errorf("SPIFFE ID %q has no path", s) // SPIFFE X509-SVID, Section 2: a leaf's path is not the root
	}
	td, err := spiffeid.TrustDomainFromString(host)
	if err != nil || td.IsZero() {
		return Template{}, fmt.Errorf("SPIFFE ID %q has the malformed trust domain %q", s, host)
	}
	t := Template{td: td}
	paths := 0
	for raw := range strings.SplitSeq(idPath, "/") {
		seg, err := parseSegment(raw)
		if err != nil {
			return Template{}, fmt.Errorf("SPIFFE ID %q: %w", s, err)
		}
		if seg.name == pathPlaceholder {
			paths++
		}
		t.segments = append(t.segments, seg)
	}
	if paths > 1 {
		return Template{}, fmt.Errorf("SPIFFE ID %q: {%s} stands in it twice", s, pathPlaceholder)
	}
	return t, nil
}

func parseSegment(raw string) (templateSegment, error) {
	before, rest, found := strings.Cut(raw, "{")
	if !found {
		return templateSegment{before: raw}, spiffeid.ValidatePathSegment(raw)
	}
	name, after, closed := strings.Cut(rest, "}")
	if !closed || strings.ContainsAny(after, "{}") {
		return templateSegment{}, fmt.Errorf("segment %q: want one placeholder in braces, such as {unix.uid}", raw)
	}
	if !slices.Contains(placeholders, name) {
		return templateSegment{}, fmt.Errorf("unknown placeholder {%s}: want one of {%s}", name, strings.Join(placeholders, "}, {"))
	}
	seg := templateSegment{before: before, name: name, after: after}
	for _, fixed := range []string{before, after} {
		if fixed == "" {
			continue
		}
		if name == pathPlaceholder {
			return templateSegment{}, fmt.Errorf("segment %q: {%s} stands alone between slashes", raw, name)
		}
		if err := spiffeid.ValidatePathSegment("x" + fixed); err != nil { // "." is no dot segment here: a value follows or precedes
			return templateSegment{}, fmt.Errorf("segment %q: %w", raw, err)
		}
	}
	return seg, nil
}

// TrustDomain returns the trust domain of every ID that the template makes.
func (t Template) TrustDomain() spiffeid.TrustDomain { return t.td }

// Fixed says whether the template has no placeholder, so that it makes one ID only.
func (t Template) Fixed() bool {
	return !slices.ContainsFunc(t.segments, func(s templateSegment) bool { return s.name != "" })
}

// Expand puts the values of the selectors into the template. It fails when a value is missing, when there are two, when it is none that
// the selector can have, and when the ID would be too long.
func (t Template) Expand(selectors []string) (spiffeid.ID, error) {
	var b strings.Builder
	for _, seg := range t.segments {
		b.WriteByte('/')
		b.WriteString(seg.before)
		if seg.name == "" {
			continue
		}
		value, err := selectorValue(selectors, seg.name)
		if err != nil {
			return spiffeid.ID{}, fmt.Errorf("expand {%s}: %w", seg.name, err)
		}
		b.WriteString(encodeValue(seg.name, value))
		b.WriteString(seg.after)
	}
	if n := len("spiffe://") + len(t.td.Name()) + b.Len(); n > maxSPIFFEID {
		return spiffeid.ID{}, fmt.Errorf("expand: SPIFFE ID of %d bytes, at most %d", n, maxSPIFFEID)
	}
	id, err := spiffeid.FromPath(t.td, b.String())
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("expand: %w", err)
	}
	return id, nil
}

// Matches says whether some selectors make this ID from the template.
func (t Template) Matches(id spiffeid.ID) bool {
	if id.TrustDomain() != t.td || len(id.String()) > maxSPIFFEID || id.Path() == "" {
		return false
	}
	parts := strings.Split(id.Path()[1:], "/")
	width := len(parts) - len(t.segments) + 1 // of {unix.path}; every other segment is one part
	values := map[string]string{}
	for _, seg := range t.segments {
		n := 1
		if seg.name == pathPlaceholder {
			n = width
		}
		if n < 1 || n > len(parts) || !seg.matches(strings.Join(parts[:n], "/"), values) {
			return false
		}
		parts = parts[n:]
	}
	return len(parts) == 0
}

// matches compares one part of an ID, and keeps the value it shows: one that stands in a template twice is one value.
func (s templateSegment) matches(part string, values map[string]string) bool {
	if s.name == "" {
		return part == s.before
	}
	text, ok := strings.CutPrefix(part, s.before)
	if !ok {
		return false
	}
	if text, ok = strings.CutSuffix(text, s.after); !ok {
		return false
	}
	value, ok := decodeValue(s.name, text)
	if !ok || checkValue(s.name, value) != nil || encodeValue(s.name, value) != text {
		return false
	}
	if other, seen := values[s.name]; seen && other != value {
		return false
	}
	values[s.name] = value
	return true
}

// Expand parses and expands a template.
func Expand(template string, selectors []string) (spiffeid.ID, error) {
	t, err := ParseTemplate(template)
	if err != nil {
		return spiffeid.ID{}, err
	}
	return t.Expand(selectors)
}

// Matches says whether id is what the entry's SPIFFE ID says: the same, or what some selectors make of it. A malformed template
// matches nothing.
func Matches(template string, id spiffeid.ID) bool {
	t, err := ParseTemplate(template)
	return err == nil && t.Matches(id)
}

func selectorValue(selectors []string, name string) (string, error) {
	value := ""
	for _, s := range selectors {
		sel, ok := splitSelector(s)
		if !ok || sel.Type+"."+sel.Key != name || sel.Value == value {
			continue
		}
		if value != "" {
			return "", errors.New("the workload has two values of it")
		}
		value = sel.Value
	}
	if value == "" {
		return "", errors.New("the workload has no value of it")
	}
	return value, checkValue(name, value)
}

func encodeValue(name, value string) string {
	if name != pathPlaceholder {
		return escape(value)
	}
	parts := strings.Split(strings.TrimPrefix(value, "/"), "/")
	for i, part := range parts {
		parts[i] = escape(part)
	}
	return strings.Join(parts, "/")
}

func decodeValue(name, text string) (string, bool) {
	if name != pathPlaceholder {
		return unescape(text)
	}
	value := ""
	for part := range strings.SplitSeq(text, "/") {
		plain, ok := unescape(part)
		if !ok || strings.Contains(plain, "/") {
			return "", false
		}
		value += "/" + plain
	}
	return value, true
}

const hexDigits = "0123456789abcdef"

func escape(value string) string {
	dots := value == "." || value == ".."
	out := make([]byte, 0, len(value))
	for _, c := range []byte(value) {
		switch {
		case c == '_':
			out = append(out, '_', '_')
		case isPlain(c) && (c != '.' || !dots):
			out = append(out, c)
		default:
			out = append(out, '_', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(out)
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-'
}

// unescape undoes escape; it also reads texts that escape would have written otherwise, which the caller tells by escaping again.
func unescape(text string) (string, bool) {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '_':
			out = append(out, text[i])
		case strings.HasPrefix(text[i+1:], "_"):
			out = append(out, '_')
			i++
		case i+2 < len(text):
			high, low := strings.IndexByte(hexDigits, text[i+1]), strings.IndexByte(hexDigits, text[i+2])
			if high < 0 || low < 0 {
				return "", false
			}
			out = append(out, byte(high<<4|low))
			i += 2
		default:
			return "", false
		}
	}
	return string(out), true
}
