package http2

import (
	"strconv"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// The encoder keeps no table: a field is an index into the static table where that has all of it, and otherwise a literal that is
// not added to the peer's table (RFC 7541, Sections 6.1, 6.2.2, 6.2.3). Heads so depend on nothing that was sent before, can be
// written by any goroutine, and no secret gets into a table whose compression could be measured.

// First bytes of representations, and the bits that are left for an index in them.
const (
	reprIndexed  = 0x80 // 7 bits
	reprLiteral  = 0x00 // 4 bits
	reprNeverAdd = 0x10 // 4 bits: nobody on the way may put it into a table
	bitsIndexed  = 7
	bitsLiteral  = 4
)

// Indices into the static table of RFC 7541, Appendix A.
const (
	staticAuthority  = 1
	staticMethod     = 2 // GET; 3 is POST
	staticPath       = 4 // "/"
	staticSchemeHTTP = 6 // 7 is https
	staticStatus     = 8
	staticLength     = 28
	staticDate       = 33
)

// staticStatuses are the statuses of entries 8 to 14.
var staticStatuses = [...]int{200, 204, 206, 304, 400, 404, 500}

// staticNames gives the index of the first entry with that name.
var staticNames = map[string]byte{
	"accept-charset": 15, "accept-encoding": 16, "accept-language": 17, "accept-ranges": 18, "accept": 19,
	"access-control-allow-origin": 20, "age": 21, "allow": 22, "authorization": 23, "cache-control": 24, "content-disposition": 25,
	"content-encoding": 26, "content-language": 27, "content-length": staticLength, "content-location": 29, "content-range": 30,
	"content-type": 31, "cookie": 32, "date": staticDate, "etag": 34, "expect": 35, "expires": 36, "from": 37, "if-match": 39,
	"if-modified-since": 40, "if-none-match": 41, "if-range": 42, "if-unmodified-since": 43, "last-modified": 44, "link": 45,
	"location": 46, "max-forwards": 47, "proxy-authenticate": 48, "proxy-authorization": 49, "range": 50, "referer": 51,
	"refresh": 52, "retry-after": 53, "server": 54, "set-cookie": 55, "strict-transport-security": 56, "user-agent": 58,
	"vary": 59, "via": 60, "www-authenticate": 61,
}

// appendInteger writes n behind the bits that first has above its prefix (RFC 7541, Section 5.1).
func appendInteger(out []byte, first byte, bits uint, n int) []byte {
	limit := 1<<bits - 1
	if n < limit {
		return append(out, first|byte(n))
	}
	out = append(out, first|byte(limit))
	for n -= limit; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

// appendString writes a string literal as it is: Huffman coding would save a quarter of its bytes for several times its time.
func appendString(out []byte, s string) []byte {
	out = appendInteger(out, 0, bitsIndexed, len(s))
	return append(out, s...)
}

func appendIndexed(out []byte, index int) []byte {
	return appendInteger(out, reprIndexed, bitsIndexed, index)
}

// appendNamed writes a value under the name of a static entry.
func appendNamed(out []byte, index int, value string) []byte {
	return appendString(appendInteger(out, reprLiteral, bitsLiteral, index), value)
}

// appendField writes any field; the name is in lower case.
func appendField(out []byte, name, value string) []byte {
	first := byte(reprLiteral)
	if isSecret(name) {
		first = reprNeverAdd
	}
	index := int(staticNames[name])
	out = appendInteger(out, first, bitsLiteral, index)
	if index == 0 {
		out = appendString(out, name)
	}
	return appendString(out, value)
}

// isSecret names fields that no table should ever hold (RFC 7541, Section 7.1.3).
func isSecret(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "proxy-authorization":
		return true
	default:
		return false
	}
}

// appendFields writes all fields but those that engines write by themselves: whatever put one into the header, it does not frame
// the message.
func appendFields(out []byte, h *l7.Header) []byte {
	for i := range h.Len() {
		if name, value := h.At(i); !l7.IsConnectionField(name) {
			out = appendField(out, name, value)
		}
	}
	return out
}

// appendTrailer writes what may stand in a trailer section.
func appendTrailer(out []byte, h *l7.Header) []byte {
	for i := range h.Len() {
		if name, value := h.At(i); !l7.IsForbiddenTrailer(name) {
			out = appendField(out, name, value)
		}
	}
	return out
}

func appendStatus(out []byte, status int) []byte {
	for i, known := range staticStatuses {
		if known == status {
			return appendIndexed(out, staticStatus+i)
		}
	}
	out = appendInteger(out, reprLiteral, bitsLiteral, staticStatus)
	out = append(out, 3)
	return strconv.AppendInt(out, int64(status), 10)
}

func appendLength(out []byte, n int64) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	out = appendInteger(out, reprLiteral, bitsLiteral, staticLength)
	out = append(out, byte(len(text)))
	return append(out, text...)
}

