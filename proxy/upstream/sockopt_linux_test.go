package upstream

import (
	"bufio"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What makes a peer that vanished be noticed within 30 s.
func TestDialledSocketsNoticeAPeerThatVanishes(t *testing.T) {
	s := serve(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	c := cluster(t, nil, s.address())
	conn, err := c.Dial(t.Context(), permit(t), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Finish(0, 0)
	access, err := conn.raw.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (value int) {
		if err := access.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return value
	}
	if option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
		t.Error("silent connections are not probed")
	}
	idle, interval, count := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if noticed := idle + interval*count; noticed > 30 {
		t.Errorf("a silent peer is given up after %d s", noticed)
	}
	if ms := option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms <= 0 || ms > 30_000 {
		t.Errorf("what is not acknowledged is given up after %d ms", ms)
	}
}
