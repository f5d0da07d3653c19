package http1

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/postern-proxy/postern/proxy/l7"
)

// Another reader of HTTP/1.1, to compare the engine with: slow, without any of its code, and as near to the grammar of RFC 9110 and
// RFC 9112 as regular expressions are. Where postern is stricter than the RFCs, the rule stands here a second time, in other words.

// referenceVerdict is what the reference thinks of some bytes.
type referenceVerdict string

const (
	wants   referenceVerdict = "wants more"
	accepts referenceVerdict = "accepts"
	refuses referenceVerdict = "refuses"
)

// referenceField is a field line that is passed on; the name is in lower case.
type referenceField struct{ name, value string }

// referenceMessage is what a head says.
type referenceMessage struct {
	method, scheme, authority, path, query string
	status                                 int
	phrase                                 string
	minor                                  string // version
	fields                                 []referenceField
	kind                                   bodyKind
	length                                 int64 // -1 for unknown
	close, expect                          bool
	upgrade                                string
}

// Terminals of RFC 9110, Section 5.6 and 5.5, in Latin-1, where one character is one byte.
const (
	tokenPattern = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
	valuePattern = "(?:[!-~\u0080-\u00ff](?:[\t -~\u0080-\u00ff]*[!-~\u0080-\u00ff])?)?"
)

var (
	referenceToken    = regexp.MustCompile("^" + tokenPattern + "$")
	referenceFieldPat = regexp.MustCompile("^(" + tokenPattern + "):[ \t]*(" + valuePattern + ")[ \t]*$")
	referenceRequest  = regexp.MustCompile("^(" + tokenPattern + ") ([!-~]+) HTTP/1\\.([01])$")
	referenceStatus   = regexp.MustCompile("^HTTP/1\\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\u0080-\u00ff]*))?$")
	referenceOrigin   = regexp.MustCompile(`^(/[^?#]*)(?:\?([^#]*))?$`)
	referenceAbsolute = regexp.MustCompile(`^((?i:https?))://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?$`)
	referenceHost     = regexp.MustCompile(`^[!-~]+$`)
	referenceDigits   = regexp.MustCompile(`^[0-9]{1,18}$`)
	referenceProtocol = regexp.MustCompile("^" + tokenPattern + "(?:/" + tokenPattern + ")?$")
	referenceChunk    = regexp.MustCompile("^([0-9A-Fa-f]{1,15})(?:;[\t -~\u0080-\u00ff]*)?$")
)

func latin1(raw string) string {
	runes := make([]rune, len(raw))
	for i := range len(raw) {
		runes[i] = rune(raw[i])
	}
	return string(runes)
}

func bytesOf(latin string) string {
	var out []byte
	for _, r := range latin {
		out = append(out, byte(r))
	}
	return string(out)
}

func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}, s)
}

// referenceLines cuts a section at CR LF up to its empty line. A line feed without its CR is refused, wherever it stands.
func referenceLines(raw string) (lines []string, length int, verdict referenceVerdict) {
	for {
		line, rest, found := strings.Cut(raw, "\n")
		switch {
		case !found:
			return nil, 0, wants
		case !strings.HasSuffix(line, "\r"):
			return nil, 0, refuses
		}
		length += len(line) + 1
		if line == "\r" {
			return lines, length, accepts
		}
		lines, raw = append(lines, latin1(strings.TrimSuffix(line, "\r"))), rest
	}
}

// referenceFields reads field lines; those with underscores in their names only where they may be.
func referenceFields(lines []string, underscores bool) (fields []referenceField, ok bool) {
	for _, line := range lines {
		parts := referenceFieldPat.FindStringSubmatch(line)
		if parts == nil || !underscores && strings.Contains(parts[1], "_") {
			return nil, false
		}
		fields = append(fields, referenceField{asciiLower(parts[1]), bytesOf(parts[2])})
	}
	return fields, len(lines) <= 100
}

func valuesOf(fields []referenceField, name string) (values []string) {
	for _, f := range fields {
		if f.name == name {
			values = append(values, f.value)
		}
	}
	return values
}

