//go:build unix

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/internal/admin"
)

// listenAdmin binds the admin socket: for its owner only from the first moment. A socket on which nobody answers any more is
// replaced; one that answers is another process's.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // workloads pass through to the Workload API; the socket has its own mode
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("another process answers on %s: stop it first, or choose another socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the old socket: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux a socket file gets the mode of the socket that is bound to it, so that there is no moment in which others may
		// connect. Elsewhere this fails, and the mode is set below.
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// callers serves the user that the process runs as, and root.
func callers() admin.Callers {
	return admin.Callers{UID: uint32(os.Geteuid()), PeerOf: func(c *net.UnixConn) (admin.Caller, error) { //nolint:gosec // a uid is not negative here
		uid, pid, err := workloadattestor.PeerUID(c)
		return admin.Caller{UID: uid, PID: pid}, err
	}}
}
