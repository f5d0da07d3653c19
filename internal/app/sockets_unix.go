//go:build unix

package app

import (
	"context"
	"net"
	"os"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/unixsocket"
)

// listenAdmin binds the admin socket, for its owner only.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	return unixsocket.Listen(ctx, path, 0o600)
}

// callers serves the user that the process runs as, and root.
func callers() admin.Callers {
	return admin.Callers{UID: uint32(os.Geteuid()), PeerOf: func(c *net.UnixConn) (admin.Caller, error) { //nolint:gosec // a uid is not negative here
		uid, pid, err := workloadattestor.PeerUID(c)
		return admin.Caller{UID: uid, PID: pid}, err
	}}
}