// readRequestHead is the reference for ParseRequestHead.
func readRequestHead(raw string) (m referenceMessage, length int, verdict referenceVerdict) {
	lines, length, verdict := referenceLines(raw)
	switch {
	case verdict == wants && (len(raw) >= 64<<10 || len(raw) > 16<<10+64 && !strings.Contains(raw, "\n")):
		return m, 0, refuses
	case verdict != accepts:
		return m, 0, verdict
	case len(lines) == 0 || length > 64<<10 || !m.readRequestLine(lines[0]):
		return m, 0, refuses
	}
	fields, ok := referenceFields(lines[1:], false)
	if !ok || !m.readHost(fields) || !m.readLength(fields) || !m.readHop(fields) {
		return m, 0, refuses
	}
	if expect := valuesOf(fields, "expect"); len(expect) > 0 && m.minor == "1" {
		if len(expect) > 1 || asciiLower(expect[0]) != "100-continue" {
			return m, 0, refuses
		}
		m.expect = m.length != 0
	}
	if m.minor == "0" {
		m.upgrade = "" // RFC 9110, Section 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"
	}
	if m.upgrade != "" && m.length != 0 || m.upgrade == "websocket" && m.method != "GET" {
		return m, 0, refuses
	}
	return m, length, accepts
}

func (m *referenceMessage) readRequestLine(line string) bool {
	parts := referenceRequest.FindStringSubmatch(line)
	if parts == nil || len(parts[1]) > 32 || len(parts[2]) > 16<<10 {
		return false
	}
	m.method, m.minor = parts[1], parts[3]
	target := parts[2]
	origin, absolute := referenceOrigin.FindStringSubmatch(target), referenceAbsolute.FindStringSubmatch(target)
	switch {
	case m.method == "CONNECT":
		m.authority = target
		return !strings.Contains(target, "#")
	case origin != nil:
		m.path, m.query = origin[1], origin[2]
		return true
	case target == "*":
		m.path = "*"
		return m.method == "OPTIONS"
	case absolute != nil:
		m.scheme, m.authority, m.path, m.query = asciiLower(absolute[1]), absolute[2], absolute[3], absolute[4]
		if m.path == "" && m.query == "" && m.method == "OPTIONS" {
			m.path = "*"
		} else if m.path == "" {
			m.path = "/"
		}
		return true
	default:
		return false
	}
}

