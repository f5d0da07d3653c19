package http2

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// blockKind is what a field block is.
type blockKind uint8

const (
	// ignoredBlock is decoded for the state of the decoder only.
	ignoredBlock blockKind = iota
	requestHead
	requestTrailer
	responseHead
	responseTrailer
)

// Fields that engines write, and drop, themselves.
const (
	fieldWebSocketKey     = "sec-websocket-key"
	fieldWebSocketAccept  = "sec-websocket-accept"
	fieldWebSocketVersion = "sec-websocket-version"
)

// fieldSize is what a field counts beyond its bytes (RFC 9113, Section 10.5.1).
const fieldSize = 32

// maxMethod is more than any registered method has.
const maxMethod = 32

// block is a field block as it is decoded (RFC 9113, Section 8): its fields, the pseudo fields and those that frame the message
// apart. It is reused; the reading function owns it.
type block struct {
	kind   blockKind
	limits *Limits
	header l7.Header

	method, scheme, authority, path, protocol, status field
	host, contentLength, expect, te                   field
	cookies                                           []byte
	crumbs                                            int

	// size is that of everything, lines the number of all fields, count that of those which are no pseudo fields.
	size, lines, count int
	// err is the first rule that was broken; nothing is kept from then on.
	err *l7.Error
	// malformed: what RFC 9113 calls so, and not only too large or not allowed here. Such a stream is reset.
	malformed bool
}

// field is one of which a message may have one.
type field struct {
	value string
	count int
}

// once takes a value; false when it is not the first.
func (f *field) once(value string) bool {
	f.value = value
	f.count++
	return f.count == 1
}

// begin empties the block for one of that kind.
func (b *block) begin(kind blockKind) {
	header, cookies := b.header, b.cookies[:0]
	header.Reset()
	*b = block{kind: kind, limits: b.limits, header: header, cookies: cookies}
}

// malform records a broken rule of RFC 9113.
func (b *block) malform(text string) {
	b.refuse(l7.NewError(observe.BadRequest, text))
	b.malformed = true
}

// refuse records what is well formed and still not accepted.
func (b *block) refuse(err *l7.Error) {
	if b.err == nil {
		b.err = err
	}
}

// done: nothing of the rest of the block matters.
func (b *block) done() bool { return b.kind == ignoredBlock || b.err != nil }

// emit takes one field from the decoder.
func (b *block) emit(f hpack.HeaderField) {
	b.lines++
	b.size += len(f.Name) + len(f.Value) + fieldSize
	if b.done() {
		return
	}
	switch limit := b.maxSize(); {
	case b.size > limit:
		b.refuse(l7.NewError(observe.HeadTooLarge, "head or trailer section too large"))
	case !isValue(f.Value):
		b.malform("field value with a control character, or with white space at an end")
	case strings.HasPrefix(f.Name, ":"):
		b.takePseudo(f.Name, f.Value)
	default:
		b.takeRegular(f.Name, f.Value)
	}
}

// bomb: the block is so far above its limits that no honest peer sends it. A few bytes, each the index of a long field, make it
// (CVE-2016-1544, CVE-2026-47774), and refusing one request after the other would cost us more than the peer.
func (b *block) bomb() bool { return b.size > 4*b.limits.MaxHead || b.lines > 4*b.limits.MaxFields }

func (b *block) maxSize() int {
	if b.kind == requestTrailer || b.kind == responseTrailer {
		return b.limits.MaxTrailer
	}
	return b.limits.MaxHead
}

// takePseudo: pseudo fields come first, once, and are known ones (RFC 9113, Section 8.3).
func (b *block) takePseudo(name, value string) {
	if b.count > 0 {
		b.malform("pseudo field after a field")
		return
	}
	f := b.pseudo(name)
	if f == nil {
		b.malform("unknown pseudo field, or one that does not belong here")
		return
	}
	if !f.once(value) {
		b.malform("repeated pseudo field")
	}
}

