package registration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds of an entry. They keep the largest below a quarter of what the store takes as one value.
const (
	MinTTL       = 10 * time.Second    // below it, renewal at half of life cannot keep up
	MaxTTL       = 30 * 24 * time.Hour // the authority's own limit is usually lower, and holds too
	MaxSelectors = 32
	MaxDNSNames  = 32
	maxLabel     = 256 // bytes of hint and owner
	maxPurpose   = 1024
)

// Problem is one thing wrong with an entry.
type Problem struct {
	Field   string // as in JSON: "selectors[1]"
	Message string
}

// InvalidError lists everything wrong with an entry.
type InvalidError struct{ Problems []Problem }

// Error names all problems with their fields.
func (e *InvalidError) Error() string {
	all := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		all[i] = p.Field + ": " + p.Message
	}
	return "invalid entry: " + strings.Join(all, "; ")
}

// Validate returns an *InvalidError with all that keeps the entry from being registered in the trust domain, or nil. ID, Created and
// Revision are the registry's and are not looked at; the order of the selectors does not matter.
func (e Entry) Validate(td spiffeid.TrustDomain) error {
	v := &validator{td: td}
	v.spiffeID(e)
	v.node(e.Node)
	v.selectors(e.Selectors)
	if e.TTL != 0 && (e.TTL < MinTTL || e.TTL > MaxTTL) {
		v.add("ttl", "%s is out of range: 0 for the authority's default, or %s to %s", e.TTL, MinTTL, MaxTTL)
	}
	v.dnsNames(e.DNSNames)
	if e.Origin != "" && e.Origin != OriginConfig {
		v.add("origin", "%q is neither empty nor %q", e.Origin, OriginConfig)
	}
	v.text("hint", e.Hint, maxLabel)
	v.text("owner", e.Owner, maxLabel)
	v.text("purpose", e.Purpose, maxPurpose)
	if len(v.problems) > 0 {
		return &InvalidError{Problems: v.problems}
	}
	return nil
}

// validator gathers problems.
type validator struct {
	td       spiffeid.TrustDomain
	problems []Problem
}

func (v *validator) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) spiffeID(e Entry) {
	t, err := ParseTemplate(e.SPIFFEID)
	switch {
	case err != nil:
		v.add("spiffe_id", "%s", err)
	case t.TrustDomain() != v.td:
		v.add("spiffe_id", "trust domain %q is not this authority's, %q", t.TrustDomain(), v.td)
	case !t.Fixed() && slices.Contains(e.Selectors, SelfSelector):
		v.add("spiffe_id", "the postern process has no selectors to put into a template")
	}
}

func (v *validator) node(node string) {
	if node == "" {
		return
	}
	t, err := ParseTemplate(node)
	switch {
	case err != nil:
		v.add("node", "%s", err)
	case !t.Fixed():
		v.add("node", "%q is a template, want the SPIFFE ID of one node", node)
	case t.TrustDomain() != v.td:
		v.add("node", "trust domain %q is not this authority's, %q", t.TrustDomain(), v.td)
	}
}

func (v *validator) selectors(selectors []string) {
	if len(selectors) == 0 {
		v.add("selectors", "none: an entry needs at least one, as unix:uid:1000")
	}
	if len(selectors) > MaxSelectors {
		v.add("selectors", "%d of them, at most %d", len(selectors), MaxSelectors)
		return
	}
	seen := make(map[string]string)
	for i, s := range selectors {
		field := fmt.Sprintf("selectors[%d]", i)
		sel, err := ParseSelector(s)
		if err != nil {
			v.add(field, "%s", err)
			continue
		}
		if s == SelfSelector && len(selectors) > 1 {
			v.add(field, "%s stands alone: no workload has it", SelfSelector)
		}
		name := sel.Type + "." + sel.Key
		if other, twice := seen[name]; twice && other != s && slices.Contains(placeholders, name) {
			v.add(field, "contradicts %q: no workload has both", other)
		}
		seen[name] = s
	}
}

func (v *validator) dnsNames(names []string) {
	if len(names) > MaxDNSNames {
		v.add("dns_names", "%d of them, at most %d", len(names), MaxDNSNames)
		return
	}
	for i, name := range names {
		if !isDNSName(name) {
			v.add(fmt.Sprintf("dns_names[%d]", i), "%q is no host name in lower case", name)
		}
	}
}

// isDNSName says whether name can stand in a certificate as DNS name: RFC 5280, Section 4.2.1.6; RFC 1123, Section 2.1. No wildcards:
// they would speak for hosts that the entry does not name.
func isDNSName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func (v *validator) text(field, s string, longest int) {
	if len(s) > longest {
		v.add(field, "%d bytes, at most %d", len(s), longest)
	} else if err := checkPrintable(s); err != nil {
		v.add(field, "%s", err)
	}
}
