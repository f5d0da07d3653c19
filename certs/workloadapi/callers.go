package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/internal/observe"
)

// caller is the process at the other end of a connection. It is what gRPC calls AuthInfo.
type caller struct {
	credentials.CommonAuthInfo
	process *workloadattestor.Process
	user    *user
	// refused says that a call of this connection was refused for want of an entry.
	refused atomic.Bool
}

// AuthType implements credentials.AuthInfo.
func (*caller) AuthType() string { return "workload-attestation" }

// String names the caller in logs. Selectors stay out of them.
func (c *caller) String() string {
	return fmt.Sprintf("uid %d pid %d", c.process.UID, c.process.PID)
}

// user counts what one user id has open. Its callers' mu guards it.
type user struct {
	uid         uint32
	connections int
	streams     int
}

// callers pins the process of every connection as it is accepted, and ends the connection when the process does, even if a child of
// it still holds the socket. It fills the place of gRPC's transport credentials; there is no TLS (SPIFFE Workload Endpoint,
// Section 3.1: "Transport Layer Security MUST NOT be required").
type callers struct {
	attestor           *workloadattestor.Attestor
	logger             *limitedLogger
	gone               *limitedLogger // apart, so that what is written at DEBUG takes no other line's place
	metrics            *serverMetrics
	maxConnections     int
	maxUserConnections int
	maxUserStreams     int
	watchers           sync.WaitGroup

	mu          sync.Mutex
	connections int
	users       map[uint32]*user
}

// ServerHandshake implements credentials.TransportCredentials. Nothing is exchanged.
func (c *callers) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("workload API over something else than a unix socket")
	}
	process, err := c.attestor.Pin(unixConn)
	if errors.Is(err, workloadattestor.ErrExited) { // it hung up and ended, which is nothing to act upon
		c.metrics.refusedConnections.WithLabelValues("gone").Inc()
		c.gone.debug("caller of workload API ended before it was attested", slog.Any(observe.KeyError, err))
		return nil, nil, err
	}
	if err != nil {
		c.refuse("unattested", "", err)
		return nil, nil, err
	}
	from := &caller{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, // it does not leave the kernel
		process:        process,
	}
	if from.user, err = c.enter(process.UID); err != nil {
		c.refuse("too_many_connections", from.String(), err)
		_ = process.Close()
		return nil, nil, err
	}
	pinned := &pinnedConn{UnixConn: unixConn, callers: c, caller: from}
	c.watchers.Go(func() {
		_ = process.Wait() // until the process ends, or pinned is closed
		_ = pinned.Close()
	})
	return pinned, from, nil
}

func (c *callers) refuse(result, from string, err error) {
	c.metrics.refusedConnections.WithLabelValues(result).Inc()
	c.logger.warn("connection to workload API refused", slog.String(observe.KeyPeer, from), slog.Any(observe.KeyError, err))
}

// enter counts a connection of a user, unless that is one too many.
func (c *callers) enter(uid uint32) (*user, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[uid]
	if u == nil {
		u = &user{uid: uid}
	}
	switch {
	case c.connections >= c.maxConnections:
		return nil, fmt.Errorf("%d connections are open", c.connections)
	case u.connections >= c.maxUserConnections:
		return nil, fmt.Errorf("user %d has %d connections open", uid, u.connections)
	}
	c.connections++
	u.connections++
	c.users[uid] = u
	c.metrics.connections.Set(float64(c.connections))
	return u, nil
}

func (c *callers) leave(u *user) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connections--
	u.connections--
	c.metrics.connections.Set(float64(c.connections))
	c.forget(u)
}

// enterStream counts a call of a user and reports whether it may proceed; leaveStream must follow then.
func (c *callers) enterStream(u *user) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.streams >= c.maxUserStreams {
		return false
	}
	u.streams++
	c.metrics.streams.Inc()
	return true
}

func (c *callers) leaveStream(u *user) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u.streams--
	c.metrics.streams.Dec()
	c.forget(u)
}

// forget drops a user who has nothing open. The caller holds mu.
func (c *callers) forget(u *user) {
	if u.connections == 0 && u.streams == 0 && c.users[u.uid] == u {
		delete(c.users, u.uid)
	}
}

// wait returns when every connection has been closed.
func (c *callers) wait() { c.watchers.Wait() }

// pinnedConn is a connection that lets go of its caller when it is closed.
type pinnedConn struct {
	*net.UnixConn
	callers *callers
	caller  *caller
	once    sync.Once
	err     error
}

// Close implements net.Conn.
func (c *pinnedConn) Close() error {
	c.once.Do(func() {
		c.err = c.UnixConn.Close()
		_ = c.caller.process.Close()
		c.callers.leave(c.caller.user)
	})
	return c.err
}

// ClientHandshake implements credentials.TransportCredentials; nothing is dialled with them.
func (*callers) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("workload attestation is for servers")
}

// Info implements credentials.TransportCredentials.
func (*callers) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "workload-attestation"}
}

// Clone implements credentials.TransportCredentials. The counts are shared.
func (c *callers) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (*callers) OverrideServerName(string) error { return nil }
