//go:build !linux && !darwin

package workloadattestor

import "net"

// PeerUID returns ErrUnsupported.
func PeerUID(*net.UnixConn) (uid uint32, pid int, err error) { return 0, 0, ErrUnsupported }
