package http1

import (
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// tunnel is a stream after its last HTTP message: reads begin with what had been buffered.
type tunnel struct {
	l7.Stream
	reader *reader
}

// newTunnel takes the deadlines off the stream.
func newTunnel(r *reader) (l7.Stream, error) {
	if err := r.stream.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := r.stream.SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &tunnel{Stream: r.stream, reader: r}, nil
}

// Read implements l7.Stream.
func (t *tunnel) Read(p []byte) (int, error) {
	if len(t.reader.buffered()) > 0 {
		n := copy(p, t.reader.buffered())
		t.reader.consume(n)
		t.reader.release()
		return n, nil
	}
	t.reader.release()
	return t.Stream.Read(p)
}

// Abort implements l7.Aborter.
func (t *tunnel) Abort() error { return l7.Abort(t.Stream) }
