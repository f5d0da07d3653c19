package l7

import (
	"encoding/hex"
	"errors"
)

// TraceParent is the traceparent field of W3C Trace Context: which trace a request belongs to, and which span is its parent. The
// zero value belongs to no trace.
type TraceParent struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte
}

// traceParentLength is that of version 00: 2+1+32+1+16+1+2 characters.
const traceParentLength = 55

// ParseTraceParent reads a field value (W3C Trace Context, Section 3.2). Of a version above 00 it takes the part that is known.
// A value that breaks a rule is an error: the caller then starts a new trace.
func ParseTraceParent(value string) (TraceParent, error) {
	var t TraceParent
	if len(value) < traceParentLength || value[2] != '-' || value[35] != '-' || value[52] != '-' {
		return TraceParent{}, errTraceParent
	}
	var version, flags [1]byte
	known := len(value) == traceParentLength
	later := len(value) > traceParentLength && value[traceParentLength] == '-'
	ok := lowerHex(version[:], value[:2]) && lowerHex(t.TraceID[:], value[3:35]) &&
		lowerHex(t.SpanID[:], value[36:52]) && lowerHex(flags[:], value[53:55])
	if !ok || version[0] == 0xff || !known && (!later || version[0] == 0) {
		return TraceParent{}, errTraceParent
	}
	if t.TraceID == [16]byte{} || t.SpanID == [8]byte{} {
		return TraceParent{}, errTraceParent
	}
	t.Flags = flags[0]
	return t, nil
}

// Child returns the value for the next hop: the same trace with this span as the parent.
func (t TraceParent) Child(span [8]byte) TraceParent {
	t.SpanID = span
	return t
}

// String writes version 00; the zero value is "".
func (t TraceParent) String() string {
	if t.TraceID == [16]byte{} {
		return ""
	}
	text := make([]byte, 0, traceParentLength)
	text = append(text, "00-"...)
	text = hex.AppendEncode(text, t.TraceID[:])
	text = append(text, '-')
	text = hex.AppendEncode(text, t.SpanID[:])
	text = append(text, '-')
	text = hex.AppendEncode(text, []byte{t.Flags})
	return string(text)
}

var errTraceParent = errors.New("not a traceparent value")

// lowerHex decodes hexadecimal digits, which must be in lower case.
func lowerHex(dst []byte, src string) bool {
	for i := range len(src) {
		if src[i]-'A' < 26 {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(src))
	return err == nil
}
