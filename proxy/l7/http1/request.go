package http1

import (
	"bytes"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// ParseRequestHead reads the request head at the beginning of buf into r and returns its length in bytes, 0 when it is not
// complete. The head is copied into the request's Header; nothing else is allocated. An error says which status it deserves
// (400, 414, 417, 431, 501, 505); the connection is then at an end, since nobody knows where the next message begins.
func ParseRequestHead(buf []byte, r *l7.Request, limits Limits) (int, *l7.Error) {
	limits = limits.withDefaults()
	length, _, ok := scanSection(buf, 0, false)
	if !ok {
		return 0, errLineEnd()
	}
	if length == 0 {
		return 0, limits.checkPartial(buf)
	}
	return length, parseRequest(buf[:length], r, &limits)
}

// checkPartial refuses a head that is too large already.
func (l *Limits) checkPartial(buf []byte) *l7.Error {
	// 64 bytes leave room for the method and the version.
	if len(buf) > l.MaxURI+64 && bytes.IndexByte(buf, '\n') < 0 {
		return l7.NewError(observe.URITooLong, "request target too long")
	}
	if len(buf) >= l.MaxHead {
		return l7.NewError(observe.HeadTooLarge, "head too large")
	}
	return nil
}

// parseRequest reads a whole head, its empty line included.
func parseRequest(head []byte, r *l7.Request, limits *Limits) *l7.Error {
	r.Reset()
	raw := r.Header.Load(head)
	lineEnd := bytes.IndexByte(raw, '\n') - 1
	if err := parseRequestLine(r, r.Header.View(0, lineEnd), limits); err != nil {
		return err
	}
	if len(raw) > limits.MaxHead {
		return l7.NewError(observe.HeadTooLarge, "head too large")
	}
	var f framing
	rules := fieldRules{max: limits.MaxFields}
	if err := parseFields(raw, lineEnd+2, &r.Header, &f, rules); err != nil {
		return err
	}
	if err := takeHost(r, &f); err != nil {
		return err
	}
	var err *l7.Error
	if r.ContentLength, _, err = f.length(r.Protocol); err != nil {
		return err
	}
	if err := takeExpect(r, &f); err != nil {
		return err
	}
	return takeHopByHop(r)
}

// parseRequestLine reads method SP request-target SP HTTP-version (RFC 9112, Section 3): single spaces, nothing else.
func parseRequestLine(r *l7.Request, line string, limits *Limits) *l7.Error {
	method, rest, found := strings.Cut(line, " ")
	if !found || !l7.IsToken(method) || len(method) > maxMethod {
		return l7.NewError(observe.BadRequest, "malformed request line")
	}
	target, version, found := strings.Cut(rest, " ")
	if len(target) > limits.MaxURI {
		return l7.NewError(observe.URITooLong, "request target too long")
	}
	if !found {
		return l7.NewError(observe.BadRequest, "malformed request line")
	}
	protocol, err := parseVersion(version)
	if err != nil {
		return err
	}
	r.Method, r.Protocol = internMethod(method), protocol
	return parseTarget(r, target)
}

// maxMethod is more than any registered method has.
const maxMethod = 32

// internMethod returns a constant for the usual methods, so that it outlives the message.
func internMethod(method string) string {
	switch method {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "HEAD":
		return "HEAD"
	case "DELETE":
		return "DELETE"
	case "PATCH":
		return "PATCH"
	case "OPTIONS":
		return "OPTIONS"
	default:
		return strings.Clone(method)
	}
}

// parseVersion knows two versions; what has the shape of a version but is another one deserves 505.
func parseVersion(version string) (l7.Protocol, *l7.Error) {
	switch {
	case version == "HTTP/1.1":
		return l7.HTTP11, nil
	case version == "HTTP/1.0":
		return l7.HTTP10, nil
	case len(version) == 8 && version[:5] == "HTTP/" && version[5]-'0' < 10 && version[6] == '.' && version[7]-'0' < 10:
		return 0, l7.NewError(observe.UnsupportedVersion, "neither HTTP/1.0 nor HTTP/1.1")
	default:
		return 0, l7.NewError(observe.BadRequest, "malformed protocol version")
	}
}

// parseTarget tells the four forms of RFC 9112, Section 3.2 apart. What a path may contain is decided by l7/canonical; here
// nothing passes that could be taken for the end of the target, or for a fragment.
func parseTarget(r *l7.Request, target string) *l7.Error {
	for i := range len(target) {
		if b := target[i]; b <= ' ' || b >= 0x7f || b == '#' {
			return l7.NewError(observe.BadRequest, "request target with a forbidden character")
		}
	}
	switch {
	case target == "":
		return l7.NewError(observe.BadRequest, "empty request target")
	case r.Method == "CONNECT":
		r.Authority = target
		return nil
	case target[0] == '/':
		r.Path, r.RawQuery, _ = strings.Cut(target, "?")
		return nil
	case target == "*":
		if r.Method != "OPTIONS" {
			return l7.NewError(observe.BadRequest, `"*" is a target of OPTIONS only`)
		}
		r.Path = target
		return nil
	default:
		return parseAbsolute(r, target)
	}
}

// parseAbsolute reads scheme "://" authority path ["?" query].
func parseAbsolute(r *l7.Request, target string) *l7.Error {
	scheme, rest, found := strings.Cut(target, "://")
	switch {
	case found && strings.EqualFold(scheme, "http"):
		r.Scheme = "http"
	case found && strings.EqualFold(scheme, "https"):
		r.Scheme = "https"
	default:
		return l7.NewError(observe.BadRequest, "request target is neither a path nor a URL")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	r.Authority = rest[:end]
	if r.Authority == "" || strings.IndexByte(r.Authority, '@') >= 0 {
		return l7.NewError(observe.BadRequest, "request target without host, or with user information")
	}
	r.Path, r.RawQuery, _ = strings.Cut(rest[end:], "?")
	if r.Path != "" {
		return nil
	}
	r.Path = "/"
	if r.Method == "OPTIONS" && r.RawQuery == "" {
		r.Path = "*" // RFC 9112, Section 3.2.4
	}
	return nil
}

// takeHost: exactly one Host in HTTP/1.1, and no other host than the one in the request target (RFC 9112, Section 3.2 and 3.2.2).
func takeHost(r *l7.Request, f *framing) *l7.Error {
	switch {
	case f.hosts > 1:
		return l7.NewError(observe.BadRequest, "repeated Host")
	case f.hosts == 0 && r.Protocol == l7.HTTP11:
		return l7.NewError(observe.BadRequest, "Host is missing")
	case f.hosts == 0:
		return nil
	case f.host == "":
		return l7.NewError(observe.BadRequest, "Host is empty")
	case !isHost(f.host):
		return l7.NewError(observe.BadRequest, "Host with a forbidden character")
	case r.Authority != "" && !strings.EqualFold(r.Authority, f.host):
		return l7.NewError(observe.BadRequest, "Host differs from the request target")
	}
	r.Authority = f.host
	return nil
}

// isHost keeps out what no host has and what could end it; package canonical looks at the rest.
func isHost(host string) bool {
	for i := range len(host) {
		switch b := host[i]; {
		case b <= ' ', b >= 0x7f, b == ',', b == '@', b == '/', b == '?', b == '#', b == '\\':
			return false
		}
	}
	return true
}

// takeExpect: 100-continue is the only expectation there is (RFC 9110, Section 10.1.1); HTTP/1.0 has none.
func takeExpect(r *l7.Request, f *framing) *l7.Error {
	if f.expects == 0 || r.Protocol == l7.HTTP10 {
		return nil
	}
	if f.expects > 1 || !strings.EqualFold(f.expect, "100-continue") {
		err := l7.NewError(observe.BadRequest, "unknown expectation")
		err.Status = 417
		return err
	}
	r.ExpectContinue = r.ContentLength != 0
	return nil
}

// takeHopByHop reads what concerns this connection and drops it.
func takeHopByHop(r *l7.Request) *l7.Error {
	hop, err := l7.StripHopByHop(&r.Header)
	if err != nil {
		return asError(err)
	}
	r.AcceptsTrailers = hop.Trailers
	r.Close = hop.Close || r.Protocol == l7.HTTP10 && !hop.KeepAlive
	if hop.Upgrade == "" || r.Protocol == l7.HTTP10 {
		return nil
	}
	if r.ContentLength != 0 {
		return l7.NewError(observe.BadRequest, "upgrade of a request with a body")
	}
	// RFC 6455, Section 4.1: "The method of the request MUST be GET"; on HTTP/2 it would become another one.
	if hop.Upgrade == "websocket" && r.Method != "GET" {
		return l7.NewError(observe.BadRequest, "websocket is asked for with a method other than GET")
	}
	r.Upgrade = hop.Upgrade
	return nil
}

func errLineEnd() *l7.Error {
	return l7.NewError(observe.BadRequest, "line does not end in CR LF, or the first line is empty")
}
