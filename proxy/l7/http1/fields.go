package http1

import (
	"bytes"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// framing is what the fields said that decide where a message goes and where it ends. They are kept out of the Header.
type framing struct {
	host, contentLength, transferEncoding, expect     string
	hosts, contentLengths, transferEncodings, expects int
}

// fieldRules is what differs between heads and trailers, requests and responses.
type fieldRules struct {
	max         int
	underscores bool
}

// parseFields reads field lines from raw[at:] to the empty line at its end, marks them in the header and lowers the case of their
// names in place. Every line ends in CR LF (scanSection). Framing fields go into f.
//
// RFC 9112, Section 5: no white space before the colon, no line folding; RFC 9110, Section 5: a name is a token, a value has no
// control characters.
func parseFields(raw []byte, at int, h *l7.Header, f *framing, rules fieldRules) *l7.Error {
	for count := 0; at < len(raw)-2; count++ {
		if count == rules.max {
			return l7.NewError(observe.HeadTooLarge, "too many fields")
		}
		end := at + bytes.IndexByte(raw[at:], '\n') - 1
		nameEnd, err := parseName(raw, at, rules.underscores)
		if err != nil {
			return err
		}
		valueStart, valueEnd := trimSpace(raw, nameEnd+1, end)
		if !isValue(raw[valueStart:valueEnd]) {
			return l7.NewError(observe.BadRequest, "field value with a control character")
		}
		if !f.take(h.View(at, nameEnd), h, valueStart, valueEnd) {
			h.Mark(at, nameEnd, valueStart, valueEnd)
		}
		at = end + 2
	}
	return nil
}

// parseName reads the name at the beginning of a line and returns the place of its colon.
func parseName(raw []byte, at int, underscores bool) (int, *l7.Error) {
	i := at
	for ; l7.IsTokenByte(raw[i]); i++ {
		switch b := raw[i]; {
		case b-'A' < 26:
			raw[i] = b | 0x20
		case b == '_' && !underscores:
			return 0, l7.NewError(observe.BadRequest, "field name with an underscore")
		}
	}
	if i == at || raw[i] != ':' {
		return 0, l7.NewError(observe.BadRequest, "malformed field line")
	}
	return i, nil
}

// take keeps a framing field and says whether it was one.
func (f *framing) take(name string, h *l7.Header, start, end int) bool {
	switch name {
	case "host":
		f.host = h.View(start, end)
		f.hosts++
	case "content-length":
		f.contentLength = h.View(start, end)
		f.contentLengths++
	case "transfer-encoding":
		f.transferEncoding = h.View(start, end)
		f.transferEncodings++
	case "expect":
		f.expect = h.View(start, end)
		f.expects++
	default:
		return false
	}
	return true
}

// length is that of the body: -1 for chunked, 0 for none given. given tells "Content-Length: 0" from silence.
//
// RFC 9112, Section 6: a message with both fields, with one of them twice, or with a length that is not a number, has no length
// that all readers agree on.
func (f *framing) length(protocol l7.Protocol) (n int64, given bool, err *l7.Error) {
	if f.transferEncodings > 0 {
		if err := f.checkChunked(protocol); err != nil {
			return 0, false, err
		}
		return -1, true, nil
	}
	if f.contentLengths > 1 {
		return 0, false, l7.NewError(observe.BadRequest, "repeated Content-Length")
	}
	if f.contentLengths == 0 {
		return 0, false, nil
	}
	n, ok := parseLength(f.contentLength)
	if !ok {
		return 0, false, l7.NewError(observe.BadRequest, "Content-Length is not a number")
	}
	return n, true, nil
}

func (f *framing) checkChunked(protocol l7.Protocol) *l7.Error {
	switch {
	case f.contentLengths > 0:
		return l7.NewError(observe.BadRequest, "both Transfer-Encoding and Content-Length")
	case f.transferEncodings > 1:
		return l7.NewError(observe.BadRequest, "repeated Transfer-Encoding")
	case protocol != l7.HTTP11:
		return l7.NewError(observe.BadRequest, "Transfer-Encoding before HTTP/1.1")
	case isChunked(f.transferEncoding):
		return nil
	case isOtherCoding(f.transferEncoding):
		return l7.NewError(observe.NotImplemented, "transfer coding other than chunked")
	default:
		return l7.NewError(observe.BadRequest, "malformed Transfer-Encoding")
	}
}

// isOtherCoding reports a coding, or codings with chunked last, that are simply not known here and deserve 501 (RFC 9112,
// Section 6.1); anything else is an attempt at two readings.
func isOtherCoding(value string) bool {
	if last := strings.LastIndexByte(value, ','); last >= 0 {
		if !isChunked(strings.Trim(value[last+1:], " \t")) {
			return false
		}
		value = value[:last]
	}
	for coding := range strings.SplitSeq(value, ",") {
		coding = strings.Trim(coding, " \t")
		if !l7.IsToken(coding) || strings.Contains(strings.ToLower(coding), "chunked") {
			return false
		}
	}
	return true
}

// isChunked compares without regard to the case of ASCII letters, and of no others: strings.EqualFold alone would take the Kelvin
// sign for a "k", and a coding that nobody else knows for chunked.
func isChunked(coding string) bool { return l7.IsToken(coding) && strings.EqualFold(coding, "chunked") }

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

// trimSpace moves both ends over optional white space (RFC 9110, Section 5.6.3).
func trimSpace(raw []byte, start, end int) (int, int) {
	for start < end && (raw[start] == ' ' || raw[start] == '\t') {
		start++
	}
	for end > start && (raw[end-1] == ' ' || raw[end-1] == '\t') {
		end--
	}
	return start, end
}

func isValue(value []byte) bool {
	for _, b := range value {
		if !l7.IsValueByte(b) {
			return false
		}
	}
	return true
}
