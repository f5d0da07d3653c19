package listener

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// Address is where a socket listens. The zero value is none. It is comparable and names a Socket of a Set.
type Address struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is a host and port for tcp, a path for unix.
	Address string
	// Name tells apart several sockets of one address whose port the kernel chooses; empty otherwise.
	Name string
}

// TCP returns the address of a TCP socket.
func TCP(at netip.AddrPort) Address { return Address{Network: "tcp", Address: at.String()} }

// Unix returns the address of a unix stream socket.
func Unix(path string) Address { return Address{Network: "unix", Address: path} }

// String returns host:port, or unix: and the path.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	return a.Address
}

// Local reports that only processes of this machine can connect: a unix socket, or a loopback address.
func (a Address) Local() bool {
	if a.Network == "unix" {
		return true
	}
	at, err := netip.ParseAddrPort(a.Address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// bind opens the socket. A unix socket file that nobody listens on is what a killed process left behind, and is removed first.
func bind(ctx context.Context, at Address) (net.Listener, error) {
	if at.Network == "unix" && !strings.HasPrefix(at.Address, "@") {
		if err := removeStale(ctx, at.Address); err != nil {
			return nil, err
		}
	}
	config := listenConfig()
	bound, err := config.Listen(ctx, at.Network, at.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", at, err)
	}
	return bound, nil
}

// removeStale removes a unix socket that refuses connections. Anything else at the path is left alone, so that a typing error in
// a configuration never deletes a file.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at socket %q: %w", path, err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("listen on %q: the path exists and is not a socket", path)
	}
	dialer := net.Dialer{Timeout: staleDialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("listen on %q: another process is listening there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen on %q: a socket is there and cannot be asked: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket %q: %w", path, err)
	}
	return nil
}

// isTCP reports a network of TCP, as a ListenConfig names it.
func isTCP(network string) bool { return strings.HasPrefix(network, "tcp") }

// A client that is gone without a word is noticed 15 + 3 × 5 = 30 s after its last one; half-open connections must not be held longer.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// staleDialTimeout bounds the question whether a unix socket is alive; the answer is local and immediate.
const staleDialTimeout = time.Second
