package http2

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// body reads the content of one message from its stream. It is part of the message's exchange.
type body struct {
	stream *stream
	side   l7.Side
	// err ends the body; set once, by who reads.
	err error
}

func (b *body) begin(s *stream, side l7.Side) { *b = body{stream: s, side: side} }

var errBodyClosed = errors.New("the body was closed")

// read reads content, and waits for it not longer than that.
func (b *body) read(p []byte, within time.Duration) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	deadline := time.Time{}
	for {
		n, err := b.take(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			b.err = err
			return 0, err
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(within)
		}
		if !b.stream.readable.Park(deadline) {
			b.err = b.late()
			return 0, b.err
		}
	}
}

// take takes what is there; nothing and no error is a reason to wait.
func (b *body) take(p []byte) (int, error) {
	s := b.stream
	s.conn.mu.Lock()
	n := s.content.take(p[:min(len(p), s.available())])
	var err error
	flush := false
	switch {
	case n > 0:
		flush = s.giveBack(n)
	case s.deaf: // what was dropped must not make the rest look whole
		if err = errBodyClosed; s.err != nil {
			err = s.err
		}
	case s.recvEnd:
		err = io.EOF
	case s.err != nil:
		err = s.err
	}
	s.conn.mu.Unlock()
	if flush {
		s.conn.flushSoon()
	}
	return n, err
}

// available is how much of what came may be read. The last byte of a request with a content-length waits for the end of the
// stream: an upstream that counts would take the request for whole, and what comes instead of the end can still make it malformed,
// so that it may not be forwarded (RFC 9113, Section 8.1.1). The mutex is held.
func (s *stream) available() int {
	n := s.content.size
	if n > 0 && s.client == nil && !s.recvEnd && s.received == s.declared {
		n--
	}
	return n
}

func (b *body) late() *l7.Error {
	reason := observe.RequestTimeout
	if b.side == l7.Upstream {
		reason = observe.UpstreamTimeout
	}
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: b.side, Err: errSlowBody}
}

var errSlowBody = errors.New("the body did not come in time")

// complete: the whole content was read, trailers included.
func (b *body) complete() bool { return errors.Is(b.err, io.EOF) }

// Trailer implements l7.Body.
func (b *body) Trailer() *l7.Header {
	if !b.complete() || b.stream.trailer.Len() == 0 {
		return nil
	}
	return &b.stream.trailer
}

// Ready implements l7.Ready.
func (b *body) Ready() (int, bool) {
	if b.err != nil {
		return 0, b.complete()
	}
	s := b.stream
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.available(), s.recvEnd && !s.deaf
}

// giveUp drops what comes from now on and ends a Read that waits.
func (b *body) giveUp() {
	s := b.stream
	s.conn.mu.Lock()
	flush := s.dropContent()
	s.readable.Unpark()
	s.conn.mu.Unlock()
	if flush {
		s.conn.flushSoon()
	}
}

// requestBody is the body of a request, which is asked for with 100 (Continue) when that is expected.
type requestBody struct {
	body
	exchange *serverExchange
	expected atomic.Bool
}

func (b *requestBody) begin(s *stream, side l7.Side) {
	b.body.begin(s, side)
	b.expected.Store(false)
}

// Start implements l7.Starter.
func (b *requestBody) Start() error {
	if !b.expected.Swap(false) {
		return nil
	}
	if b.exchange.begun.Load() {
		b.err = &l7.Error{Reason: observe.IOError, Status: 500, Err: errNotAsked}
		return b.err
	}
	return b.exchange.informational(100, nil)
}

var errNotAsked = errors.New("the response came before the body was asked for")

// Read implements l7.Body.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.expected.Load() {
		if n, whole := b.body.Ready(); n == 0 && !whole {
			if err := b.Start(); err != nil {
				return 0, err
			}
		}
	}
	return b.read(p, b.within())
}

// within is how long the next bytes may take: a body with a length that nobody answers yet is a plain upload, all others may be
// calls that stream both ways.
func (b *requestBody) within() time.Duration {
	t := b.stream.conn.timeouts
	if b.stream.declared >= 0 && !b.exchange.begun.Load() {
		return t.Body
	}
	return t.StreamIdle
}

// Ready implements l7.Ready: what was not asked for is not there.
func (b *requestBody) Ready() (int, bool) {
	if b.expected.Load() {
		return 0, false
	}
	return b.body.Ready()
}

// Close implements l7.Body: a Read that waits ends.
func (b *requestBody) Close() error {
	b.giveUp()
	return nil
}
