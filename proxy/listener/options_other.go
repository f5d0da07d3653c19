//go:build !linux

package listener

import "net"

// listenConfig leaves the options to the standard library, which sets them on each accepted connection.
func listenConfig() net.ListenConfig {
	return net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}}
}

// allowStall has nothing to lift.
func allowStall(net.Conn) {}
