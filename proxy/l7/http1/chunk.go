package http1

import (
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// chunks cuts a chunked body (RFC 9112, Section 7.1). It is pure: it is shown the buffered bytes and says how many of them are
// framing. Chunk extensions are checked and dropped.
type chunks struct {
	state chunkState
	// left is the number of content bytes that the current chunk still has.
	left int64
	// excess is how many bytes of framing were received beyond what honest senders need; see overhead.
	excess int
}

type chunkState uint8

const (
	chunkSize    chunkState = iota // before a chunk-size line
	chunkData                      // in content, left > 0
	chunkDataEnd                   // before the CR LF after content
	chunkTrailer                   // before the trailer section, which ends the body
)

// maxChunkLine bounds a chunk-size line with its extensions; it fits the smallest buffer.
const maxChunkLine = 2 << 10

// next consumes framing at the beginning of buf and returns its length. Afterwards the state is chunkData or chunkTrailer, or
// more bytes are needed.
func (c *chunks) next(buf []byte, maxExcess int) (n int, more bool, err *l7.Error) {
	for c.state == chunkSize || c.state == chunkDataEnd {
		var used int
		if c.state == chunkDataEnd {
			used, err = c.dataEnd(buf[n:])
		} else {
			used, err = c.sizeLine(buf[n:], maxExcess)
		}
		if err != nil || used == 0 {
			return n, true, err
		}
		n += used
	}
	return n, false, nil
}

// took notes that n bytes of content were consumed.
func (c *chunks) took(n int) {
	if c.left -= int64(n); c.left == 0 {
		c.state = chunkDataEnd
	}
}

func (c *chunks) dataEnd(buf []byte) (int, *l7.Error) {
	if len(buf) > 0 && buf[0] != '\r' || len(buf) > 1 && buf[1] != '\n' {
		return 0, errChunk("chunk longer than its size")
	}
	if len(buf) < 2 {
		return 0, nil
	}
	c.state = chunkSize
	return 2, nil
}

// sizeLine reads chunk-size [chunk-ext] CR LF.
func (c *chunks) sizeLine(buf []byte, maxExcess int) (int, *l7.Error) {
	size, digits := int64(0), 0
	for digits < len(buf) && isHex(buf[digits]) {
		// 15 digits are enough for any content and cannot overflow.
		if digits == 15 {
			return 0, errChunk("chunk size too large")
		}
		size = size<<4 | hexValue(buf[digits])
		digits++
	}
	if digits == len(buf) {
		return 0, nil
	}
	if digits == 0 || buf[digits] != '\r' && buf[digits] != ';' {
		return 0, errChunk("malformed chunk size")
	}
	end, err := lineEnd(buf, digits)
	if err != nil || end == 0 {
		return 0, err
	}
	if err := c.overhead(end, size, maxExcess); err != nil {
		return 0, err
	}
	c.left, c.state = size, chunkData
	if size == 0 {
		c.state = chunkTrailer
	}
	return end, nil
}

// lineEnd returns the length of the line, 0 when its end has not come.
func lineEnd(buf []byte, from int) (int, *l7.Error) {
	for i := from; i < len(buf); i++ {
		switch {
		case i == maxChunkLine:
			return 0, errChunk("chunk extension too long")
		case buf[i] == '\r' && i+1 == len(buf):
			return 0, nil
		case buf[i] == '\r' && buf[i+1] == '\n':
			return i + 2, nil
		case !l7.IsValueByte(buf[i]):
			return 0, errChunk("chunk-size line with a control character or without CR LF")
		}
	}
	return 0, nil
}

// overhead counts framing that content does not justify: each chunk may have 16 bytes of it and twice its size, what goes beyond
// adds up. So endless one-byte chunks with long extensions end, which others read for ever.
func (c *chunks) overhead(line int, size int64, maxExcess int) *l7.Error {
	c.excess = max(0, c.excess+line+2-16-int(min(2*size, 1<<20)))
	if c.excess > maxExcess {
		return errChunk("too much chunk framing")
	}
	return nil
}

func isHex(b byte) bool { return b-'0' < 10 || b|0x20-'a' < 6 }

func hexValue(b byte) int64 {
	if b-'0' < 10 {
		return int64(b - '0')
	}
	return int64(b | 0x20 - 'a' + 10)
}

func errChunk(text string) *l7.Error { return l7.NewError(observe.BadRequest, text) }
