//go:build unix

package listener

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// pending reports that a connection waits to be accepted.
func pending(l net.Listener) bool {
	socket, ok := l.(syscall.Conn)
	if !ok {
		return true // somebody's wrapper: trying costs no more than asking
	}
	access, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	waits := true
	err = access.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		waits = err != nil || n > 0
	})
	return waits || err != nil
}

// processDescriptors is what the data path may have of the process's limit as it is now. The Go runtime has raised it as far as it
// may when the process began.
func processDescriptors() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	const unlimited = 1 << 30                                            // some systems say "infinity" with numbers below the largest
	if current := int64(limit.Cur); current > 0 && current < unlimited { // its type is not the same everywhere
		return dataPath(int(current))
	}
	return 0
}
