//go:build unix

package l4

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// socket reads a plain socket in such a way that there is no buffer while nothing is to be read.
type socket struct {
	access  syscall.RawConn
	attempt func(fd uintptr) bool

	borrow   func() []byte
	giveBack func()
	n        int
	err      error
}

// newSocket returns nil for what is no socket of ours.
func newSocket(src any) *socket {
	switch src.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	access, err := src.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{access: access}
	s.attempt = s.try // once, since each makes a closure
	return s
}

// read waits until something has arrived and reads it into a buffer that it borrows. The end is io.EOF.
func (s *socket) read(borrow func() []byte, giveBack func()) (int, error) {
	s.borrow, s.giveBack = borrow, giveBack
	s.n, s.err = 0, nil
	if err := s.access.Read(s.attempt); err != nil {
		return 0, err
	}
	return s.n, s.err
}

// try reports that no waiting is needed, with the result in n and err.
func (s *socket) try(fd uintptr) bool {
	for {
		s.n, s.err = syscall.Read(int(fd), s.borrow())
		switch {
		case errors.Is(s.err, syscall.EINTR):
			continue
		case errors.Is(s.err, syscall.EAGAIN):
			s.giveBack()
			return false
		case s.err != nil:
			s.n = 0
		case s.n == 0:
			s.err = io.EOF
		}
		return true
	}
}
