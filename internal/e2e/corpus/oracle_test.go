package corpus

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// couldBeAdmin tells whether some reader could take the target for /admin, which every open policy denies: one that decodes once or more
// often, takes a backslash for a slash, drops parameters of a segment, ends at NUL, merges slashes, resolves dot segments, or any of these
// after another.
func couldBeAdmin(target string) bool {
	seen := map[string]bool{}
	var look func(string) bool
	look = func(s string) bool {
		if seen[s] || len(seen) > 500 {
			return false
		}
		seen[s] = true
		if s == "/admin" || strings.HasPrefix(s, "/admin/") || s == "admin" || strings.HasPrefix(s, "admin/") {
			return true
		}
		var next []string
		if decoded, err := url.PathUnescape(s); err == nil {
			next = append(next, decoded)
		}
		if before, _, found := strings.Cut(s, "\x00"); found {
			next = append(next, before)
		}
		var bare []string
		for segment := range strings.SplitSeq(s, "/") {
			segment, _, _ = strings.Cut(segment, ";")
			bare = append(bare, segment)
		}
		next = append(next, strings.ReplaceAll(s, `\`, "/"), path.Clean("/"+s), strings.Join(bare, "/"))
		return slices.ContainsFunc(next, look)
	}
	before, _, _ := strings.Cut(target, "?")
	before, _, _ = strings.Cut(before, "#")
	if u, err := url.Parse(before); err == nil && u.Scheme != "" {
		before = u.EscapedPath()
	}
	return look(before)
}

// forbidden says what of a request must never have reached an upstream behind the listener, whichever case it came from.
func forbidden(listener string, rec *record) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	names, p := map[string]int{}, rec.target
	p, _, _ = strings.Cut(p, "?")
	for _, f := range slices.Concat(rec.fields, rec.trailers) {
		name := strings.ToLower(f.name)
		names[name]++
		switch {
		case strings.ContainsAny(f.name, " \t_\x00\r\n\"(),/;<=>?@[\\]{}") || f.name == "" || strings.Contains(f.name[1:], ":"):
			fault("a field name that is none: %q", f.name)
		case strings.ContainsAny(f.value, "\x00\r\n") || f.value != strings.Trim(f.value, " \t"):
			fault("a value with two readings: %q: %q", f.name, f.value)
		case slices.Contains([]string{"connection", "keep-alive", "proxy-connection", "http2-settings", "te", "upgrade"}, name) &&
			!strings.HasPrefix(rec.target, "/ws") && f.name+": "+f.value != "te: trailers" && f.name+": "+f.value != "connection: te": // RFC 9110, section 10.1.4
			fault("a field of one connection: %q: %q", f.name, f.value)
		case strings.Contains(f.name+f.value, "spoofed"):
			fault("what a caller claims reached the upstream: %q: %q", f.name, f.value)
		case strings.Contains(f.name+f.value, "smuggled"):
			fault("a smuggled field: %q: %q", f.name, f.value)
		}
	}
	if strings.Contains(rec.target, "smuggled") {
		fault("a smuggled request: %q", rec.first)
	}
	if strings.ContainsFunc(rec.target, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) || strings.Contains(p, `\`) ||
		!strings.HasPrefix(rec.target, "/") && rec.target != "*" {
		fault("a target that is none: %q", rec.target)
	}
	if rec.host() == "" || strings.ContainsAny(rec.host(), " ,@/<>") {
		fault("not exactly one authority: %q", rec.host())
	}
	if rec.first != "" && !strings.HasSuffix(rec.first, " HTTP/1.1") {
		fault("request line %q", rec.first)
	}
	for _, once := range []string{"host", ":authority", ":path", ":method", ":scheme", "content-length", "transfer-encoding", "x-request-id", "x-forwarded-client-cert"} {
		if names[once] > 1 {
			fault("%d fields %s", names[once], once)
		}
	}
	if len(rec.trailers) > 0 && slices.ContainsFunc(rec.trailers, func(f field) bool {
		return slices.Contains([]string{"content-length", "transfer-encoding", "host", "x-forwarded-client-cert", "x-request-id", "x-role", "authorization", "trailer"}, strings.ToLower(f.name)) ||
			strings.HasPrefix(f.name, ":")
	}) {
		fault("trailers %q", rec.trailers)
	}
	if certs := rec.values("x-forwarded-client-cert"); strings.HasPrefix(listener, mutual) {
		if len(certs) != 1 || !strings.Contains(certs[0], "URI=spiffe://example.test/caller") {
			fault("identity of the caller: %q", certs)
		}
	} else if len(certs) > 0 {
		fault("an identity of a caller without one: %q", certs)
	}
	if strings.HasPrefix(listener, exact) {
		return append(faults, notExact(rec)...)
	}
	if couldBeAdmin(rec.target) && !slices.Contains(adminByNoReader, rec.target) {
		fault("some reader takes %q for /admin", rec.target)
	}
	for _, value := range rec.values("x-role") {
		for part := range strings.SplitSeq(value, ",") {
			if strings.Trim(part, " \t") == "guest" {
				fault("x-role: %q is denied", value)
			}
		}
	}
	if host := strings.ToLower(rec.host()); strings.Contains(host, "internal.") {
		fault("host %q is denied", host)
	}
	if rec.method == "DELETE" {
		fault("DELETE is denied")
	}
	return faults
}

// adminByNoReader are targets that look like /admin to couldBeAdmin's eager readers and are right nevertheless.
var adminByNoReader []string

// notExact says in what a request differs from the only ones that the exact policy allows.
func notExact(rec *record) (faults []string) {
	p, _, _ := strings.Cut(rec.target, "?")
	name, below := strings.CutPrefix(p, "/ok/")
	if p != "/ok" && (!below || name == "" || strings.Contains(name, "/")) {
		faults = append(faults, fmt.Sprintf("path %q is not allowed", p))
	}
	if rec.host() != app {
		faults = append(faults, fmt.Sprintf("host %q is not allowed", rec.host()))
	}
	if rec.method != "GET" && rec.method != "POST" {
		faults = append(faults, fmt.Sprintf("method %q is not allowed", rec.method))
	}
	if !slices.Contains(rec.values("x-tier"), "gold") {
		faults = append(faults, fmt.Sprintf("x-tier %q is not allowed", rec.values("x-tier")))
	}
	return faults
}

// differs says in what the request at the upstream is another one than the record of what was judged.
func differs(rec *record, l *line) (faults []string) {
	p, _, _ := strings.Cut(rec.target, "?")
	if rec.method != l.Method || rec.name() != l.Host || p != l.Path || l.Effect != "allow" {
		faults = append(faults, fmt.Sprintf("the upstream got %s %s %s, the access log has %s of %s %s %s", rec.method, rec.host(), p, l.Effect, l.Method, l.Host, l.Path))
	}
	return faults
}

// theClient in a field that is wanted stands for the address of the client.
const theClient = "<client>"

// unlike says in what a request is not the one wanted.
func (s *seen) unlike(rec *record, source string) (faults []string) {
	address, _, _ := strings.Cut(source, ":")
	wanted := slices.Clone(s.fields)
	for i := range wanted {
		wanted[i] = strings.ReplaceAll(wanted[i], theClient, address)
	}
	if rec.method != s.method || rec.host() != s.host || rec.target != s.target || rec.body != s.body {
		faults = append(faults, fmt.Sprintf("the upstream got %s %s %q with body %q, want %s %s %q with body %q",
			rec.method, rec.host(), rec.target, abbreviate([]byte(rec.body)), s.method, s.host, s.target, abbreviate([]byte(s.body))))
	}
	return append(append(faults, unlikeFields(rec.fields, wanted)...), unlikeFields(rec.trailers, s.trailers)...)
}

func unlikeFields(have []field, wanted []string) (faults []string) {
	values := map[string][]string{}
	for _, w := range wanted {
		if name, none := strings.CutPrefix(w, "!"); none {
			values[name] = nil
			continue
		}
		name, value, _ := strings.Cut(w, ":")
		values[name] = append(values[name], strings.TrimPrefix(value, " "))
	}
	for name, want := range values {
		if got := valuesOf(have, name); !slices.Equal(got, want) {
			faults = append(faults, fmt.Sprintf("the upstream got %s %q, want %q", name, got, want))
		}
	}
	return faults
}
