package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// IDPattern is a SPIFFE ID, or one with globs for whole segments: * is one segment, ** at the end is one or more. The trust domain
// is always written out. The zero value matches nothing.
type IDPattern struct {
	text        string
	trustDomain spiffeid.TrustDomain
	segments    []Segment
	exact       spiffeid.ID // set when there is no glob
}

// ParseIDPattern reads a pattern.
func ParseIDPattern(s string) (IDPattern, error) {
	name, path, err := splitSPIFFEID(s)
	if err != nil {
		return IDPattern{}, err
	}
	trustDomain, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return IDPattern{}, fmt.Errorf("trust domain %q: %w", name, err)
	}
	p := IDPattern{text: s, trustDomain: trustDomain}
	parts := strings.Split(path, "/")
	globs := false
	for i, part := range parts {
		segment, err := parseIDSegment(part, i == len(parts)-1)
		if err != nil {
			return IDPattern{}, err
		}
		globs = globs || segment.Kind != Literal
		p.segments = append(p.segments, segment)
	}
	if globs {
		return p, nil
	}
	p.exact, err = spiffeid.FromSegments(trustDomain, parts...)
	return p, err
}

func splitSPIFFEID(s string) (trustDomain, path string, err error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return "", "", errors.New("a SPIFFE ID begins with spiffe://")
	}
	trustDomain, path, ok = strings.Cut(rest, "/")
	switch {
	case len(s) > maxSPIFFEID:
		return "", "", fmt.Errorf("a SPIFFE ID has at most %d bytes", maxSPIFFEID)
	case strings.Contains(trustDomain, "*"):
		return "", "", errors.New("the trust domain cannot be a glob: write it out")
	case !ok || path == "":
		return "", "", errors.New("the path is missing; /** stands for every identity of the trust domain")
	}
	return trustDomain, path, nil
}

func parseIDSegment(part string, last bool) (Segment, error) {
	switch {
	case part == "*":
		return Segment{Kind: One}, nil
	case part == "**" && last:
		return Segment{Kind: Rest}, nil
	case part == "**":
		return Segment{}, errors.New("** stands for the rest and can only be the last segment")
	case strings.Contains(part, "*"):
		return Segment{}, fmt.Errorf("segment %q: * stands for a whole segment, not for a part of one", part)
	}
	if err := spiffeid.ValidatePathSegment(part); err != nil {
		return Segment{}, fmt.Errorf("segment %q: %w", part, err)
	}
	return Segment{Text: part}, nil
}

// Match reports whether the SPIFFE ID fits. It does not allocate.
func (p IDPattern) Match(id spiffeid.ID) bool {
	if id.IsZero() || id.TrustDomain() != p.trustDomain {
		return false
	}
	return matchSegments(p.segments, id.Path())
}

// Exact returns the one SPIFFE ID that the pattern matches, and false when it has globs.
func (p IDPattern) Exact() (spiffeid.ID, bool) { return p.exact, !p.exact.IsZero() }

// TrustDomain is that of every SPIFFE ID that fits.
func (p IDPattern) TrustDomain() spiffeid.TrustDomain { return p.trustDomain }

// Segments are the parts of the path, for an index. The caller does not change them.
func (p IDPattern) Segments() []Segment { return p.segments }

// IsZero reports that there is no pattern.
func (p IDPattern) IsZero() bool { return p.text == "" }

// String is the pattern as it was written.
func (p IDPattern) String() string { return p.text }

// MarshalText returns String.
func (p IDPattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText is ParseIDPattern.
func (p *IDPattern) UnmarshalText(text []byte) error {
	parsed, err := ParseIDPattern(string(text))
	*p = parsed
	return err
}

// PrincipalPattern is a pattern of SPIFFE IDs, or anonymous: a caller that proved nothing. The zero value matches nobody.
type PrincipalPattern struct {
	anonymous bool
	id        IDPattern
}

// Anonymous is how a policy writes a caller that proved nothing.
const Anonymous = "anonymous"

// ParsePrincipalPattern reads a pattern of SPIFFE IDs, or anonymous.
func ParsePrincipalPattern(s string) (PrincipalPattern, error) {
	if s == Anonymous {
		return PrincipalPattern{anonymous: true}, nil
	}
	if !strings.Contains(s, "://") {
		return PrincipalPattern{}, fmt.Errorf("a caller is a SPIFFE ID, a pattern of them that begins with spiffe://, or %s", Anonymous)
	}
	id, err := ParseIDPattern(s)
	return PrincipalPattern{id: id}, err
}

// Anonymous reports that the pattern means callers that proved nothing, and only those.
func (p PrincipalPattern) Anonymous() bool { return p.anonymous }

// ID is the pattern of SPIFFE IDs; zero when the pattern is anonymous.
func (p PrincipalPattern) ID() IDPattern { return p.id }

// Match reports whether a caller fits; the zero SPIFFE ID is a caller that proved nothing.
func (p PrincipalPattern) Match(id spiffeid.ID) bool {
	if id.IsZero() {
		return p.anonymous
	}
	return p.id.Match(id)
}

// String is the pattern as it was written.
func (p PrincipalPattern) String() string {
	if p.anonymous {
		return Anonymous
	}
	return p.id.String()
}

// MarshalText returns String.
func (p PrincipalPattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePrincipalPattern.
func (p *PrincipalPattern) UnmarshalText(text []byte) error {
	parsed, err := ParsePrincipalPattern(string(text))
	*p = parsed
	return err
}

// maxSPIFFEID is the length every implementation must take: SPIFFE-ID, Section 2.3.
const maxSPIFFEID = 2048
