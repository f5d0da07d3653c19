package http2

import (
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// request makes the request that the block is. The block's header goes into it, and the request's old one into the block. What is
// wrong with it stands in the block's err.
func (b *block) request(r *l7.Request, scheme string, endStream bool) {
	r.Reset()
	r.Protocol, r.Scheme = l7.HTTP2, scheme
	b.finish()
	if b.err == nil {
		b.takeTarget(r)
	} else if m := b.method.value; l7.IsToken(m) && len(m) <= maxMethod {
		r.Method = internMethod(m) // the answer to HEAD has no content whatever it says
	}
	if b.err == nil {
		b.takeContent(r, endStream)
	}
	r.Header, b.header = b.header, r.Header
	r.AcceptsTrailers = b.te.count > 0
	if r.Upgrade == "websocket" {
		// A server of RFC 6455 wants a key; on this connection none was needed.
		r.Header.Set(fieldWebSocketKey, webSocketKey())
	}
}

// takeTarget: which pseudo fields there must be, and what they may say (RFC 9113, Sections 8.3.1 and 8.5; RFC 8441, Section 4).
func (b *block) takeTarget(r *l7.Request) {
	method := b.method.value
	switch {
	case b.method.count == 0, !l7.IsToken(method), len(method) > maxMethod:
		b.malform(":method is missing or no token")
		return
	case method == "CONNECT" && b.protocol.count == 0:
		r.Method = "CONNECT"
		if b.scheme.count+b.path.count > 0 {
			b.malform("CONNECT with :scheme or :path")
		}
		b.takeAuthority(r)
		return
	case method == "CONNECT":
		if !l7.IsToken(b.protocol.value) {
			b.malform(":protocol is no token")
			return
		}
		r.Upgrade = strings.ToLower(b.protocol.value)
		method = "GET"
	case b.protocol.count > 0:
		b.malform(":protocol without CONNECT")
		return
	}
	r.Method = internMethod(method)
	b.takeAuthority(r)
	b.takePath(r)
	b.takeScheme()
}

// takeScheme only checks: the scheme of the connection counts, for how the request is judged and how it is forwarded.
// The other of the two is accepted, since it tells how a client before the peer came: proxies forward its scheme (RFC 9113, Section
// 8.3.1), "http" over TLS by one that takes plaintext, "https" over plaintext by one that ends TLS.
func (b *block) takeScheme() {
	switch scheme := b.scheme.value; {
	case b.scheme.count == 0:
		b.malform(":scheme is missing")
	case !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https"):
		b.refuse(l7.NewError(observe.BadRequest, ":scheme is neither http nor https"))
	}
}

// takeAuthority: one host, in :authority, in host, or the same in both.
func (b *block) takeAuthority(r *l7.Request) {
	r.Authority = b.authority.value
	if b.authority.count == 0 {
		r.Authority = b.host.value
	}
	for i := range len(r.Authority) {
		if c := r.Authority[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(",@/?#\\", c) >= 0 {
			b.malform("authority with a forbidden character, or with user information")
			return
		}
	}
	switch {
	case r.Authority == "":
		b.malform("neither :authority nor host")
	case b.host.count > 0 && !strings.EqualFold(b.host.value, r.Authority):
		b.malform("host differs from :authority")
	}
}

// takePath: what a path may contain is decided by l7/canonical; here nothing passes that could be taken for the end of the target
// by the next hop, or for a fragment.
func (b *block) takePath(r *l7.Request) {
	path := b.path.value
	if len(path) > b.limits.MaxURI {
		b.refuse(l7.NewError(observe.URITooLong, ":path too long"))
		return
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '#' {
			b.malform(":path with a forbidden character")
			return
		}
	}
	switch {
	case path == "":
		b.malform(":path is missing")
	case path[0] == '/':
		r.Path, r.RawQuery, _ = strings.Cut(path, "?")
	case path == "*" && r.Method == "OPTIONS" && r.Upgrade == "":
		r.Path = path
	default:
		b.malform(`:path begins with neither "/" nor is "*" of OPTIONS`)
	}
}

// takeContent decides on the length of the body and what was said of it.
func (b *block) takeContent(r *l7.Request, endStream bool) {
	r.ContentLength = b.length()
	switch {
	case r.Upgrade != "" && (endStream || b.contentLength.count > 0):
		b.malform("extended CONNECT with a length, or an end") // what follows it is the tunnel
	case r.Upgrade != "":
		r.ContentLength = 0
		return
	case endStream && r.ContentLength > 0:
		b.malform("content-length, and no content")
	case endStream:
		r.ContentLength = 0
	}
	if b.expect.count == 0 {
		return
	}
	if b.expect.count > 1 || !strings.EqualFold(b.expect.value, "100-continue") {
		err := l7.NewError(observe.BadRequest, "unknown expectation")
		err.Status = 417 // RFC 9110, Section 10.1.1
		b.refuse(err)
	}
	r.ExpectContinue = !endStream
}

// webSocketKey is a nonce of 16 bytes in base64 (RFC 6455, Section 4.1).
func webSocketKey() string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}

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
