package workloadattestor

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerUID returns the effective user id and the process id of the peer of conn at the moment it connected (SO_PEERCRED). The process
// id is for the record only: it may have changed hands since.
func PeerUID(conn *net.UnixConn) (uid uint32, pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("read credentials of peer: %w", err)
	}
	var cred *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return 0, 0, fmt.Errorf("read credentials of peer: %w", err)
	}
	return cred.Uid, int(cred.Pid), nil
}
