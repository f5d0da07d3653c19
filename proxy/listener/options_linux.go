package listener

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenConfig sets the options on the listening socket, from which accepted ones inherit them: that saves four system calls for
// each. Multipath TCP has to be off for that: its sockets know neither all of these options nor splice(2).
func listenConfig() net.ListenConfig {
	config := net.ListenConfig{KeepAlive: -1, Control: func(network, _ string, c syscall.RawConn) error {
		if !isTCP(network) {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) { failed = setOptions(int(fd)) })
		if err != nil {
			return err
		}
		return failed
	}}
	config.SetMultipathTCP(false)
	return config
}

// setOptions makes the kernel find a peer that is gone within half a minute: one that is silent by probes, and one that does not
// confirm what was sent to it by giving up after the usual 15 retries, which with two seconds between them take 27 s. Where the
// kernel cannot bound the time between them (before 6.15), the time without confirmation is bounded. That ends a peer that is there
// and leaves its bytes unread for that long, too: see Conn.AllowStall.
func setOptions(fd int) error {
	for _, option := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
	} {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return err
		}
	}
	if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(retryAtMost/time.Millisecond)) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unconfirmedAtMost/time.Millisecond))
}

// allowStall lifts the bound on the time without confirmation.
func allowStall(raw net.Conn) {
	tcp, ok := raw.(*net.TCPConn)
	if !ok {
		return
	}
	access, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = access.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0) })
}

const (
	retryAtMost       = 2 * time.Second
	unconfirmedAtMost = 30 * time.Second
)
