package http1

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// bodyKind is the way in which the end of a body is known.
type bodyKind uint8

const (
	noBody bodyKind = iota
	lengthBody
	chunkedBody
	closeBody // ends with the connection; responses only
)

// body reads the content of one message from its connection. It is part of the message's exchange and reused with it.
type body struct {
	reader  *reader
	kind    bodyKind
	side    l7.Side
	limits  *Limits
	timeout time.Duration

	left    int64 // of a lengthBody
	chunks  chunks
	trailer l7.Header
	ended   bool
	err     error // io.EOF when complete; set once

	closed atomic.Bool
}

// begin sets the body up for a new message.
func (b *body) begin(r *reader, kind bodyKind, length int64, side l7.Side, limits *Limits, timeout time.Duration) {
	b.reader, b.kind, b.side, b.limits, b.timeout = r, kind, side, limits, timeout
	b.left, b.chunks, b.ended, b.err = length, chunks{}, false, nil
	b.trailer.Reset()
	b.closed.Store(false)
	r.halt = &b.closed
	if kind == noBody || kind == lengthBody && length == 0 {
		b.err = io.EOF
	}
}

// complete: the whole content was read, trailers included.
func (b *body) complete() bool { return errors.Is(b.err, io.EOF) }

// Read implements l7.Body.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.closed.Load() {
		return 0, b.failed(errHalted)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.read(p)
	if err != nil {
		b.err = err
	}
	return n, err
}

// Trailer implements l7.Body.
func (b *body) Trailer() *l7.Header {
	if !b.complete() || b.trailer.Len() == 0 {
		return nil
	}
	return &b.trailer
}

// Close implements l7.Body: a Read that waits ends.
func (b *body) Close() error {
	if !b.closed.Swap(true) {
		b.reader.interrupt()
	}
	return nil
}

// Ready implements l7.Ready.
func (b *body) Ready() (int, bool) {
	buffered := int64(len(b.reader.buffered()))
	switch {
	case b.err != nil:
		return 0, b.complete()
	case b.kind == lengthBody:
		return int(min(b.left, buffered)), b.left <= buffered
	case b.kind == chunkedBody:
		return b.readyChunk()
	default:
		return int(buffered), false
	}
}

// readyChunk looks at the chunks that are buffered. Errors are left for Read to find.
func (b *body) readyChunk() (int, bool) {
	if err := b.advance(); err != nil {
		b.err = err
		return 0, false
	}
	switch b.chunks.state {
	case chunkData:
		return int(min(b.chunks.left, int64(len(b.reader.buffered())))), false
	case chunkTrailer:
		length, _, _ := scanSection(b.reader.buffered(), 0, true)
		return 0, length > 0
	default:
		return 0, false
	}
}

func (b *body) read(p []byte) (int, error) {
	switch b.kind {
	case lengthBody:
		return b.readLength(p)
	case chunkedBody:
		return b.readChunked(p)
	case closeBody:
		n, err := b.reader.readBody(p, b.deadline())
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		return n, b.failed(err)
	default:
		return 0, io.EOF
	}
}

func (b *body) readLength(p []byte) (int, error) {
	n, err := b.reader.readBody(p[:min(int64(len(p)), b.left)], b.deadline())
	if err != nil {
		return 0, b.failed(err)
	}
	// The end is told with the last bytes, as soon as it is known.
	if b.left -= int64(n); b.left == 0 {
		b.err = io.EOF
	}
	return n, nil
}

func (b *body) readChunked(p []byte) (int, error) {
	for {
		if err := b.advance(); err != nil {
			return 0, err
		}
		if b.chunks.state == chunkData {
			break
		}
		if b.chunks.state == chunkTrailer {
			return 0, b.readTrailer()
		}
		if err := b.reader.fill(b.deadline()); err != nil {
			return 0, b.failed(err)
		}
	}
	n, err := b.reader.readBody(p[:min(int64(len(p)), b.chunks.left)], b.deadline())
	if err != nil {
		return 0, b.failed(err)
	}
	b.chunks.took(n)
	return n, nil
}

// advance consumes the chunk framing that is buffered.
func (b *body) advance() error {
	n, _, err := b.chunks.next(b.reader.buffered(), b.limits.MaxChunkOverhead)
	b.reader.consume(n)
	if err != nil {
		return b.malformed(err)
	}
	return nil
}

// readTrailer reads the trailer section and returns io.EOF when it is fine. Fields that a trailer may not have are dropped;
// framing in a trailer is an attempt to give the message another end, and refused (RFC 9110, Section 6.5.1).
func (b *body) readTrailer() error {
	section, err := b.reader.section(true, b.trailerTooLarge, b.deadline())
	if err == nil && len(section) > b.limits.MaxTrailer {
		err = b.trailerTooLarge(section)
	}
	if err != nil {
		return b.failed(err)
	}
	raw := b.trailer.Load(section)
	b.reader.consume(len(section))
	var f framing
	rules := fieldRules{max: b.limits.MaxFields, underscores: b.side == l7.Upstream}
	if err := parseFields(raw, 0, &b.trailer, &f, rules); err != nil {
		return b.malformed(err)
	}
	if f.hosts+f.contentLengths+f.transferEncodings > 0 {
		return b.malformed(l7.NewError(observe.BadRequest, "framing field in a trailer section"))
	}
	b.trailer.DelFunc(func(name, _ string) bool { return l7.IsForbiddenTrailer(name) })
	return io.EOF
}

func (b *body) trailerTooLarge(section []byte) *l7.Error {
	if len(section) >= b.limits.MaxTrailer {
		return l7.NewError(observe.HeadTooLarge, "trailer section too large")
	}
	return nil
}

func (b *body) deadline() time.Time { return time.Now().Add(b.timeout) }

// failed gives the error of a read its reason.
func (b *body) failed(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*l7.Error](err); ok {
		return b.malformed(e)
	}
	if b.side == l7.Upstream {
		return streamError(err, b.side, observe.UpstreamTimeout, observe.UpstreamReset)
	}
	return streamError(err, b.side, observe.RequestTimeout, observe.IOError)
}

func (b *body) malformed(err *l7.Error) error {
	if b.side == l7.Upstream {
		return upstreamError(err)
	}
	return err
}