// appendDate adds the date that a response lacks (RFC 9110, Section 6.6.1).
func appendDate(out []byte, h *l7.Header) []byte {
	if _, dated := h.Get("date"); dated {
		return out
	}
	const layout = "Mon, 02 Jan 2006 15:04:05 GMT"
	out = appendInteger(out, reprLiteral, bitsLiteral, staticDate)
	out = append(out, byte(len(layout)))
	return time.Now().UTC().AppendFormat(out, layout)
}

// appendResponse writes the block of a final response; length is the content-length to claim, negative for none.
func appendResponse(out []byte, resp *l7.Response, length int64) []byte {
	out = appendStatus(out, resp.Status)
	out = appendFields(out, &resp.Header)
	if length >= 0 {
		out = appendLength(out, length)
	}
	return appendDate(out, &resp.Header)
}

// appendTunnelResponse writes the answer to an extended CONNECT: what RFC 6455 proves with a key, the protocol itself proves here
// (RFC 8441, Section 5).
func appendTunnelResponse(out []byte, resp *l7.Response) []byte {
	out = appendStatus(out, 200)
	for i := range resp.Header.Len() {
		if name, value := resp.Header.At(i); !l7.IsConnectionField(name) && name != fieldWebSocketAccept {
			out = appendField(out, name, value)
		}
	}
	return appendDate(out, &resp.Header)
}

// appendRequest writes the block of a request.
func appendRequest(out []byte, r *l7.Request) []byte {
	extended := r.Upgrade != ""
	switch {
	case extended:
		out = appendNamed(out, staticMethod, "CONNECT")
	case r.Method == "GET":
		out = appendIndexed(out, staticMethod)
	case r.Method == "POST":
		out = appendIndexed(out, staticMethod+1)
	default:
		out = appendNamed(out, staticMethod, r.Method)
	}
	if extended {
		out = appendField(out, ":protocol", r.Upgrade)
	}
	if r.Scheme == "https" {
		out = appendIndexed(out, staticSchemeHTTP+1)
	} else {
		out = appendIndexed(out, staticSchemeHTTP)
	}
	out = appendNamed(out, staticAuthority, r.Authority)
	out = appendPath(out, r)
	for i := range r.Header.Len() {
		name, value := r.Header.At(i)
		if l7.IsConnectionField(name) || name == "expect" || extended && name == fieldWebSocketKey {
			continue
		}
		out = appendField(out, name, value)
	}
	return appendRequestFraming(out, r)
}

func appendPath(out []byte, r *l7.Request) []byte {
	if r.RawQuery == "" {
		if r.Path == "/" {
			return appendIndexed(out, staticPath)
		}
		return appendNamed(out, staticPath, r.Path)
	}
	out = appendInteger(out, reprLiteral, bitsLiteral, staticPath)
	out = appendInteger(out, 0, bitsIndexed, len(r.Path)+1+len(r.RawQuery))
	out = append(out, r.Path...)
	out = append(out, '?')
	return append(out, r.RawQuery...)
}

func appendRequestFraming(out []byte, r *l7.Request) []byte {
	switch {
	case r.Body != nil && r.ContentLength >= 0:
		out = appendLength(out, r.ContentLength)
	case r.Body == nil && (r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"):
		// RFC 9110, Section 8.6: a method for which content means something says that there is none.
		out = appendLength(out, 0)
	}
	if r.Body != nil && r.ExpectContinue {
		out = appendField(out, "expect", "100-continue")
	}
	if r.AcceptsTrailers {
		out = appendField(out, "te", "trailers")
	}
	return out
}

// beginBlock leaves room for the header of a HEADERS frame at the beginning of a borrowed buffer.
func beginBlock(buf []byte) []byte { return buf[:frameHead] }

// frameBlock turns a buffer from beginBlock, with a whole field block behind it, into a HEADERS frame and as many CONTINUATION
// frames as it takes. The stream is put in by setStream.
func frameBlock(buf []byte, endStream bool) []byte {
	var flags uint8
	if endStream {
		flags = flagEndStream
	}
	length := len(buf) - frameHead
	if length <= maxFrame {
		putFrameHead(buf, length, frameHeaders, flags|flagEndHeaders, 0)
		return buf
	}
	block := buf[frameHead:]
	out := make([]byte, 0, len(buf)+len(buf)/maxFrame*frameHead+frameHead)
	kind := frameHeaders
	for len(block) > maxFrame {
		out = append(appendFrameHead(out, maxFrame, kind, flags, 0), block[:maxFrame]...)
		block, kind, flags = block[maxFrame:], frameContinuation, 0
	}
	out = append(appendFrameHead(out, len(block), kind, flags|flagEndHeaders, 0), block...)
	giveBack(buf)
	return out
}

// setStream puts the stream into the frames of frameBlock.
func setStream(frames []byte, id uint32) {
	for len(frames) > 0 {
		length := int(frames[0])<<16 | int(frames[1])<<8 | int(frames[2])
		putFrameHead(frames, length, frameType(frames[3]), frames[4], id)
		frames = frames[frameHead+length:]
	}
}
