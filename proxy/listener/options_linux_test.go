package listener

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAcceptedConnectionsFindDeadPeersAndDoNotDelay(t *testing.T) {
	near, _ := accepted(t, loopback(), nil)
	tcp, ok := near.Socket().(*net.TCPConn)
	if !ok {
		t.Fatalf("socket is a %T", near.Socket())
	}
	option := func(level, name int) (value int) {
		access, err := tcp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = access.Control(func(fd uintptr) { value, _ = unix.GetsockoptInt(int(fd), level, name) })
		return value
	}
	for _, want := range []struct {
		name                 string
		level, option, value int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if got := option(want.level, want.option); got != want.value {
			t.Errorf("%s = %d, want %d", want.name, got, want.value)
		}
	}
	if retry, unconfirmed := option(unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS), option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); retry != 2000 && unconfirmed != 30000 {
		t.Errorf("at most %d ms between retries, at most %d ms without confirmation", retry, unconfirmed)
	}
	near.AllowStall()
	if got := option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != 0 {
		t.Errorf("at most %d ms without confirmation, although it may stall", got)
	}
}
