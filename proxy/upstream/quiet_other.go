//go:build !unix

package upstream

import "net"

// watch cannot be asked here without reading; a connection that died shows when it is used.
type watch struct{}

func newWatch(net.Conn) *watch { return &watch{} }

func (*watch) quiet() bool { return true }
