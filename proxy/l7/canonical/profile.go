package canonical

import (
	"fmt"
	"strings"
)

// Profile is a set of relaxations: what a path may contain although services are known to read it in two ways. The zero value is
// strict and allows none. Each one names a service that needs it; none of them changes what is judged: the canonical path keeps the
// characters as they are, and those bytes are forwarded.
//
// Whatever a profile allows, a raw backslash, controls, "%00", bytes that are no UTF-8 and broken encodings are refused. And a path
// that needs a relaxation has no dot segments, neither plain ones nor such that appear once a reader decodes it, takes "\" for "/"
// or drops parameters: which segments they remove would depend on the reader.
type Profile uint8

// Relaxations.
const (
	// EncodedSlash keeps "%2F" as it is, never as "/": one segment such as "group%2Fproject". A service that decodes before it
	// cuts the path into segments sees two, so that rules by path hold only for services that cut first.
	EncodedSlash Profile = 1 << iota
	// EncodedPercent keeps an encoding of an encoding, such as "%2541", for services that are given whole URLs as a segment. A
	// service that decodes twice sees another path than was judged. What the second decoding shows needs its own relaxation,
	// and a third one is refused.
	EncodedPercent
	// Semicolon keeps ";" and "%3B", each in its spelling, for path parameters such as "/cart;id=1". A service that drops
	// parameters serves "/admin;x" as "/admin", which a rule for "/admin" alone does not see.
	Semicolon
	// EncodedBackslash keeps "%5C" as it is. A service that takes "\" for "/" sees more segments than were judged.
	EncodedBackslash
	// EmptySegments keeps "//" within a path instead of merging it. A service that merges serves "/a//b" as "/a/b", which a rule
	// for "/a/b" does not see. Slashes at the beginning are merged all the same: "//a" could be read as an authority.
	EmptySegments
)

// profileNames are the relaxations as configuration names them, in the order of their bits.
var profileNames = [...]string{"encoded_slash", "encoded_percent", "semicolon", "encoded_backslash", "empty_segments"}

// Names returns the names of all relaxations.
func Names() []string { return append([]string(nil), profileNames[:]...) }

// ParseProfile returns the set of the relaxations with those names; none is strict. An unknown name is an error that says which
// there are.
func ParseProfile(names []string) (Profile, error) {
	var p Profile
	for _, name := range names {
		bit := relaxationNamed(name)
		if bit == 0 {
			return 0, fmt.Errorf("no relaxation %q of paths: there are %s", name, strings.Join(profileNames[:], ", "))
		}
		p |= bit
	}
	return p, nil
}

func relaxationNamed(name string) Profile {
	for i, known := range profileNames {
		if name == known {
			return 1 << i
		}
	}
	return 0
}

// Allows reports that every relaxation in used is in p.
func (p Profile) Allows(used Profile) bool { return used&^p == 0 }

// String returns the names with commas between them, "strict" for none.
func (p Profile) String() string {
	var names []string
	for i, name := range profileNames {
		if p&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "strict"
	}
	return strings.Join(names, ",")
}

// relaxationOf is the one that lets a byte stand in a path; 0 when there is none.
func relaxationOf(b byte, encoded bool) Profile {
	switch {
	case b == ';':
		return Semicolon
	case b == '/' && encoded:
		return EncodedSlash
	case b == '\\' && encoded:
		return EncodedBackslash
	default:
		return 0
	}
}
