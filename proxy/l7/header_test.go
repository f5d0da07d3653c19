package l7

import (
	"slices"
	"strings"
	"testing"
)

func headerOf(pairs ...string) *Header {
	h := &Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func (h *Header) text() string {
	var parts []string
	for name, value := range h.All() {
		parts = append(parts, name+"="+value)
	}
	return strings.Join(parts, " ")
}

func TestHeaderKeepsOrderAndRepetitions(t *testing.T) {
	h := headerOf("A", "1", "b", "2", "a", "3")
	if h.text() != "a=1 b=2 a=3" || h.Len() != 3 || h.Count("A") != 2 {
		t.Errorf("%s", h.text())
	}
	if got := slices.Collect(h.Values("A")); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("values %q", got)
	}
	if value, ok := h.Get("B"); value != "2" || !ok {
		t.Errorf("%q, %v", value, ok)
	}
	if _, ok := h.Get("c"); ok {
		t.Error("a field that is not there")
	}
	h.Add("empty", "")
	if value, ok := h.Get("Empty"); value != "" || !ok {
		t.Error("an empty field is not an absent one")
	}
}

func TestHeaderSetAndDel(t *testing.T) {
	h := headerOf("a", "1", "b", "2", "A", "3")
	first, _ := h.Get("a")
	h.Set("A", "4")
	if h.text() != "a=4 b=2" || first != "1" {
		t.Errorf("%s, view %q", h.text(), first)
	}
	h.Set("c", "5")
	if n := h.Del("B"); n != 1 || h.text() != "a=4 c=5" {
		t.Errorf("%d gone, %s", n, h.text())
	}
	if n := h.Del("x"); n != 0 {
		t.Errorf("%d gone", n)
	}
	clone := h.Clone()
	h.Reset()
	if h.Len() != 0 || clone.text() != "a=4 c=5" {
		t.Errorf("%d fields, clone %s", h.Len(), clone.text())
	}
}

func TestNilHeaderIsEmpty(t *testing.T) {
	var h *Header
	if _, ok := h.Get("a"); ok || h.Len() != 0 || h.Count("a") != 0 {
		t.Error("not empty")
	}
}

func TestNothingAddedCanEndItsField(t *testing.T) {
	h := headerOf("x\r\ny: 1", "a\r\nb: 2\x00")
	name, value := h.At(0)
	if strings.ContainsAny(name, "\r\n: ") || strings.ContainsAny(value, "\r\n\x00") {
		t.Errorf("%q = %q", name, value)
	}
}

func TestHopByHopFieldsAreStripped(t *testing.T) {
	h := headerOf("A", "1", "Connection", "X-Hop, close", "x-hop", "2", "Keep-Alive", "5", "TE", "gzip, Trailers", "Proxy-Connection", "x",
		"Proxy-Authorization", "Basic x", "Connection", "X-Other", "X-Other", "3", "X-Hop", "4", "Upgrade", "websocket", "B", "5")
	hop, err := StripHopByHop(h)
	if err != nil || !hop.Close || hop.KeepAlive || !hop.Trailers || hop.Upgrade != "" {
		t.Errorf("%+v, %v", hop, err)
	}
	if h.text() != "a=1 b=5" {
		t.Errorf("left: %s", h.text())
	}
}

// Traefik CVE-2024-45410, CVE-2026-29054: Connection removed the identity that the proxy had set.
func TestNominationNeverReachesIdentitiesOrFraming(t *testing.T) {
	for _, name := range []string{
		"X-Forwarded-Client-Cert", "x-forwarded-client-cert", "X_Forwarded_Client_Cert", "X-Forwarded-For", "X-Postern-Id", "Forwarded", "Host",
		"Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "Content-Type", "traceparent", "Sec-WebSocket-Key",
	} {
		h := headerOf("Connection", "close, "+name, name, "x")
		if _, err := StripHopByHop(h); err == nil {
			t.Errorf("%s may be nominated", name)
		}
	}
}

func TestIdentityFieldsAreStrippedInEverySpelling(t *testing.T) {
	h := headerOf("X-Forwarded-Client-Cert", "1", "x_forwarded_client_cert", "1", "X-Forwarded_Client-Cert", "1", "X-Forwarded-For", "1",
		"X_Forwarded_For", "1", "X-Postern-Peer", "1", "x_postern_peer", "1", "Forwarded", "1", "X-Real-IP", "1", "X-Original-URL", "1",
		"X_Rewrite_Url", "1", "X-HTTP-Method-Override", "1", "X_Http-Method_Override", "1", "X-HTTP-Method", "1", "x_method_override", "1",
		"X-SSL-Client-Verify", "1", "X-Request-Id", "kept", "X-For", "kept", "F", "kept")
	if n := StripIdentity(h); n != 16 || h.text() != "x-request-id=kept x-for=kept f=kept" {
		t.Errorf("%d gone, left: %s", n, h.text())
	}
}

func TestEachIdentityFieldIsKnownInEverySpelling(t *testing.T) {
	for _, name := range []string{
		"forwarded", "x-host", "x-real-ip", "x-ssl-cn", "x-ssl-client-s-dn", "ssl-client-verify", "client-cert", "client-cert-chain",
		"true-client-ip", "remote-user", "x-remote-user", "x-client-cert", "x-spiffe-id", "x-envoy-peer",
		"x-http-method-override", "x-http-method", "x-method-override",
	} {
		for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.Replace(name, "-", "_", 1)} {
			if !IsIdentity(spelling) {
				t.Errorf("%q passes", spelling)
			}
		}
	}
	for _, name := range []string{"", "x", "host-x", "x-request-id", "user-agent", "client", "ssl", "accept", "te"} {
		if IsIdentity(name) {
			t.Errorf("%q is taken away", name)
		}
	}
}

func TestTraceParent(t *testing.T) {
	const value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	parent, err := ParseTraceParent(value)
	if err != nil || parent.String() != value {
		t.Fatalf("%s, %v", parent, err)
	}
	if child := parent.Child([8]byte{1}).String(); child != "00-4bf92f3577b34da6a3ce929d0e0e4736-0100000000000000-01" {
		t.Errorf("child %s", child)
	}
	// W3C Trace Context, Section 4.3: a later version is read as far as it is known.
	if later, err := ParseTraceParent("cc" + value[2:] + "-more"); err != nil || later != parent {
		t.Errorf("%s, %v", later, err)
	}
	for _, bad := range []string{
		"", value[:54], value + "x", value + "-x", "ff" + value[2:], "0G" + value[2:], strings.ToUpper(value),
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		strings.Replace(value, "-", "_", 1), "cc" + value[2:] + ".more",
	} {
		if got, err := ParseTraceParent(bad); err == nil || got != (TraceParent{}) {
			t.Errorf("%q is %s", bad, got)
		}
	}
	if (TraceParent{}).String() != "" {
		t.Error("the zero value is no trace")
	}
}

func FuzzTraceParent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")
	f.Fuzz(func(t *testing.T, value string) {
		parent, err := ParseTraceParent(value)
		if err != nil {
			return
		}
		if again, err := ParseTraceParent(parent.String()); err != nil || again != parent {
			t.Fatalf("%q becomes %s, %v", value, parent, err)
		}
	})
}
