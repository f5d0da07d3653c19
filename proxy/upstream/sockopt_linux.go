package upstream

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// userTimeout is how long what was sent may go unacknowledged, in milliseconds: as long as the probes of a silent connection take.
const userTimeout = 19_000

// control sets TCP_USER_TIMEOUT: without it a peer that vanished with bytes under way is noticed after a quarter of an hour.
func control(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeout)
	})
	if err != nil {
		return err
	}
	return failed
}
