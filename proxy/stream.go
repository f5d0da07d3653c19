package proxy

import (
	"net"
	"sync/atomic"

	"github.com/postern-proxy/postern/proxy/l7"
)

// stream is the downstream byte stream, with what was read ahead of its owner and a count of what passes.
type stream struct {
	l7.Stream
	conn    net.Conn // the same stream, for splicing
	ahead   []byte
	in, out atomic.Int64
}

func newStream(s l7.Stream, conn net.Conn) *stream { return &stream{Stream: s, conn: conn} }

// Read implements l7.Stream.
func (s *stream) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		s.ahead = s.ahead[n:]
		s.in.Add(int64(n))
		return n, nil
	}
	n, err := s.Stream.Read(p)
	s.in.Add(int64(n))
	return n, err
}

// Write implements l7.Stream.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	s.out.Add(int64(n))
	return n, err
}

// Abort implements l7.Aborter.
func (s *stream) Abort() error { return l7.Abort(s.Stream) }

// Unwrap returns the connection to read from when bytes are spliced, and what was read ahead.
func (s *stream) Unwrap() (net.Conn, []byte) {
	ahead := s.ahead
	s.ahead = nil
	return s.Socket(), ahead
}

// Socket returns the bare socket of a plaintext stream, or the TLS connection.
func (s *stream) Socket() net.Conn {
	if plain, ok := s.conn.(interface{ Socket() net.Conn }); ok {
		return plain.Socket()
	}
	return s.conn
}
