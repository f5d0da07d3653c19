package l4

import (
	"errors"
	"io"
	"net"
	"sync"
)

// bare returns the socket under a stream that only wraps it, and what was read ahead.
func bare(s Stream) (io.Reader, []byte) {
	if w, ok := s.(unwrapper); ok {
		return w.Unwrap()
	}
	return s, nil
}

// bareWriter returns the socket under a stream for writing, where nothing is ahead.
func bareWriter(s Stream) io.Writer {
	if w, ok := s.(interface{ Socket() net.Conn }); ok {
		return w.Socket()
	}
	return s
}

// transfer copies until src ends, which is no error, or something fails. A deadline that passes while reading loses nothing: all
// that was read has been written by then, through the buffer as well as with splice(2), whose pipe is empty whenever it reads.
func transfer(dst io.Writer, src io.Reader) (int64, error) {
	from, plain := src.(*net.TCPConn)
	to, ok := dst.(*net.TCPConn)
	if plain && ok {
		return to.ReadFrom(from) // splice(2) on Linux
	}
	return pump(dst, src)
}

func pump(dst io.Writer, src io.Reader) (int64, error) {
	buf, _ := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	var moved int64
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			written, writeErr := dst.Write(buf[:n])
			moved += int64(written)
			if writeErr != nil {
				return moved, writeErr
			}
		}
		if errors.Is(err, io.EOF) {
			return moved, nil
		}
		if err != nil {
			return moved, err
		}
	}
}

// bufferSize is two TLS records, so that one write of ours becomes full records.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
