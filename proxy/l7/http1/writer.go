package http1

import (
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// writer is the writing half of a connection. It belongs to the goroutine that writes.
type writer struct {
	stream  l7.Stream
	timeout time.Duration
	// attempted: bytes were handed to the stream, so that the peer may have seen some.
	attempted bool
}

// write hands everything to the stream, with a deadline for just these bytes.
func (w *writer) write(p []byte) error {
	if err := w.stream.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	w.attempted = true
	_, err := w.stream.Write(p)
	return err
}
