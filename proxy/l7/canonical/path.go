package canonical

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/postern-proxy/postern/internal/observe"
)

// Path returns the canonical form of a path: the argument itself when it already has it. A path that does not begin with "/" or
// has a broken percent-encoding is refused with reason BadRequest, one that two readers could take for two resources with
// AmbiguousPath.
func Path(path string) (string, error) {
	if path == "" || path[0] != '/' {
		return "", refuse(observe.BadRequest, "path does not begin with a slash")
	}
	if isPlain(path) {
		return path, nil
	}
	decoded, err := decode(path)
	if err != nil {
		return "", err
	}
	if err := checkDecoded(decoded); err != nil {
		return "", err
	}
	if clean := segments(decoded); string(clean) != path {
		return string(clean), nil
	}
	return path, nil
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
func decode(path string) ([]byte, error) {
	out := make([]byte, 0, len(path)+16)
	for i := 0; i < len(path); i++ {
		b := path[i]
		encoded := b == '%'
		if encoded {
			var ok bool
			if b, ok = unhex(path, i+1); !ok {
				return nil, refuse(observe.BadRequest, "broken percent-encoding in path")
			}
			i += 2
		}
		switch class := pathOctets[b]; {
		case class == ambiguous, class == separator && encoded:
			return nil, refuse(observe.AmbiguousPath, "path with a separator, a parameter or a control character that readers take differently")
		case class == forbidden && !encoded:
			return nil, refuse(observe.BadRequest, "path with a forbidden character")
		case class == separator, class == literal && (!encoded || isUnreserved(b)):
			out = append(out, b)
		default:
			out = append(out, '%', upperHex[b>>4], upperHex[b&15])
		}
	}
	return out, nil
}

// checkDecoded refuses what only shows once the path is in one spelling: an encoding of an encoding, and bytes above ASCII that
// are no UTF-8 (overlong forms of "/" and "." among them).
func checkDecoded(path []byte) error {
	var raw []byte
	for i := 0; i < len(path); i++ {
		b := path[i]
		if b == '%' {
			b, _ = unhex(path, i+1)
			i += 2
			if b == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
				return refuse(observe.AmbiguousPath, "path is encoded twice")
			}
		}
		raw = append(raw, b)
	}
	if !utf8.Valid(raw) {
		return refuse(observe.AmbiguousPath, "path is not UTF-8")
	}
	return nil
}

// segments removes empty segments and dot segments (RFC 3986, Section 5.2.4). It works in place: what it writes is never longer
// than what it read.
func segments(path []byte) []byte {
	out := path[:0]
	rest := path
	for len(rest) > 0 {
		end := 1
		for end < len(rest) && rest[end] != '/' {
			end++
		}
		segment, last := rest[1:end], end == len(rest)
		switch {
		case len(segment) == 0:
			// An empty segment in the middle is a repeated slash; at the end it is the trailing slash.
		case string(segment) == ".":
		case string(segment) == "..":
			out = out[:max(bytes.LastIndexByte(out, '/'), 0)]
		default:
			out = append(out, rest[:end]...)
			rest = rest[end:]
			continue
		}
		if last {
			out = append(out, '/')
		}
		rest = rest[end:]
	}
	return out
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
	ambiguous          // refused raw and encoded
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
