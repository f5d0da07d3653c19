package registration

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Selector is one fact about a workload: "unix:uid:1000" has the type "unix", the key "uid" and the value "1000".
type Selector struct {
	Type  string
	Key   string // empty for SelfSelector alone
	Value string
}

// String returns the selector as it stands in entries.
func (s Selector) String() string {
	if s.Key == "" {
		return s.Type + ":" + s.Value
	}
	return s.Type + ":" + s.Key + ":" + s.Value
}

// Longest selector and value. A path has up to PATH_MAX bytes.
const maxSelectorValue = 4096

// selectorKeys are the facts that attestors establish, by type.
var selectorKeys = map[string][]string{
	"unix": {"uid", "gid", "supplementary_gid", "user", "group", "path", "sha256"},
}

// ParseSelector reads a selector as an operator may write it. It refuses types and keys that no attestor establishes, and values
// that none could yield: an entry with one would never match, and nobody would learn why.
func ParseSelector(s string) (Selector, error) {
	if s == SelfSelector {
		return Selector{Type: "postern", Value: "self"}, nil
	}
	sel, ok := splitSelector(s)
	if !ok {
		return Selector{}, fmt.Errorf("selector %q is not of the form type:key:value, as unix:uid:1000", s)
	}
	keys, known := selectorKeys[sel.Type]
	if !known {
		return Selector{}, fmt.Errorf("selector %q has the unknown type %q: want unix, or the whole selector %q", s, sel.Type, SelfSelector)
	}
	if !slices.Contains(keys, sel.Key) {
		return Selector{}, fmt.Errorf("selector %q has the unknown key %q: want one of %s", s, sel.Key, strings.Join(keys, ", "))
	}
	if err := checkPrintable(sel.Value); err != nil {
		return Selector{}, fmt.Errorf("selector %q: value %w", s, err)
	}
	if err := checkValue(sel.Type+"."+sel.Key, sel.Value); err != nil {
		return Selector{}, fmt.Errorf("selector %q: %w", s, err)
	}
	return sel, nil
}

// splitSelector takes a selector apart as it comes from an attestor, whatever its value holds.
func splitSelector(s string) (Selector, bool) {
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Selector{}, false
	}
	key, value, ok := strings.Cut(rest, ":")
	return Selector{Type: kind, Key: key, Value: value}, ok && kind != "" && key != "" && value != ""
}

// checkValue says whether a workload can have this value; name is the selector's type and key with a point between.
func checkValue(name, value string) error {
	if value == "" || len(value) > maxSelectorValue {
		return fmt.Errorf("value of %d bytes, want 1 to %d", len(value), maxSelectorValue)
	}
	switch name {
	case "unix.uid", "unix.gid", "unix.supplementary_gid":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != value {
			return fmt.Errorf("value %q is no decimal number of 32 bits without leading zeros", value)
		}
	case "unix.sha256":
		if len(value) != 64 || strings.Trim(value, "0123456789abcdef") != "" {
			return fmt.Errorf("value %q is no SHA-256 in lower-case hex", value)
		}
	case "unix.path":
		if !path.IsAbs(value) || path.Clean(value) != value || value == "/" || strings.ContainsRune(value, 0) {
			return fmt.Errorf("value %q is no clean absolute path of a file", value)
		}
	case "unix.user", "unix.group":
		if strings.ContainsAny(value, ":/\x00\n") { // what the account database cannot hold
			return fmt.Errorf("value %q is no name of an account", value)
		}
	}
	return nil
}

// checkPrintable keeps out of entries what an operator could not see.
func checkPrintable(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("holds the unprintable character %U", r)
		}
	}
	return nil
}
