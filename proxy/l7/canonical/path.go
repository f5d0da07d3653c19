package canonical

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Path returns the canonical form of a path, the argument itself when it already has it, and which relaxations of the profile the
// path needed. So a caller can canonicalise with what any of its routes allows, and refuse when the route that matches does not
// allow what was used. A path that does not begin with "/" or has a broken percent-encoding is refused with reason BadRequest, one
// that two readers could take for two resources with AmbiguousPath.
//
// Path(canonical, used) returns the same again.
func Path(path string, p Profile) (canonical string, used Profile, err error) {
	if path == "" || path[0] != '/' {
		return "", 0, refuse(observe.BadRequest, "path does not begin with a slash")
	}
	if isPlain(path) {
		return path, 0, nil
	}
	decoded, used, err := decode(path, p)
	if err != nil {
		return "", 0, err
	}
	read, err := checkReadings(decoded, p)
	if err != nil {
		return "", 0, err
	}
	used |= read
	clean, dots, empty := segments(decoded, p&EmptySegments != 0)
	if empty {
		used |= EmptySegments
	}
	if used != 0 && (dots || hidesDots(clean)) {
		return "", 0, refuse(observe.AmbiguousPath, "path with dot segments, whose removal depends on the reader")
	}
	if string(clean) != path {
		return string(clean), used, nil
	}
	return path, used, nil
}

// isPlain is the fast way for nearly all paths: only characters that stand for themselves, and no segment to remove.
func isPlain(path string) bool {
	for i := range len(path) {
		switch b := path[i]; {
		case b == '/':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		case b == '.':
			// A dot segment begins with a dot; names such as ".well-known" take the slow way.
			if path[i-1] == '/' {
				return false
			}
		case pathOctets[b] != literal:
			return false
		}
	}
	return true
}

// decode resolves percent-encodings of unreserved characters (RFC 3986, Section 6.2.2.2), writes the remaining ones in upper case
// and encodes raw characters that a path cannot have, so that each has one spelling.
func decode(path string, p Profile) (out []byte, used Profile, err error) {
	out = make([]byte, 0, len(path)+16)
	for i := 0; i < len(path); i++ {
		b := path[i]
		encoded := b == '%'
		if encoded {
			var ok bool
			if b, ok = unhex(path, i+1); !ok {
				return nil, 0, refuse(observe.BadRequest, "broken percent-encoding in path")
			}
			i += 2
		}
		class := pathOctets[b]
		if class == ambiguous || class == separator && encoded {
			needs := relaxationOf(b, encoded)
			if p&needs == 0 {
				return nil, 0, errTwoWays()
			}
			used |= needs
		}
		switch {
		case class == forbidden && !encoded:
			return nil, 0, refuse(observe.BadRequest, "path with a forbidden character")
		case class != forbidden && class != encodedOnly && !encoded, isUnreserved(b):
			out = append(out, b)
		default:
			out = append(out, '%', upperHex[b>>4], upperHex[b&15])
		}
	}
	return out, used, nil
}

// checkReadings looks at the path as a service sees it that decodes it, or, where the profile allows that, decodes it twice. It
// refuses bytes that are no UTF-8 (overlong forms of "/" and "." among them), and an encoding beyond what is allowed; in the second
// reading also what was not allowed in the first.
func checkReadings(path []byte, p Profile) (used Profile, err error) {
	var room [256]byte // most paths fit
	once, _ := unescape(room[:0], path)
	if !utf8.Valid(once) {
		return 0, refuse(observe.AmbiguousPath, "path is not UTF-8")
	}
	twice, again := unescape(nil, once)
	if !again {
		return 0, nil
	}
	if p&EncodedPercent == 0 {
		return 0, refuse(observe.AmbiguousPath, "path is encoded twice")
	}
	if _, more := unescape(nil, twice); more {
		return 0, refuse(observe.AmbiguousPath, "path is encoded three times")
	}
	if !utf8.Valid(twice) {
		return 0, refuse(observe.AmbiguousPath, "path is not UTF-8 when decoded twice")
	}
	used = EncodedPercent
	for i := 0; i < len(once); i++ {
		b, ok := escape(once, i)
		if !ok {
			continue
		}
		i += 2
		if class := pathOctets[b]; class != ambiguous && class != separator {
			continue
		}
		needs := relaxationOf(b, true)
		if p&needs == 0 {
			return 0, errTwoWays()
		}
		used |= needs
	}
	return used, nil
}

