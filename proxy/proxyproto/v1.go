package proxyproto

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

const (
	signature1 = "PROXY "
	// maxLine is the longest line with its end (section 2.1).
	maxLine = 107
	// minLine is the shortest: "PROXY UNKNOWN" and the line's end.
	minLine = 15
)

// decode1 decodes the line of version 1 (section 2.1).
func decode1(b []byte) (Header, int, error) {
	line := b[:min(len(b), maxLine)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return incompleteLine(line)
	}
	// "The receiver must not tolerate a single CR or LF character to end the line."
	if end == 0 || line[end-1] != '\r' {
		return Header{}, 0, errors.New("the line ends without CR")
	}
	h, err := parseLine(string(line[:end-1]))
	return h, end + 1, err
}

// incompleteLine says what a line without its end needs at the least.
func incompleteLine(line []byte) (Header, int, error) {
	cr := bytes.IndexByte(line, '\r')
	switch {
	case cr >= 0 && cr != len(line)-1:
		return Header{}, 0, errors.New("CR within the line")
	case len(line) == maxLine, len(line) == maxLine-1 && cr < 0:
		return Header{}, 0, errors.New("the line is longer than 107 bytes")
	case cr >= 0:
		return Header{}, max(len(line)+1, minLine), nil
	}
	return Header{}, max(len(line)+2, minLine), nil
}

func parseLine(line string) (Header, error) {
	if strings.ContainsRune(line, '\r') {
		return Header{}, errors.New("CR within the line")
	}
	rest := line[len(signature1):]
	// "The receiver must ignore anything presented before the CRLF is found."
	if rest == "UNKNOWN" || strings.HasPrefix(rest, "UNKNOWN ") {
		return Header{Version: 1, Local: true}, nil
	}
	fields := strings.Split(rest, " ")
	if len(fields) != 5 {
		return Header{}, errors.New("not family, two addresses and two ports with one space between them")
	}
	family := fields[0]
	if family != "TCP4" && family != "TCP6" {
		return Header{}, errors.New("the family is none of TCP4, TCP6, UNKNOWN")
	}
	source, err := parseAddrPort(family, fields[1], fields[3])
	if err != nil {
		return Header{}, err
	}
	destination, err := parseAddrPort(family, fields[2], fields[4])
	return Header{Version: 1, Source: source, Destination: destination}, err
}

func parseAddrPort(family, address, port string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Is4() != (family == "TCP4") || addr.Zone() != "" {
		return netip.AddrPort{}, errors.New("an address is none of the family")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(number, 10) != port {
		return netip.AddrPort{}, errors.New("a port is not a number from 0 to 65535 without leading zeros")
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}

func append1(buf []byte, h Header) []byte {
	source, destination, family := family(h)
	buf = append(buf, signature1...)
	if family == familyUnspec {
		return append(buf, "UNKNOWN\r\n"...)
	}
	if family == familyTCP4 {
		buf = append(buf, "TCP4 "...)
	} else {
		buf = append(buf, "TCP6 "...)
	}
	buf = append(source.Addr().AppendTo(buf), ' ')
	buf = append(destination.Addr().AppendTo(buf), ' ')
	buf = append(strconv.AppendUint(buf, uint64(source.Port()), 10), ' ')
	buf = strconv.AppendUint(buf, uint64(destination.Port()), 10)
	return append(buf, "\r\n"...)
}
