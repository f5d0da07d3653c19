package l4

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// splicer moves bytes from one plain socket to another within the kernel, through a pipe that it has only while bytes move: the
// two descriptors of one that waited with an idle tunnel would triple what the tunnel costs.
type splicer struct {
	to     *net.TCPConn
	limit  io.LimitedReader
	access syscall.RawConn
	look   func(fd uintptr) bool

	waiting int64
	err     error
}

// newSplicer returns nil where the kernel cannot move the bytes.
func newSplicer(dst io.Writer, src io.Reader) *splicer {
	to, ok := dst.(*net.TCPConn)
	if !ok {
		return nil
	}
	switch src.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	access, err := src.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &splicer{to: to, access: access}
	s.limit.R = src
	s.look = s.arrived // once, since each makes a closure
	return s
}

// wait waits until bytes have arrived. The end is io.EOF.
func (s *splicer) wait() error {
	s.waiting, s.err = 0, nil
	if err := s.access.Read(s.look); err != nil {
		return err
	}
	return s.err
}

// move moves what has arrived.
func (s *splicer) move() (int64, error) {
	s.limit.N = s.waiting
	return s.to.ReadFrom(&s.limit)
}

// arrived reports that no waiting is needed, with the result in waiting and err.
func (s *splicer) arrived(fd uintptr) bool {
	n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	if err == nil && n > 0 {
		s.waiting = int64(n)
		return true
	}
	for { // nothing, the end, or an error
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			s.err = err
		case n == 0:
			s.err = io.EOF
		default:
			s.waiting = int64(n)
		}
		return true
	}
}