// unescape appends the path with every percent-encoding resolved and says whether there was one; a percent sign that begins none
// stands for itself. It returns the path when there is nothing to do.
func unescape(out, path []byte) (_ []byte, found bool) {
	if bytes.IndexByte(path, '%') < 0 {
		return path, false
	}
	for i := 0; i < len(path); i++ {
		b, ok := escape(path, i)
		if !ok {
			b = path[i]
		} else {
			found = true
			i += 2
		}
		out = append(out, b)
	}
	return out, found
}

// escape is the byte whose percent-encoding begins at that place.
func escape(path []byte, at int) (byte, bool) {
	if path[at] != '%' {
		return 0, false
	}
	return unhex(path, at+1)
}

// segments removes dot segments (RFC 3986, Section 5.2.4) and, unless they are kept, empty segments; those at the beginning in any
// case. It says whether there were dots, and whether it kept an empty one. It works in place: what it writes is never longer than
// what it read.
func segments(path []byte, keepEmpty bool) (clean []byte, dots, empty bool) {
	out := path[:0]
	rest := path
	for len(rest) > 0 {
		end := 1
		for end < len(rest) && rest[end] != '/' {
			end++
		}
		segment, last := rest[1:end], end == len(rest)
		switch {
		case len(segment) == 0 && (!keepEmpty || len(out) == 0):
			// An empty segment in the middle is a repeated slash; at the end it is the trailing slash.
		case string(segment) == ".":
			dots = true
		case string(segment) == "..":
			dots = true
			out = out[:max(bytes.LastIndexByte(out, '/'), 0)]
		default:
			empty = empty || len(segment) == 0 && !last
			out = append(out, rest[:end]...)
			rest = rest[end:]
			continue
		}
		if last {
			out = append(out, '/')
		}
		rest = rest[end:]
	}
	return out, dots, empty
}

// hidesDots looks for dot segments that a reader finds who decodes the path, takes "\" for "/" and drops parameters: in the second
// reading when there is one, in which every separator and every parameter of the first stands as well.
func hidesDots(path []byte) bool {
	once, _ := unescape(nil, path)
	reading, _ := unescape(nil, once)
	for len(reading) > 0 {
		segment, rest := reading, []byte(nil)
		if i := bytes.IndexAny(reading, `/\`); i >= 0 {
			segment, rest = reading[:i], reading[i+1:]
		}
		name, _, hasParameter := bytes.Cut(segment, []byte{';'})
		// Without its parameter a segment may be empty at the end only, where it is the trailing slash.
		if isDots(name) || hasParameter && len(name) == 0 && len(rest) > 0 {
			return true
		}
		reading = rest
	}
	return false
}

func isDots(segment []byte) bool { return string(segment) == "." || string(segment) == ".." }

func errTwoWays() *l7.Error {
	return refuse(observe.AmbiguousPath, "path with a separator, a parameter or a control character that readers take differently")
}

func isUnreserved(b byte) bool {
	return b-'a' < 26 || b-'A' < 26 || b-'0' < 10 || strings.IndexByte("-._~", b) >= 0
}

func isHex(b byte) bool { return b-'0' < 10 || b-'a' < 6 || b-'A' < 6 }

func unhex[S string | []byte](s S, at int) (byte, bool) {
	if at+2 > len(s) || !isHex(s[at]) || !isHex(s[at+1]) {
		return 0, false
	}
	return hexValue(s[at])<<4 | hexValue(s[at+1]), true
}

func hexValue(b byte) byte {
	if b-'0' < 10 {
		return b - '0'
	}
	return b | 0x20 - 'a' + 10
}

const upperHex = "0123456789ABCDEF"

// Classes of a byte in a path, raw or encoded.
const (
	encodedOnly = iota // stands only as a percent-encoding; raw, it is encoded
	literal            // pchar that stands for itself
	separator          // "/"
	forbidden          // raw, it cannot be in a request target at all; encoded, it stays so
	ambiguous          // refused raw and encoded, but for a relaxation
)

var pathOctets = func() (table [256]uint8) {
	for b := range 256 {
		switch {
		case b < ' ', b == 0x7f, b == '\\', b == ';':
			table[b] = ambiguous
		case b == ' ', b == '#', b == '?', b >= 0x80:
			table[b] = forbidden
		case isUnreserved(byte(b)), strings.IndexByte("!$&'()*+,=:@", byte(b)) >= 0:
			table[b] = literal
		}
	}
	table['/'] = separator
	return table
}()
