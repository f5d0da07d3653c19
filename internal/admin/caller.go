package admin

import (
	"context"
	"net"
	"strconv"
)

// Caller is the user at the other end of the socket, as the kernel tells.
type Caller struct {
	UID uint32
	PID int
}

// Actor is how the caller stands in events: "uid:1000".
func (c Caller) Actor() string { return "uid:" + strconv.FormatUint(uint64(c.UID), 10) }

// Callers decides whom the socket serves.
type Callers struct {
	// PeerOf asks the kernel who is connected.
	PeerOf func(*net.UnixConn) (Caller, error)
	// UID is the user that this process runs as; root and this user are served.
	UID uint32
}

func (c Callers) allowed(caller Caller) bool { return caller.UID == 0 || caller.UID == c.UID }

type callerKey struct{}

// connContext notes the caller of a connection; one that cannot be known is served nothing.
func (c Callers) connContext(ctx context.Context, conn net.Conn) context.Context {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	caller, err := c.PeerOf(unix)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, caller)
}

func callerOf(ctx context.Context) (Caller, bool) {
	caller, ok := ctx.Value(callerKey{}).(Caller)
	return caller, ok
}
