//go:build !unix

package app

import (
	"context"
	"errors"
	"net"

	"github.com/postern-proxy/postern/internal/admin"
)

var errNoAdminSocket = errors.New("the admin socket is not offered on this system: it cannot tell who calls")

func listenAdmin(context.Context, string) (net.Listener, error) { return nil, errNoAdminSocket }

func callers() admin.Callers {
	return admin.Callers{PeerOf: func(*net.UnixConn) (admin.Caller, error) { return admin.Caller{}, errNoAdminSocket }}
}
