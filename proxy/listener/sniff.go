package listener

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Kind is what the first bytes of a connection look like.
type Kind uint8

// Kinds.
const (
	// Opaque is neither TLS nor HTTP, or a peer that waits for us to speak first.
	Opaque Kind = iota
	// TLS starts with a handshake record, RFC 8446, Section 5.1.
	TLS
	// HTTP starts with a request line, RFC 9112, Section 3.
	HTTP
	// HTTP2 starts with the preface, RFC 9113, Section 3.4.
	HTTP2
)

// String returns "opaque", "tls", "http" or "http2".
func (k Kind) String() string {
	switch k {
	case TLS:
		return "tls"
	case HTTP:
		return "http"
	case HTTP2:
		return "http2"
	case Opaque:
	}
	return "opaque"
}

// Sniff reads until the kind of traffic is clear, at most 32 bytes and for at most the given time, and returns what it read, which
// the owner has to read first. A peer that sends nothing in that time is Opaque: protocols in which the server speaks first look
// like that. One that begins like HTTP and then waits is HTTP: a pause must not turn a request into a byte stream. The error is that of
// the connection; a clean close before the first byte is io.EOF.
//
// It guesses only what to expect: the strict parser of that protocol decides.
func Sniff(c net.Conn, within time.Duration) (kind Kind, ahead []byte, err error) {
	return sniffWithin(c, within, classify)
}

// SniffHTTP is Sniff for a connection that is to speak HTTP: it says whether with HTTP/2. The client speaks first in both versions;
// one that sends nothing in time, or only a part of the preface, is left to the deadlines of HTTP/1.
func SniffHTTP(c net.Conn, within time.Duration) (http2 bool, ahead []byte, err error) {
	kind, ahead, err := sniffWithin(c, within, classifyPreface)
	return kind == HTTP2, ahead, err
}

func sniffWithin(c net.Conn, within time.Duration, classify func([]byte) (Kind, bool)) (kind Kind, ahead []byte, err error) {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return Opaque, nil, fmt.Errorf("sniff protocol: %w", err)
	}
	kind, ahead, err = sniff(c, classify)
	if reset := c.SetReadDeadline(time.Time{}); err == nil && reset != nil {
		err = fmt.Errorf("sniff protocol: %w", reset)
	}
	return kind, ahead, err
}

func sniff(c net.Conn, classify func([]byte) (Kind, bool)) (Kind, []byte, error) {
	buf := make([]byte, 0, sniffLength)
	for {
		if kind, sure := classify(buf); sure {
			return kind, buf, nil
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == nil || n > 0 {
			continue
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && len(buf) > 0 && buf[0] != recordHandshake:
			return HTTP, buf, nil
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF) && len(buf) > 0:
			return Opaque, buf, nil
		}
		return Opaque, nil, err
	}
}

// classify says what the bytes start, and whether more bytes could change the answer.
func classify(b []byte) (kind Kind, sure bool) {
	if len(b) == 0 {
		return Opaque, false
	}
	if b[0] == recordHandshake {
		if len(b) < 3 {
			return TLS, false
		}
		if b[1] == 3 && b[2] <= 4 {
			return TLS, true
		}
		return Opaque, true
	}
	if b[0] == '\r' || b[0] == '\n' {
		return HTTP, true // services skip empty lines before a request (RFC 9112, Section 2.2); here they are refused
	}
	if kind, sure := classifyPreface(b); kind == HTTP2 || !sure {
		return kind, sure
	}
	return classifyHTTP(b)
}

// classifyPreface tells the HTTP/2 preface from any other request line. Its first line is enough, and less is not: PRI is a method
// like any other in a request of HTTP/1. The engine checks the rest.
func classifyPreface(b []byte) (Kind, bool) {
	n := min(len(b), len(prefaceLine))
	if string(b[:n]) != prefaceLine[:n] {
		return HTTP, true
	}
	if n < len(prefaceLine) {
		return HTTP, false
	}
	return HTTP2, true
}

// classifyHTTP accepts upper-case letters, as every registered method has, up to a space followed by a slash, a star or a letter.
func classifyHTTP(b []byte) (Kind, bool) {
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z' || c == '-' && i > 0:
		case c == ' ' && i >= 3:
			if i+1 == len(b) {
				return HTTP, len(b) == sniffLength
			}
			next := b[i+1]
			if next == '/' || next == '*' || next|0x20 >= 'a' && next|0x20 <= 'z' || next >= '0' && next <= '9' || next == '[' {
				return HTTP, true
			}
			return Opaque, true
		default:
			return Opaque, true
		}
	}
	return Opaque, len(b) == sniffLength
}

const (
	// sniffLength is room for the longest registered method (UPDATEREDIRECTREF, 17) and the byte after it.
	sniffLength     = 32
	recordHandshake = 22
	prefaceLine     = "PRI * HTTP/2.0\r\n"
)
