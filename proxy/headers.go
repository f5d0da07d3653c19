package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// Names of the fields that the proxy sets. The engine has taken away what concerns the hop before, so that no nomination by a
// client reaches them.
const (
	fieldClientCert   = "x-forwarded-client-cert"
	fieldForwardedFor = "x-forwarded-for"
	fieldProto        = "x-forwarded-proto"
	fieldRequestID    = "x-request-id"
	fieldTraceParent  = "traceparent"
	fieldDecision     = "x-postern-decision"
)

// forwardedHeaders removes what a client could claim about itself, in every spelling, and sets what this proxy knows.
func (c *call) forwardedHeaders() {
	h := &c.req.Header
	hops := c.state.spec.declared.TrustedHops
	forwardedFor, proto := trustedFor(h, hops), trustedProto(h, hops, c.req.Scheme)
	l7.StripIdentity(h)
	h.DelFunc(func(name, _ string) bool {
		return name != fieldRequestID && l7.SameToCGI(name, fieldRequestID)
	})
	if source := c.conn.raw.Source(); source.IsValid() {
		forwardedFor = append(forwardedFor, source.Addr().String())
	}
	if len(forwardedFor) > 0 {
		h.Set(fieldForwardedFor, strings.Join(forwardedFor, ", "))
	}
	h.Set(fieldProto, proto)
	if c.conn.xfcc != "" {
		h.Set(fieldClientCert, c.conn.xfcc)
	}
	h.Set(fieldRequestID, c.log.RequestID)
	parent := c.trace(h)
	h.Set(fieldTraceParent, parent.String())
	c.log.TraceID = hex.EncodeToString(parent.TraceID[:])
}

// trace continues the trace of the client, or begins one.
func (c *call) trace(h *l7.Header) l7.TraceParent {
	var span [8]byte
	random(span[:])
	if h.Count(fieldTraceParent) == 1 {
		value, _ := h.Get(fieldTraceParent)
		if parent, err := l7.ParseTraceParent(value); err == nil {
			return parent.Child(span)
		}
	}
	// Without its parent the state of a trace means nothing (W3C Trace Context, Section 3.3).
	h.Del("tracestate")
	parent := l7.TraceParent{SpanID: span}
	random(parent.TraceID[:])
	return parent
}

// requestID keeps the id of a caller that is known or of a proxy in front that is believed; others get a new one.
func (c *call) requestID() string {
	l := &c.state.spec.declared
	if l.Caller != config.CallerAnonymous || l.TrustedHops > 0 {
		if given, ok := c.req.Header.Get(fieldRequestID); ok && c.req.Header.Count(fieldRequestID) == 1 && plainID(given) {
			return strings.Clone(given)
		}
	}
	return newID()
}

// plainID accepts what ids look like and nothing that a log or another system could take for more.
func plainID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if !isIDByte(s[i]) {
			return false
		}
	}
	return true
}

func isIDByte(b byte) bool {
	letter := b|0x20 >= 'a' && b|0x20 <= 'z'
	digit := b >= '0' && b <= '9'
	return letter || digit || b == '-' || b == '_' || b == '.' || b == ':'
}

// trustedFor returns the last addresses of X-Forwarded-For, as many as there are trusted proxies in front; an element that is no
// address ends the list, since what stands before it was not written by one of them.
func trustedFor(h *l7.Header, hops int) []string {
	if hops <= 0 {
		return nil
	}
	var all []string
	for value := range h.Values(fieldForwardedFor) {
		for element := range strings.SplitSeq(value, ",") {
			all = append(all, strings.TrimSpace(element))
		}
	}
	all = all[max(0, len(all)-hops):]
	for i := len(all) - 1; i >= 0; i-- {
		if _, err := netip.ParseAddr(all[i]); err != nil {
			all = all[i+1:]
			break
		}
		all[i] = strings.Clone(all[i])
	}
	return all
}

func trustedProto(h *l7.Header, hops int, own string) string {
	if hops > 0 && h.Count(fieldProto) == 1 {
		if given, _ := h.Get(fieldProto); given == "https" || given == "http" {
			return strings.Clone(given)
		}
	}
	return own
}

// forwardedClientCert is the value of X-Forwarded-Client-Cert, once for each connection; empty without a verified peer. SPIFFE IDs
// have no character that would have to be quoted.
func forwardedClientCert(c *mtls.Conn) string {
	if c.Peer() == nil {
		return ""
	}
	return "By=" + c.Own().ID.String() + ";Hash=" + c.Peer().Hash() + ";URI=" + c.Peer().ID().String()
}

// cleanResponse keeps a service from speaking for the proxy. The decision that another proxy names in its refusal is passed on when
// that proxy proved who it is: it is what the caller has to ask about.
func cleanResponse(h *l7.Header, requestID string, fromPeer bool) {
	h.DelFunc(func(name, _ string) bool {
		return strings.HasPrefix(name, "x-postern-") && (!fromPeer || name != fieldDecision)
	})
	h.Set(fieldRequestID, requestID)
}

// newID returns 32 random hexadecimal digits.
func newID() string {
	var raw [16]byte
	random(raw[:])
	return hex.EncodeToString(raw[:])
}

func random(b []byte) { _, _ = rand.Read(b) } // crypto/rand never fails
