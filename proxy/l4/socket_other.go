//go:build !unix

package l4

import (
	"io"
	"net"
)

// socket reads a plain socket. On this system it waits with the buffer.
type socket struct{ src io.Reader }

// newSocket returns nil for what is no socket of ours.
func newSocket(src any) *socket {
	switch src := src.(type) {
	case *net.TCPConn:
		return &socket{src}
	case *net.UnixConn:
		return &socket{src}
	}
	return nil
}

// read waits until something has arrived and reads it into a buffer that it borrows. The end is io.EOF.
func (s *socket) read(borrow func() []byte, _ func()) (int, error) { return s.src.Read(borrow()) }
