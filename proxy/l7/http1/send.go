package http1

import (
	"errors"
	"io"

	"github.com/postern-proxy/postern/proxy/l7"
)

// sending moves one body to the peer. Head, framing and content gather in one borrowed buffer and leave together as long as the
// body says that more is at hand; nothing is held back while the body is waited for.
type sending struct {
	writer *writer
	buf    []byte
	// pending bytes are buf[start:end].
	start, end int
	chunked    bool
	// left of a body with a length.
	left int64
}

// Framing of a chunk: up to 8 digits and CR LF before, CR LF after.
const (
	chunkHead = 10
	chunkTail = 2
	// minRoom is what must be free in the buffer before another read is worth it.
	minRoom = 1 << 10
)

// bodyError marks that the body, not the peer, was the reason.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

var (
	errBodyShort = errors.New("body is shorter than its length")
	errBodyLong  = errors.New("body is longer than its length")
)

// sendMessage writes the head, which stands at the beginning of a borrowed buffer, and the body to its end. It gives the buffer
// back. length is -1 for chunked and closeBody.
func sendMessage(w *writer, head []byte, body l7.Body, kind bodyKind, length int64) error {
	defer func() { giveBack(head) }()
	if body == nil || kind == noBody {
		return w.write(head)
	}
	s := sending{writer: w, buf: head[:cap(head)], end: len(head), chunked: kind == chunkedBody, left: length}
	if _, whole := l7.ReadyOf(body); !whole && len(s.buf) < largeBuffer {
		larger := borrow(largeBuffer)
		copy(larger, head)
		giveBack(head)
		head, s.buf = larger, larger
	}
	return s.run(body, kind)
}

func (s *sending) run(body l7.Body, kind bodyKind) error {
	for {
		ready, whole := l7.ReadyOf(body)
		if s.end > s.start && ready == 0 && !whole || len(s.buf)-s.end < minRoom {
			if err := s.flush(); err != nil {
				return err
			}
		}
		n, err := body.Read(s.room())
		s.add(n)
		if kind == lengthBody && s.left < 0 {
			return &bodyError{errBodyLong}
		}
		if errors.Is(err, io.EOF) {
			return s.finish(body, kind)
		}
		if err != nil {
			return &bodyError{err}
		}
	}
}

// room is where the next content goes.
func (s *sending) room() []byte {
	if s.chunked {
		return s.buf[s.end+chunkHead : len(s.buf)-chunkTail]
	}
	return s.buf[s.end:]
}

// add frames n bytes that were read into room.
func (s *sending) add(n int) {
	s.left -= int64(n)
	if n == 0 {
		return
	}
	if !s.chunked {
		s.end += n
		return
	}
	var digits [chunkHead]byte
	head := appendChunkHead(digits[:0], n)
	content := s.end + chunkHead
	if s.start == s.end {
		// Nothing stands before this chunk: its head goes right before the content.
		s.start = content - len(head)
	} else {
		copy(s.buf[s.end+len(head):], s.buf[content:content+n])
		content = s.end + len(head)
	}
	copy(s.buf[content-len(head):], head)
	s.end = content + n
	s.end += copy(s.buf[s.end:], "\r\n")
}

// finish ends the message.
func (s *sending) finish(body l7.Body, kind bodyKind) error {
	if kind == lengthBody && s.left != 0 {
		return &bodyError{errBodyShort}
	}
	if s.chunked {
		// The section may outgrow the buffer; then append leaves it, and the borrowed one is still given back by the caller.
		pending := appendTrailer(s.buf[s.start:s.end], body.Trailer())
		return s.writer.write(pending)
	}
	return s.flush()
}

func (s *sending) flush() error {
	pending := s.buf[s.start:s.end]
	s.start, s.end = 0, 0
	if len(pending) == 0 {
		return nil
	}
	return s.writer.write(pending)
}

// appendChunkHead writes the size in hexadecimal and CR LF.
func appendChunkHead(out []byte, n int) []byte {
	const digits = "0123456789abcdef"
	shift := 28
	for shift > 0 && n>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		out = append(out, digits[n>>shift&15])
	}
	return append(out, "\r\n"...)
}
