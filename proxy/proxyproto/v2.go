package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
)

const signature2 = "\r\n\r\n\x00\r\nQUIT\n"

// The fixed part of version 2 (section 2.2): signature, version and command, family, length of the rest.
const (
	commandAt    = len(signature2)
	familyAt     = commandAt + 1
	lengthAt     = familyAt + 1
	fixedLength  = lengthAt + 2
	commandLocal = 0x20
	commandProxy = 0x21
)

const (
	familyUnspec = 0x00
	familyTCP4   = 0x11
	familyTCP6   = 0x21
	familyUnix   = 0x31
)

// decode2 decodes the binary header of version 2 (section 2.2).
func decode2(b []byte, limit int) (Header, int, error) {
	if len(b) < fixedLength {
		return Header{}, fixedLength, checkFixed(b)
	}
	if err := checkFixed(b); err != nil {
		return Header{}, 0, err
	}
	n := fixedLength + int(binary.BigEndian.Uint16(b[lengthAt:]))
	if n > limit {
		return Header{}, 0, fmt.Errorf("%d bytes long, the limit is %d", n, limit)
	}
	if len(b) < n {
		return Header{}, n, nil
	}
	h, err := decodeWhole(b[:n])
	return h, n, err
}

// checkFixed checks what there is of the fixed part, so that a wrong one is refused without waiting for the rest.
func checkFixed(b []byte) error {
	if len(b) > commandAt && b[commandAt] != commandLocal && b[commandAt] != commandProxy {
		return errors.New("the version is not 2, or the command is neither LOCAL nor PROXY")
	}
	if len(b) <= familyAt || b[commandAt] == commandLocal { // which ignores the family
		return nil
	}
	switch b[familyAt] {
	case familyUnspec, familyTCP4, familyTCP6, familyUnix:
		return nil
	}
	return errors.New("neither TCP over IPv4 or IPv6 nor a unix stream")
}

func decodeWhole(b []byte) (Header, error) {
	// LOCAL: "must use the real connection endpoints and discard the protocol block including the family which is ignored".
	// UNSPEC: "should ignore address information"; where that ends, and extensions would begin, is not said.
	if b[commandAt] == commandLocal || b[familyAt] == familyUnspec {
		return Header{Version: 2, Local: true}, nil
	}
	h := Header{Version: 2}
	block := b[fixedLength:]
	size := addressSize(b[familyAt])
	if len(block) < size {
		return Header{}, errors.New("shorter than its addresses")
	}
	if b[familyAt] != familyUnix {
		h.Source, h.Destination = addresses(block[:size])
	}
	var err error
	h.TLVs, h.Checksum, err = decodeTLVs(b, fixedLength+size)
	return h, err
}

func addressSize(family byte) int {
	switch family {
	case familyTCP4:
		return 2 * (4 + 2)
	case familyTCP6:
		return 2 * (16 + 2)
	case familyUnix:
		return 2 * 108
	}
	return 0
}

// addresses reads source, destination, and the port of each.
func addresses(block []byte) (source, destination netip.AddrPort) {
	size := (len(block) - 4) / 2
	from, _ := netip.AddrFromSlice(block[:size])
	to, _ := netip.AddrFromSlice(block[size : 2*size])
	ports := block[2*size:]
	return netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:]))
}

// AppendHeader appends the header to buf. Without any address it is that of a unix socket; one address that is missing or has a zone
// makes it one of unknown origin. In version 1 there is nothing but the addresses; in version 2 a TLV with which the header would
// be longer than DefaultLimit is left out. A version other than 1 is written as 2.
func AppendHeader(buf []byte, h Header) []byte {
	if h.Version == 1 {
		return append1(buf, h)
	}
	return append2(buf, h)
}

func append2(buf []byte, h Header) []byte {
	source, destination, family := family(h)
	begin := len(buf)
	buf = append(buf, signature2...)
	if h.Local {
		return append(buf, commandLocal, familyUnspec, 0, 0)
	}
	buf = append(buf, commandProxy, family, 0, 0)
	switch family {
	case familyUnspec:
		return buf
	case familyUnix:
		buf = append(buf, make([]byte, addressSize(familyUnix))...)
	case familyTCP4, familyTCP6:
		buf = append(buf, source.Addr().AsSlice()...)
		buf = append(buf, destination.Addr().AsSlice()...)
		buf = binary.BigEndian.AppendUint16(buf, source.Port())
		buf = binary.BigEndian.AppendUint16(buf, destination.Port())
	}
	limit := begin + DefaultLimit
	checksum := -1
	if h.Checksum {
		buf = AppendTLV(buf, TLV{Type: TypeChecksum, Value: make([]byte, crc32.Size)})
		checksum = len(buf) - crc32.Size
	}
	for _, t := range h.TLVs {
		if len(buf)+tlvHead+len(t.Value) <= limit {
			buf = AppendTLV(buf, t)
		}
	}
	binary.BigEndian.PutUint16(buf[begin+lengthAt:], uint16(len(buf)-begin-fixedLength))
	if checksum >= 0 {
		binary.BigEndian.PutUint32(buf[checksum:], crc32.Checksum(buf[begin:], castagnoli()))
	}
	return buf
}

// family says as what the addresses are written, and gives them in that form: two of IPv4 as such, others as IPv6.
func family(h Header) (source, destination netip.AddrPort, family byte) {
	from, to := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	switch {
	case h.Local:
		return source, destination, familyUnspec
	case !h.Source.IsValid() && !h.Destination.IsValid() && h.Version != 1:
		return source, destination, familyUnix
	case !h.Source.IsValid() || !h.Destination.IsValid() || from.Zone() != "" || to.Zone() != "":
		return source, destination, familyUnspec
	case from.Is4() && to.Is4():
		return netip.AddrPortFrom(from, h.Source.Port()), netip.AddrPortFrom(to, h.Destination.Port()), familyTCP4
	}
	return netip.AddrPortFrom(netip.AddrFrom16(from.As16()), h.Source.Port()),
		netip.AddrPortFrom(netip.AddrFrom16(to.As16()), h.Destination.Port()), familyTCP6
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by the standard library