func (b *block) pseudo(name string) *field {
	switch b.kind {
	case requestHead:
		switch name {
		case ":method":
			return &b.method
		case ":scheme":
			return &b.scheme
		case ":authority":
			return &b.authority
		case ":path":
			return &b.path
		case ":protocol":
			return &b.protocol
		}
	case responseHead:
		if name == ":status" {
			return &b.status
		}
	case ignoredBlock, requestTrailer, responseTrailer:
	}
	return nil
}

// takeRegular: names are tokens in lower case, and nothing concerns a connection (RFC 9113, Sections 8.2.1 and 8.2.2).
func (b *block) takeRegular(name, value string) {
	if b.count++; b.count > b.limits.MaxFields {
		b.refuse(l7.NewError(observe.HeadTooLarge, "too many fields"))
		return
	}
	underscore, ok := checkName(name)
	if !ok {
		b.malform("field name that is no token in lower case")
		return
	}
	ofRequest := b.kind == requestHead || b.kind == requestTrailer
	if underscore && ofRequest {
		b.refuse(l7.NewError(observe.BadRequest, "field name with an underscore"))
		return
	}
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		b.malform("field of a connection")
	case "te":
		if !ofRequest || value != "trailers" {
			b.malform(`te is not "trailers"`)
		}
		b.te.once(value)
	case "host":
		if !b.host.once(value) {
			b.malform("repeated host")
		}
	case "content-length":
		if !b.contentLength.once(value) {
			b.malform("repeated content-length")
		}
	case "expect":
		b.takeExpect(value)
	case "cookie":
		b.takeCookie(value)
	case "http2-settings", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info":
		// of one hop, as on HTTP/1: they end here
	default:
		b.header.Add(name, value)
	}
}

// takeExpect: in a response the field means nothing, and is kept as any other.
func (b *block) takeExpect(value string) {
	if b.kind != requestHead {
		b.header.Add("expect", value)
		return
	}
	b.expect.once(value)
}

// takeCookie joins the crumbs of a cookie (RFC 9113, Section 8.2.3). Empty ones would leave white space at an end.
func (b *block) takeCookie(value string) {
	b.crumbs++
	if len(b.cookies) > 0 && value != "" {
		b.cookies = append(b.cookies, "; "...)
	}
	b.cookies = append(b.cookies, value...)
}

// finish adds what was gathered from several fields.
func (b *block) finish() {
	if b.crumbs > 0 && !b.done() {
		b.header.Add("cookie", string(b.cookies))
	}
	if cap(b.cookies) > smallBuffer {
		b.cookies = nil
	}
}

// length is the content-length, -1 when there is none.
func (b *block) length() int64 {
	if b.contentLength.count == 0 {
		return -1
	}
	n, ok := parseLength(b.contentLength.value)
	if !ok {
		b.malform("content-length is not a number")
	}
	return n
}

// checkTrailer: no framing in a trailer section, where it could only be meant to give the message another end; what may not stand
// there otherwise is dropped (RFC 9110, Section 6.5.1).
func (b *block) checkTrailer() {
	if b.host.count+b.contentLength.count > 0 {
		b.malform("framing field in a trailer section")
	}
	b.header.DelFunc(func(name, _ string) bool { return l7.IsForbiddenTrailer(name) })
}

// checkName says whether a name is a token in lower case, and whether it has an underscore.
func checkName(name string) (underscore, ok bool) {
	for i := range len(name) {
		b := name[i]
		if !l7.IsTokenByte(b) || b-'A' < 26 {
			return false, false
		}
		underscore = underscore || b == '_'
	}
	return underscore, name != ""
}

// isValue: no control characters, no white space at either end (RFC 9113, Section 8.2.1): the next hop would trim it, and read
// another value than the one that was judged.
func isValue(value string) bool {
	if value == "" {
		return true
	}
	if isSpace(value[0]) || isSpace(value[len(value)-1]) {
		return false
	}
	for i := range len(value) {
		if !l7.IsValueByte(value[i]) {
			return false
		}
	}
	return true
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' }

// parseLength accepts digits only: no sign, no list, no white space. 18 digits are enough for any content and cannot overflow.
func parseLength(digits string) (int64, bool) {
	if digits == "" || len(digits) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(digits) {
		d := digits[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}
