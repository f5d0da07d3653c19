//go:build unix

package upstream

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// watch tells whether the peer has sent something, or its end, without taking it. It is made once for a connection, so that asking
// costs one system call and no allocation. One goroutine asks at a time.
type watch struct {
	raw    net.Conn
	access syscall.RawConn // nil when the connection is no socket, or a closed one
	peek   func(fd uintptr) bool
	peeked error
}

func newWatch(raw net.Conn) *watch {
	w := &watch{raw: raw}
	if socket, ok := raw.(syscall.Conn); ok {
		w.access, _ = socket.SyscallConn()
	}
	w.peek = func(fd uintptr) bool {
		var b [1]byte
		_, _, w.peeked = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	}
	return w
}

// quiet reports that nothing has arrived. It does not wait.
func (w *watch) quiet() bool {
	if w.access == nil || w.raw.SetReadDeadline(time.Time{}) != nil || w.access.Read(w.peek) != nil {
		return false
	}
	return errors.Is(w.peeked, syscall.EAGAIN) || errors.Is(w.peeked, syscall.EINTR)
}
