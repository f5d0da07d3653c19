//go:build !linux

package workloadattestor

import (
	"context"
	"net"
)

const supported = false

// Process is the process at the other end of a connection. This system offers no way to pin it, so there is none.
type Process struct {
	PID int
	UID uint32
	GID uint32
}

// Pin returns ErrUnsupported.
func (*Attestor) Pin(*net.UnixConn) (*Process, error) { return nil, ErrUnsupported }

// Alive returns false.
func (*Process) Alive() bool { return false }

// Wait returns ErrUnsupported.
func (*Process) Wait() error { return ErrUnsupported }

// Close does nothing.
func (*Process) Close() error { return nil }

// Attest returns ErrUnsupported.
func (*Process) Attest(context.Context) ([]string, error) { return nil, ErrUnsupported }
