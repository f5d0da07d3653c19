//go:build !unix

package listener

import "net"

// pending reports that a connection waits to be accepted, or that nobody knows.
func pending(net.Listener) bool { return true }

// processDescriptors returns zero: this system has no such limit.
func processDescriptors() int { return 0 }
