package mtls

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// ja4 is the JA4 fingerprint of a TLS client over TCP, as FoxIO describes it: it tells programs apart, not people, and a program
// that wants to can imitate any of them.
func (h *clientHello) ja4() string {
	suites, extensions := withoutGrease(h.suites), withoutGrease(h.extensions)
	destination := 'i'
	if slices.Contains(extensions, extServerName) {
		destination = 'd'
	}
	what := fmt.Sprintf("t%s%c%02d%02d%s", h.ja4Version(), destination, min(len(suites), 99), min(len(extensions), 99), h.ja4Protocol())
	slices.Sort(suites)
	slices.Sort(extensions)
	// What stands in the first part already does not count again.
	hashed := slices.DeleteFunc(extensions, func(kind uint16) bool { return kind == extServerName || kind == extProtocols })
	list := ja4List(hashed)
	if signatures := withoutGrease(h.signatures); list != "" && len(signatures) > 0 {
		list += "_" + ja4List(signatures)
	}
	return what + "_" + ja4Hash(ja4List(suites)) + "_" + ja4Hash(list)
}

// ja4Version is the highest version that the client speaks.
func (h *clientHello) ja4Version() string {
	version := h.version
	if versions := withoutGrease(h.versions); len(versions) > 0 {
		version = slices.MaxFunc(versions, cmp.Compare)
	}
	switch version {
	case tls.VersionTLS13:
		return "13"
	case tls.VersionTLS12:
		return "12"
	case tls.VersionTLS11:
		return "11"
	case tls.VersionTLS10:
		return "10"
	case 0x0300:
		return "s3"
	case 0x0002:
		return "s2"
	default:
		return "00"
	}
}

// ja4Protocol is the first and the last character of the first protocol in ALPN, of its hexadecimal form unless both are letters or
// digits.
func (h *clientHello) ja4Protocol() string {
	if len(h.protocols) == 0 {
		return "00"
	}
	first := h.protocols[0]
	if !alphanumeric(first[0]) || !alphanumeric(first[len(first)-1]) {
		first = hex.EncodeToString([]byte(first))
	}
	return string([]byte{first[0], first[len(first)-1]})
}

func alphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
}

// withoutGrease is a copy without the values that clients strew in to keep servers tolerant (RFC 8701, Section 2).
func withoutGrease(list []uint16) []uint16 {
	kept := make([]uint16, 0, len(list))
	for _, n := range list {
		if n&0x0f0f != 0x0a0a || n>>8 != n&0xff {
			kept = append(kept, n)
		}
	}
	return kept
}

func ja4List(list []uint16) string {
	var b strings.Builder
	b.Grow(5 * len(list))
	for i, n := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(hex.EncodeToString([]byte{byte(n >> 8), byte(n)}))
	}
	return b.String()
}

func ja4Hash(list string) string {
	if list == "" {
		return "000000000000"
	}
	sum := sha256.Sum256([]byte(list))
	return hex.EncodeToString(sum[:6])
}
