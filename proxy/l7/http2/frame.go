package http2

import (
	"encoding/binary"
	"fmt"

	"github.com/postern-proxy/postern/internal/observe"
)

// preface is what a client sends first (RFC 9113, Section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frameType is the type of a frame (RFC 9113, Section 6).
type frameType uint8

const (
	frameData         frameType = 0x0
	frameHeaders      frameType = 0x1
	framePriority     frameType = 0x2
	frameRSTStream    frameType = 0x3
	frameSettings     frameType = 0x4
	framePushPromise  frameType = 0x5
	framePing         frameType = 0x6
	frameGoAway       frameType = 0x7
	frameWindowUpdate frameType = 0x8
	frameContinuation frameType = 0x9
)

// Flags of frames.
const (
	flagAck        = 0x1 // SETTINGS, PING
	flagEndStream  = 0x1 // DATA, HEADERS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	// frameHead is the size of a frame header.
	frameHead = 9
	// maxFrame is the largest payload that is accepted, and sent: what every peer must accept, too (RFC 9113, Section 4.2).
	maxFrame = 16 << 10
	// maxData is the largest payload of a DATA frame that is sent: with its header it fills one TLS record.
	maxData = maxFrame - frameHead

	defaultWindow = 65535
	maxWindow     = 1<<31 - 1
	maxStreamID   = 1<<31 - 1
)

// errCode is an error code (RFC 9113, Section 7).
type errCode uint32

const (
	codeNo              errCode = 0x0
	codeProtocol        errCode = 0x1
	codeInternal        errCode = 0x2
	codeFlowControl     errCode = 0x3
	codeStreamClosed    errCode = 0x5
	codeFrameSize       errCode = 0x6
	codeRefusedStream   errCode = 0x7
	codeCancel          errCode = 0x8
	codeCompression     errCode = 0x9
	codeEnhanceYourCalm errCode = 0xb
)

// connError ends the connection: GOAWAY with the code, unless the peer is gone.
type connError struct {
	code   errCode
	reason observe.Reason
	text   string
}

// Error says what the peer did.
func (e *connError) Error() string { return fmt.Sprintf("%s: %s", e.reason, e.text) }

func protocolError(text string) *connError {
	return &connError{codeProtocol, observe.ProtocolError, text}
}

func brokenRule(code errCode, text string) *connError {
	return &connError{code, observe.ProtocolError, text}
}

func abuse(text string) *connError {
	return &connError{codeEnhanceYourCalm, observe.Abuse, text}
}

// frame is one that was read. The payload is a view into the read buffer, valid until the next read.
type frame struct {
	kind    frameType
	flags   uint8
	stream  uint32
	payload []byte
}

// parseFrame cuts the frame at the beginning of buf, which is of length frameHead+len(payload). When it is not complete, need is
// the size of buf that it takes, and the frame is zero.
func parseFrame(buf []byte) (f frame, need int, err *connError) {
	if len(buf) < frameHead {
		return frame{}, frameHead, nil
	}
	length := int(buf[0])<<16 | int(buf[1])<<8 | int(buf[2])
	if length > maxFrame {
		return frame{}, 0, brokenRule(codeFrameSize, "frame larger than SETTINGS_MAX_FRAME_SIZE")
	}
	if len(buf) < frameHead+length {
		return frame{}, frameHead + length, nil
	}
	f = frame{
		kind:    frameType(buf[3]),
		flags:   buf[4],
		stream:  binary.BigEndian.Uint32(buf[5:]) & maxStreamID,
		payload: buf[frameHead : frameHead+length],
	}
	return f, 0, nil
}

func (f *frame) has(flag uint8) bool { return f.flags&flag != 0 }

// unpadded is the payload of DATA or HEADERS without its padding (RFC 9113, Section 6.1).
func (f *frame) unpadded() ([]byte, *connError) {
	p := f.payload
	if !f.has(flagPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, brokenRule(codeFrameSize, "padded frame without a length of padding")
	}
	padding := int(p[0])
	if p = p[1:]; padding > len(p) {
		return nil, protocolError("padding is longer than the frame")
	}
	return p[:len(p)-padding], nil
}

// appendFrameHead writes the header of a frame.
func appendFrameHead(out []byte, length int, kind frameType, flags uint8, stream uint32) []byte {
	return append(out, byte(length>>16), byte(length>>8), byte(length), byte(kind), flags,
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// putFrameHead writes it over the beginning of buf.
func putFrameHead(buf []byte, length int, kind frameType, flags uint8, stream uint32) {
	_ = appendFrameHead(buf[:0:frameHead], length, kind, flags, stream)
}

func appendRSTStream(out []byte, stream uint32, code errCode) []byte {
	out = appendFrameHead(out, 4, frameRSTStream, 0, stream)
	return binary.BigEndian.AppendUint32(out, uint32(code))
}

func appendWindowUpdate(out []byte, stream uint32, n int) []byte {
	out = appendFrameHead(out, 4, frameWindowUpdate, 0, stream)
	return binary.BigEndian.AppendUint32(out, uint32(n))
}

func appendPing(out []byte, flags uint8, data [8]byte) []byte {
	out = appendFrameHead(out, len(data), framePing, flags, 0)
	return append(out, data[:]...)
}

func appendGoAway(out []byte, last uint32, code errCode) []byte {
	out = appendFrameHead(out, 8, frameGoAway, 0, 0)
	out = binary.BigEndian.AppendUint32(out, last)
	return binary.BigEndian.AppendUint32(out, uint32(code))
}
