package http1

import (
	"bytes"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// ParseResponseHead reads the response head at the beginning of buf, the answer to a request with that method, into r and returns
// its length in bytes, 0 when it is not complete. ContentLength is -1 for chunked and for a body that ends with the connection;
// r.Close is then true for the latter. Errors have the reason UpstreamProtocol.
func ParseResponseHead(buf []byte, r *l7.Response, method string, limits Limits) (int, *l7.Error) {
	limits = limits.withDefaults()
	length, _, ok := scanSection(buf, 0, false)
	if !ok {
		return 0, upstreamError(errLineEnd())
	}
	if length == 0 {
		if len(buf) >= limits.MaxHead {
			return 0, upstreamError(l7.NewError(observe.HeadTooLarge, "head too large"))
		}
		return 0, nil
	}
	_, err := parseResponse(buf[:length], r, method, &limits)
	return length, err
}

// parseResponse reads a whole head, its empty line included, and says how the body is framed.
func parseResponse(head []byte, r *l7.Response, method string, limits *Limits) (bodyKind, *l7.Error) {
	kind, err := parseResponseHead(head, r, method, limits)
	if err != nil {
		return noBody, upstreamError(err)
	}
	return kind, nil
}

func parseResponseHead(head []byte, r *l7.Response, method string, limits *Limits) (bodyKind, *l7.Error) {
	r.Reset()
	if len(head) > limits.MaxHead {
		return noBody, l7.NewError(observe.HeadTooLarge, "head too large")
	}
	raw := r.Header.Load(head)
	lineEnd := bytes.IndexByte(raw, '\n') - 1
	if err := parseStatusLine(r, r.Header.View(0, lineEnd)); err != nil {
		return noBody, err
	}
	var f framing
	if err := parseFields(raw, lineEnd+2, &r.Header, &f, fieldRules{max: limits.MaxFields, underscores: true}); err != nil {
		return noBody, err
	}
	hop, stripErr := l7.StripHopByHop(&r.Header)
	if stripErr != nil {
		return noBody, asError(stripErr)
	}
	r.Close = hop.Close || r.Protocol == l7.HTTP10 && !hop.KeepAlive
	r.Upgrade = hop.Upgrade
	return frameResponse(r, &f, method)
}

// parseStatusLine reads HTTP-version SP status-code [SP reason-phrase] (RFC 9112, Section 4). Servers that leave out the space
// before an empty phrase are common and understood by all alike.
func parseStatusLine(r *l7.Response, line string) *l7.Error {
	version, rest, found := strings.Cut(line, " ")
	protocol, err := parseVersion(version)
	if err != nil {
		return err
	}
	code, phrase, _ := strings.Cut(rest, " ")
	if !found || len(code) != 3 || code[0] < '1' || code[0] > '9' || code[1]-'0' > 9 || code[2]-'0' > 9 {
		return l7.NewError(observe.BadRequest, "malformed status line")
	}
	for i := range len(phrase) {
		if !l7.IsValueByte(phrase[i]) {
			return l7.NewError(observe.BadRequest, "reason phrase with a control character")
		}
	}
	r.Protocol = protocol
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	r.Reason = phrase
	return nil
}

// frameResponse decides where the message ends: RFC 9112, Section 6.3, in its order.
func frameResponse(r *l7.Response, f *framing, method string) (bodyKind, *l7.Error) {
	n, given, err := f.length(r.Protocol)
	if err != nil {
		return noBody, err
	}
	r.ContentLength = n
	if !given {
		r.ContentLength = -1
	}
	if r.Status < 200 || r.Status == 204 {
		// Section 6.1 and RFC 9110, Section 8.6: neither field in such a response. A length of 0 says the same as none.
		if n != 0 {
			return noBody, l7.NewError(observe.BadRequest, "1xx or 204 response with a body")
		}
		return noBody, nil
	}
	switch {
	case !l7.HasBody(method, r.Status):
		return noBody, nil
	case n < 0:
		return chunkedBody, nil
	case given:
		return lengthBody, nil
	default:
		r.Close = true
		return closeBody, nil
	}
}

// upstreamError turns what is wrong with a head into what it means when an upstream sent it.
func upstreamError(err *l7.Error) *l7.Error {
	if err == nil {
		return nil
	}
	return &l7.Error{Reason: observe.UpstreamProtocol, Status: l7.StatusOf(observe.UpstreamProtocol), Side: l7.Upstream, Responded: true, Sent: true, Err: err.Err}
}
