package canonical

import (
	"net/netip"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
)

// maxHost is the length of a DNS name in presentation form without its trailing dot (RFC 1035, Section 2.3.4).
const maxHost = 253

// Host splits an authority into its canonical host and its port, 0 when it names none. The host is in lower case without a
// trailing dot; an IPv6 address stands in brackets in the form of RFC 5952. User information, a zone, an empty host, and bytes
// that no registered name has are refused with reason BadRequest.
func Host(authority string) (host string, port uint16, err error) {
	name, digits, found := splitPort(authority)
	if found {
		if port, err = parsePort(digits); err != nil {
			return "", 0, err
		}
	}
	if strings.HasPrefix(name, "[") {
		host, err = ipv6(name)
		return host, port, err
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxHost {
		return "", 0, refuse(observe.BadRequest, "host is empty or too long")
	}
	lower := true
	label := 0
	for i := range len(name) {
		b := name[i]
		switch {
		case b-'a' < 26, b-'0' < 10, b == '-', b == '_':
			label++
		case b-'A' < 26:
			label++
			lower = false
		case b == '.' && label > 0:
			label = 0
		default:
			return "", 0, refuse(observe.BadRequest, "host with a forbidden character or an empty label")
		}
	}
	if label == 0 {
		return "", 0, refuse(observe.BadRequest, "host with an empty label")
	}
	if !lower {
		name = strings.ToLower(name)
	}
	return name, port, nil
}

// splitPort cuts at the colon of the port, not at one of an IPv6 address.
func splitPort(authority string) (name, digits string, found bool) {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || i < strings.LastIndexByte(authority, ']') {
		return authority, "", false
	}
	return authority[:i], authority[i+1:], true
}

// parsePort accepts 1 to 65535 without leading zeros; an empty port is as none (RFC 3986, Section 6.2.3).
func parsePort(digits string) (uint16, error) {
	if digits == "" {
		return 0, nil
	}
	value := 0
	for i := range len(digits) {
		d := digits[i] - '0'
		if d > 9 || i == 0 && d == 0 {
			return 0, refuse(observe.BadRequest, "port is not a number")
		}
		if value = value*10 + int(d); value > 65535 {
			return 0, refuse(observe.BadRequest, "port above 65535")
		}
	}
	return uint16(value), nil
}

func ipv6(name string) (string, error) {
	if !strings.HasSuffix(name, "]") {
		return "", refuse(observe.BadRequest, "address without closing bracket")
	}
	address, err := netip.ParseAddr(name[1 : len(name)-1])
	if err != nil || !address.Is6() || address.Zone() != "" {
		return "", refuse(observe.BadRequest, "no IPv6 address in the brackets")
	}
	var room [64]byte
	text := append(address.AppendTo(append(room[:0], '[')), ']')
	if name == string(text) {
		return name, nil
	}
	return string(text), nil
}
