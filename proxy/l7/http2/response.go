package http2

import (
	"crypto/sha1" //nolint:gosec // RFC 6455, Section 4.2.2 asks for it; nothing rests on it
	"encoding/base64"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// response makes the response head that the block is, the answer to a request with that method. The block's header goes into it,
// and the response's old one into the block. What is wrong with it stands in the block's err.
func (b *block) response(r *l7.Response, method string, endStream bool) {
	r.Reset()
	r.Protocol = l7.HTTP2
	b.finish()
	if b.err == nil {
		b.takeStatus(r)
	}
	if b.err == nil {
		b.takeResponseContent(r, method, endStream)
	}
	r.Header, b.header = b.header, r.Header
}

// takeStatus: three digits; 101 does not exist (RFC 9113, Sections 8.3.2 and 8.6).
func (b *block) takeStatus(r *l7.Response) {
	code := b.status.value
	if len(code) != 3 || code[0] < '1' || code[0] > '9' || code[1]-'0' > 9 || code[2]-'0' > 9 {
		b.malform(":status is missing or no number of three digits")
		return
	}
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	if r.Status == 101 {
		b.malform("101 does not exist in HTTP/2")
	}
}

// takeResponseContent decides on the length of the body.
func (b *block) takeResponseContent(r *l7.Response, method string, endStream bool) {
	r.ContentLength = b.length()
	switch n := r.ContentLength; {
	case r.Status < 200 && endStream:
		b.malform("1xx response that ends the stream")
	case r.Status < 200 || r.Status == 204:
		if n > 0 { // RFC 9110, Section 8.6: there is none in such a response; 0 says the same as silence
			b.malform("1xx or 204 response with a content-length")
		}
		r.ContentLength = -1
	case !l7.HasBody(method, r.Status):
	case endStream && n > 0:
		b.malform("content-length, and no content")
	case endStream:
		r.ContentLength = 0
	}
}

// webSocketAccept is what a server of RFC 6455 answers to a key (Section 4.2.2).
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upstreamError turns what is wrong with a message into what it means when an upstream sent it.
func upstreamError(err *l7.Error) *l7.Error {
	return &l7.Error{Reason: observe.UpstreamProtocol, Status: l7.StatusOf(observe.UpstreamProtocol), Side: l7.Upstream,
		Responded: true, Sent: true, Err: err.Err}
}