func (m *referenceMessage) readHost(fields []referenceField) bool {
	hosts := valuesOf(fields, "host")
	if len(hosts) == 0 {
		return m.minor == "0"
	}
	if len(hosts) > 1 || !referenceHost.MatchString(hosts[0]) || strings.ContainsAny(hosts[0], `,@/?#\`) {
		return false
	}
	if m.authority != "" && asciiLower(m.authority) != asciiLower(hosts[0]) {
		return false
	}
	m.authority = hosts[0]
	return true
}

// readLength: of a request, 0 is also that none was given.
func (m *referenceMessage) readLength(fields []referenceField) bool {
	codings, lengths := valuesOf(fields, "transfer-encoding"), valuesOf(fields, "content-length")
	switch {
	case len(codings) > 0:
		m.length, m.kind = -1, chunkedBody
		return m.minor == "1" && len(codings) == 1 && len(lengths) == 0 && asciiLower(codings[0]) == "chunked"
	case len(lengths) > 0:
		m.kind = lengthBody
		m.length, _ = strconv.ParseInt(lengths[0], 10, 64)
		return len(lengths) == 1 && referenceDigits.MatchString(lengths[0])
	default:
		return true
	}
}

// readHop reads and removes what is of this connection only, and what frames the message.
func (m *referenceMessage) readHop(fields []referenceField) bool {
	nominated := map[string]bool{}
	count := 0
	for _, value := range valuesOf(fields, "connection") {
		if len(value) > 1024 {
			return false
		}
		for element := range strings.SplitSeq(value, ",") {
			element = asciiLower(strings.Trim(element, " \t"))
			if element == "" {
				continue
			}
			count++
			if !referenceToken.MatchString(element) || referenceMayNotBeNominated(element) {
				return false
			}
			nominated[element] = true
		}
	}
	if count > 16 {
		return false
	}
	m.close = nominated["close"] || m.minor == "0" && !nominated["keep-alive"]
	if upgrades := valuesOf(fields, "upgrade"); nominated["upgrade"] && len(upgrades) == 1 && referenceProtocol.MatchString(upgrades[0]) && asciiLower(upgrades[0]) != "h2c" {
		m.upgrade = asciiLower(upgrades[0])
	}
	for _, f := range fields {
		if !nominated[f.name] && !referenceOfOneHop[f.name] {
			m.fields = append(m.fields, f)
		}
	}
	return true
}

// referenceOfOneHop are the names that the engine understands by itself and never passes on.
var referenceOfOneHop = setOf("connection keep-alive proxy-connection te upgrade http2-settings proxy-authenticate proxy-authorization " +
	"proxy-authentication-info host content-length transfer-encoding expect")

var referenceCarriesMeaning = setOf("host content-length transfer-encoding authorization cookie set-cookie cache-control content-type " +
	"content-encoding content-range date expect trailer origin traceparent tracestate x-request-id grpc-timeout www-authenticate")

func referenceMayNotBeNominated(name string) bool {
	return referenceCarriesMeaning[name] || strings.HasPrefix(name, "sec-") || l7.IsIdentity(name)
}

func setOf(names string) map[string]bool {
	set := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		set[name] = true
	}
	return set
}

// readResponseHead is the reference for ParseResponseHead.
func readResponseHead(raw, method string) (m referenceMessage, length int, verdict referenceVerdict) {
	lines, length, verdict := referenceLines(raw)
	switch {
	case verdict == wants && len(raw) >= 64<<10:
		return m, 0, refuses
	case verdict != accepts:
		return m, 0, verdict
	case len(lines) == 0 || length > 64<<10:
		return m, 0, refuses
	}
	parts := referenceStatus.FindStringSubmatch(lines[0])
	fields, ok := referenceFields(lines[1:], true)
	if parts == nil || !ok {
		return m, 0, refuses
	}
	m.minor, m.phrase = parts[1], bytesOf(parts[3])
	m.status, _ = strconv.Atoi(parts[2])
	if !m.readLength(fields) || !m.readHop(fields) {
		return m, 0, refuses
	}
	bodiless := m.status < 200 || m.status == 204
	if bodiless && m.length != 0 {
		return m, 0, refuses
	}
	if m.kind == noBody || bodiless && m.kind == lengthBody && m.length == 0 {
		m.length = -1
		if m.kind == lengthBody {
			m.length = 0
		}
	}
	switch {
	case bodiless || method == "HEAD" || m.status == 304: // RFC 9112, Section 6.3, rule 1
		m.kind = noBody
	case m.kind == noBody: // rule 8
		m.kind, m.close = closeBody, true
	}
	return m, length, accepts
}

// referenceBody is a chunked body with what follows it.
type referenceBody struct {
	content string
	trailer []referenceField
	length  int
}

// readChunkedBody is the reference for chunked bodies of requests (RFC 9112, Section 7.1).
func readChunkedBody(raw string) (b referenceBody, verdict referenceVerdict) {
	excess := 0
	for {
		line, rest, found := strings.Cut(raw[b.length:], "\r\n")
		if !found && !strings.Contains(raw[b.length:], "\n") {
			return b, wants
		}
		parts := referenceChunk.FindStringSubmatch(latin1(line))
		if parts == nil || len(line) >= maxChunkLine {
			return b, refuses
		}
		size, _ := strconv.ParseInt(parts[1], 16, 64)
		// Framing that its content does not justify adds up: 16 bytes for each chunk, and twice its size, are free.
		excess = max(0, excess+len(line)+4-16-int(min(2*size, 1<<20)))
		if excess > 16<<10 {
			return b, refuses
		}
		b.length += len(line) + 2
		if size == 0 {
			return b, b.readTrailer(raw[b.length:])
		}
		if int64(len(rest)) < size+2 {
			if int64(len(rest)) > size && rest[size] != '\r' {
				return b, refuses
			}
			return b, wants
		}
		if rest[size:size+2] != "\r\n" {
			return b, refuses
		}
		b.content += rest[:size]
		b.length += int(size) + 2
	}
}

func (b *referenceBody) readTrailer(raw string) referenceVerdict {
	lines, length, verdict := referenceLines(raw)
	if verdict == wants && len(raw) >= 8<<10 || length > 8<<10 {
		return refuses
	}
	if verdict != accepts {
		return verdict
	}
	fields, ok := referenceFields(lines, false)
	if !ok {
		return refuses
	}
	for _, f := range fields {
		if f.name == "host" || f.name == "content-length" || f.name == "transfer-encoding" {
			return refuses
		}
		if !l7.IsForbiddenTrailer(f.name) {
			b.trailer = append(b.trailer, f)
		}
	}
	b.length += length
	return accepts
}
