package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Entry says that a workload on a node that has every one of the selectors is the SPIFFE ID.
type Entry struct {
	// SPIFFEID is the identity, or a template of it: {unix.path} and {unix.uid} stand for the value of that selector.
	SPIFFEID string `config:"spiffe_id,required"`
	// Selectors are facts as type:key:value, such as unix:uid:1000. postern:self is the postern process of the node.
	Selectors []string `config:"selectors,required"`
	// Node is the SPIFFE ID of the node the entry is for. Default: the authority's own node.
	Node spiffeid.ID `config:"node,unset"`
	// TTL is the life of its SVIDs. Default: the authority's svid_ttl.
	TTL time.Duration `config:"ttl,unset"`
	// Hint tells a workload with several SVIDs which is which.
	Hint string `config:"hint"`
	// Owner is who answers for the identity.
	Owner string `config:"owner"`
	// Purpose is what the identity is for.
	Purpose string `config:"purpose"`
	// DNSNames are put into its certificates.
	DNSNames []string `config:"dns_names"`
}

func (e *Entry) check(k *checker, path string) {
	if e.SPIFFEID != "" {
		e.checkID(k, path+".spiffe_id")
	}
	k.own(path+".node", e.Node)
	k.orZero(path+".ttl", e.TTL, minSVIDTTL, 30*day)
	if e.TTL != 0 && e.TTL < time.Minute && !k.bad[path+".ttl"] {
		k.warn(path+".ttl", WarnShortTTL, "SVIDs that live "+formatDuration(e.TTL)+" do not survive an outage of the authority", "1h is the default")
	}
	seen := map[string]bool{}
	for i, selector := range e.Selectors {
		at := index(path+".selectors", i)
		if err := checkSelector(selector); err != nil && selector != "" {
			k.fail(at, CodeFormat, withText(selector, err), "type:key:value, such as unix:uid:1000")
		}
		if seen[selector] && selector != "" {
			k.fail(at, CodeDuplicate, "the selector stands there twice", "")
		}
		seen[selector] = true
	}
	for i, name := range e.DNSNames {
		if err := checkDNSName(strings.TrimPrefix(name, "*.")); err != nil && name != "" {
			k.fail(index(path+".dns_names", i), CodeFormat, withText(name, err), "")
		}
	}
}

// checkID takes a template for the identity it would make of ordinary values.
func (e *Entry) checkID(k *checker, path string) {
	sample := placeholder.ReplaceAllString(e.SPIFFEID, "x")
	if strings.ContainsAny(sample, "{}") {
		k.fail(path, CodeFormat, fmt.Sprintf("%q: a placeholder is a selector in braces", abbreviate(e.SPIFFEID)), "such as {unix.path} or {unix.uid}")
		return
	}
	id, err := spiffeid.FromString(sample)
	if err != nil {
		k.fail(path, CodeFormat, withText(e.SPIFFEID, err), "such as spiffe://"+k.config.TrustDomain.Name()+"/web")
		return
	}
	k.own(path, id)
}

var placeholder = regexp.MustCompile(`\{[a-z0-9_]+\.[a-z0-9_]+\}`)

func checkSelector(selector string) error {
	if selector == "postern:self" {
		return nil
	}
	kind, rest, _ := strings.Cut(selector, ":")
	key, value, ok := strings.Cut(rest, ":")
	if !ok || !isWord(kind) || !isWord(key) || value == "" {
		return errors.New("not a selector")
	}
	return nil
}
