//go:build !linux

package upstream

import "syscall"

// control sets nothing here: that bytes under way are not acknowledged shows when the system gives up.
func control(_, _ string, _ syscall.RawConn) error { return nil }
