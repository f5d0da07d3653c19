package http1

import (
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// writer is the writing half of a connection. It belongs to the goroutine that writes.
type writer struct {
	stream  l7.Stream
	timeout time.Duration
	// pace of the response under way.
	pace pace
	// attempted: bytes were handed to the stream, so that the peer may have seen some.
	attempted bool
}

// write hands everything to the stream, with a deadline for just these bytes.
func (w *writer) write(p []byte) error {
	began := time.Now()
	if err := w.stream.SetWriteDeadline(w.pace.deadline(began.Add(w.timeout), began, len(p))); err != nil {
		return err
	}
	w.attempted = true
	_, err := w.stream.Write(p)
	if w.pace.rate > 0 {
		w.pace.took(len(p), time.Since(began))
	}
	return err
}
