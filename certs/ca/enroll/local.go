package enroll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Local connects the authority with the node in its own process. It is a net.Listener whose connections are made by Dial and nowhere
// else, so what arrives on it is the process itself, and its credentials say so. It must be served by a gRPC server of its own.
type Local struct {
	node   spiffeid.ID
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewLocal returns the transport for the authority's own node, which has this identity.
func NewLocal(node spiffeid.ID) *Local {
	return &Local{node: node, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// localConn is the server's end. The type is what ServerHandshake recognises.
type localConn struct {
	net.Conn
	owner *Local
}

// localAddr is the address of both ends.
type localAddr struct{}

// Network is "local".
func (localAddr) Network() string { return "local" }

// String is "local".
func (localAddr) String() string { return "local" }

// Accept waits for Dial. After Close it returns net.ErrClosed.
func (l *Local) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Connections that are open stay open.
func (l *Local) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is no address at which anything could be reached.
func (l *Local) Addr() net.Addr { return localAddr{} }

// Dial returns the node's connection to the authority. It connects with the first call.
func (l *Local) Dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///local",
		append(dialOptions(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), // bytes that never leave the process
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.connect(ctx) }),
		)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the authority in this process: %w", err)
	}
	return conn, nil
}

func (l *Local) connect(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- localConn{Conn: server, owner: l}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ServerCredentials are for the gRPC server that serves this listener.
func (l *Local) ServerCredentials() credentials.TransportCredentials { return localCredentials{l} }

// localCredentials turn a connection of Local into its node, and refuse every other.
type localCredentials struct{ local *Local }

// ServerHandshake recognises the connection by its type and its maker; no bytes are exchanged.
func (c localCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	made, ok := conn.(localConn)
	if !ok || made.owner != c.local {
		return nil, nil, errors.New("connection was not made inside this process")
	}
	return conn, nodeInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		node:           Node{ID: c.local.node, Local: true},
	}, nil
}

// ClientHandshake refuses: these are credentials of a server.
func (localCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of a server used by a client")
}

// Info describes the protocol.
func (localCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

// Clone returns the same credentials; they do not change.
func (c localCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName does nothing.
func (localCredentials) OverrideServerName(string) error { return nil }
