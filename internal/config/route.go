package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Route leads the requests that match to a cluster.
type Route struct {
	// Name is unique in its listener: in logs and metrics. Default: route and its place, such as route-0.
	Name string `config:"name,unset"`
	// Match says which requests are meant. Empty: every request.
	Match Match `config:"match"`
	// Cluster is where they go.
	Cluster string `config:"cluster,required"`
	// Timeout bounds a request from its head to the end of the response. 0: no bound beside the cluster's response_timeout.
	Timeout time.Duration `config:"timeout"`
	// AllowUpgrade lists the protocols to which a connection may be upgraded: websocket.
	AllowUpgrade []Upgrade `config:"allow_upgrade"`
	// RetryOn lists the answers, 502, 503 and 504, to which an idempotent request without body is sent again, within the cluster's
	// retries.
	RetryOn []RetryStatus `config:"retry_on"`
	// Relax lists forms of a path that are refused because readers take them differently, and that the service behind this route
	// needs: encoded_slash (%2F), encoded_percent (%25 before two digits), semicolon (;), encoded_backslash (%5C),
	// empty_segments (//). They are judged and forwarded as they came.
	Relax []PathForm `config:"relax"`
}

// RetryStatus is an answer that may be tried again.
type RetryStatus string

func (RetryStatus) values() []string { return []string{"502", "503", "504"} }

// PathForm is a form of a path that is refused unless a route takes it; package canonical has the same names.
type PathForm string

func (PathForm) values() []string {
	return []string{"encoded_slash", "encoded_percent", "semicolon", "encoded_backslash", "empty_segments"}
}

// Match is what a request must have; every key that is there must hold.
type Match struct {
	// Hosts are names without port; a leading *. stands for one or more labels. One of them must fit.
	Hosts []HostPattern `config:"hosts"`
	// Path is the exact path, in canonical form, without query.
	Path string `config:"path"`
	// PathPrefix is the beginning of the path by whole segments: /v1 matches /v1 and /v1/x, not /v1x. A final slash says nothing.
	PathPrefix string `config:"path_prefix"`
	// Methods are upper-case HTTP methods. One of them must fit.
	Methods []string `config:"methods"`
	// Headers are names and the exact value that one field of that name must have.
	Headers map[string]string `config:"headers"`
}

// Upgrade is a protocol to which an HTTP/1.1 connection can be upgraded.
type Upgrade string

// UpgradeWebSocket is the protocol of RFC 6455.
const UpgradeWebSocket Upgrade = "websocket"

func (Upgrade) values() []string { return []string{string(UpgradeWebSocket)} }

func (r *Route) check(k *checker, path string) {
	k.clusterRef(path+".cluster", r.Cluster)
	k.orZero(path+".timeout", r.Timeout, time.Millisecond, day)
	twice(k, path+".allow_upgrade", r.AllowUpgrade)
	twice(k, path+".retry_on", r.RetryOn)
	twice(k, path+".relax", r.Relax)
	r.Match.check(k, path+".match")
}

// twice checks that a list of values says nothing twice.
func twice[T ~string](k *checker, path string, list []T) {
	for i, value := range list {
		if slices.Contains(list[:i], value) {
			k.fail(index(path, i), CodeDuplicate, fmt.Sprintf("%q stands there twice", abbreviate(string(value))), "remove one of them")
		}
	}
}

func (m *Match) check(k *checker, path string) {
	if m.Path != "" && m.PathPrefix != "" {
		k.fail(path+".path_prefix", CodeConflict, "path and path_prefix exclude each other", "keep one of them")
	}
	k.canonicalPath(path+".path", m.Path)
	k.canonicalPath(path+".path_prefix", m.PathPrefix)
	k.methods(path+".methods", m.Methods)
	k.headers(path+".headers", m.Headers)
	unique(k, path+".hosts", m.Hosts)
}

// key is equal for matches that take the same requests.
func (m *Match) key() string {
	lists := [][]string{{m.Path, strings.TrimRight(m.PathPrefix, "/")}, nil, slices.Sorted(slices.Values(m.Methods)), nil}
	for _, host := range m.Hosts {
		lists[1] = append(lists[1], host.String())
	}
	slices.Sort(lists[1])
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		lists[3] = append(lists[3], name, m.Headers[name])
	}
	return fmt.Sprintf("%q", lists)
}

func (k *checker) canonicalPath(path, value string) {
	if value == "" {
		return
	}
	hint := ""
	if strings.ContainsAny(value, "{}") {
		hint = "a route's path has no parameters; path_prefix matches everything below"
	}
	if err := checkCanonicalPath(value); err != nil {
		k.fail(path, CodePathTemplate, withText(value, err), hint)
	}
}
