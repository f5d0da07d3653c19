package workloadapi

import (
	"context"
	"net"

	"github.com/postern-proxy/postern/internal/unixsocket"
)

// socketMode lets everybody connect: what a caller gets depends on who it is.
const socketMode = 0o777

// Listen makes the unix socket path, to which every local process may connect, in the way of unixsocket.Listen.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	return unixsocket.Listen(ctx, path, socketMode)
}
