//go:build unix

package mtls

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// probe reads a socket without waiting. It belongs to who reads the connection.
type probe struct {
	access  syscall.RawConn
	attempt func(fd uintptr) bool // made once, so that an attempt allocates nothing
	into    []byte
	n       int
	err     error
}

// newProbe returns nil when there is no socket beneath.
func newProbe(conn net.Conn) *probe {
	if wrapped, ok := conn.(interface{ Socket() net.Conn }); ok {
		conn = wrapped.Socket()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	access, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	p := &probe{access: access}
	p.attempt = func(fd uintptr) bool {
		for {
			p.n, p.err = syscall.Read(int(fd), p.into)
			if !errors.Is(p.err, syscall.EINTR) {
				return true // done, whatever came of it
			}
		}
	}
	return p
}

// try reads what is there. It fails with errNothing when there is nothing yet, and with io.EOF at the end.
func (p *probe) try(into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	p.into = into
	err := p.access.Read(p.attempt)
	p.into = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(p.err, syscall.EAGAIN):
		return 0, errNothing
	case p.err != nil:
		return 0, p.err
	case p.n <= 0:
		return 0, io.EOF
	}
	return p.n, nil
}
