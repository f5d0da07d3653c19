package proxyproto

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Header is what a PROXY header says. The zero value is none.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Local: the connection is the proxy's own, such as a health check, or one of which it knows no addresses (LOCAL, UNKNOWN,
	// UNSPEC). The addresses of the socket count then, and all else is empty.
	Local bool
	// Source and Destination are the ends of the connection that the proxy accepted; zero for a unix socket.
	Source, Destination netip.AddrPort
	// Checksum: the header has a checksum, which was right; or, to be written, gets one. Version 2 only.
	Checksum bool
	// TLVs are what version 2 says besides, in its order, without padding and checksum.
	TLVs []TLV
}

// TLV is one extension of a header of version 2.
type TLV struct {
	Type  byte
	Value []byte
}

// Value returns the value of the first TLV of the type, and whether there is one. Types of the protocol occur once.
func (h *Header) Value(kind byte) ([]byte, bool) {
	for _, t := range h.TLVs {
		if t.Type == kind {
			return t.Value, true
		}
	}
	return nil, false
}

// ErrNone is the error of Decode and Read for bytes that begin no PROXY header.
var ErrNone = errors.New("no PROXY header")

// DefaultLimit is the longest header that Decode takes, and AppendHeader writes, unless told otherwise: room for addresses and all that
// proxies are known to add.
const DefaultLimit = 4 << 10

// Decode decodes the header that b begins with. When the header is whole, n is its length and at most len(b). When it is not, n is
// more than len(b): what the header needs at the least, so that reading up to n never reads beyond it. A header longer than limit
// bytes is refused; zero or less means DefaultLimit. The error is ErrNone when b begins no header. Nothing of b is kept.
func Decode(b []byte, limit int) (h Header, n int, err error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	switch {
	case begins(b, signature1):
		h, n, err = decode1(b)
	case begins(b, signature2):
		h, n, err = decode2(b, limit)
	default:
		return Header{}, 0, ErrNone
	}
	if err != nil {
		return Header{}, 0, fmt.Errorf("PROXY header: %w", err)
	}
	return h, n, nil
}

// begins reports that b begins with the signature, or is the beginning of it.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// Begun reports that b begins a header whatever follows: Decode will not say ErrNone any more.
func Begun(b []byte) bool {
	return len(b) >= len(signature1) && begins(b, signature1) || len(b) >= len(signature2) && begins(b, signature2)
}

// Read reads one header from r and nothing beyond it. When there is none, the error is ErrNone and rest is what was read, which
// belongs to whoever reads on. An end within the header is io.ErrUnexpectedEOF; one before the first byte, io.EOF. The caller bounds the time.
func Read(r io.Reader, limit int) (h Header, rest []byte, err error) {
	buf := make([]byte, 0, firstRead)
	for {
		h, n, err := Decode(buf, limit)
		if errors.Is(err, ErrNone) {
			return Header{}, buf, err
		}
		if err != nil {
			return Header{}, nil, err
		}
		if n <= len(buf) {
			return h, nil, nil
		}
		if n > cap(buf) {
			buf = append(make([]byte, 0, n), buf...)
		}
		got, err := r.Read(buf[len(buf):n])
		buf = buf[:len(buf)+got]
		if got > 0 {
			continue
		}
		if errors.Is(err, io.EOF) && len(buf) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Header{}, buf, err
		}
	}
}

// firstRead holds every header of version 1, and one of version 2 with a few extensions.
const firstRead = 128
