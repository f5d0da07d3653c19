package config

import (
	"errors"
	"net/netip"
	"strings"
)

// HostPattern is a host name in lower case, an IP address, or *. and a name: one or more labels in front of it. The zero value
// matches nothing.
type HostPattern struct {
	text   string
	suffix string // of a wildcard, with the leading dot
}

// ParseHostPattern reads a pattern. Case and a final dot are as if they had been written canonically.
func ParseHostPattern(s string) (HostPattern, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")); err == nil && ip.Zone() == "" {
		return HostPattern{text: hostOfIP(ip)}, nil
	}
	if strings.Contains(name, ":") {
		return HostPattern{}, errors.New("a host is written without port")
	}
	base, wildcard := strings.CutPrefix(name, "*.")
	if strings.Contains(base, "*") {
		return HostPattern{}, errors.New("* can only be the whole first label, as in *.example.org")
	}
	if err := checkDNSName(base); err != nil {
		return HostPattern{}, err
	}
	p := HostPattern{text: name}
	if wildcard {
		p.suffix = "." + base
	}
	return p, nil
}

// hostOfIP is the form that an IP address has in a canonical authority: RFC 3986, Section 3.2.2.
func hostOfIP(ip netip.Addr) string {
	if ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// Match reports whether the canonical host (lower case, no final dot, no port) fits. It does not allocate.
func (p HostPattern) Match(host string) bool {
	if p.suffix != "" {
		return len(host) > len(p.suffix) && strings.HasSuffix(host, p.suffix)
	}
	return p.text != "" && host == p.text
}

// Wildcard returns the part of the name after the star, with its leading dot, and false when the pattern is one exact host.
func (p HostPattern) Wildcard() (suffix string, ok bool) { return p.suffix, p.suffix != "" }

// IsZero reports that there is no pattern.
func (p HostPattern) IsZero() bool { return p.text == "" }

// String is the pattern in canonical form.
func (p HostPattern) String() string { return p.text }

// MarshalText returns String.
func (p HostPattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText is ParseHostPattern.
func (p *HostPattern) UnmarshalText(text []byte) error {
	parsed, err := ParseHostPattern(string(text))
	*p = parsed
	return err
}
