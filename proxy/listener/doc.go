// Package listener binds sockets and hands over each accepted connection with what is known of it before its first byte.
//
// A Set opens one Socket per address and counts who holds it. A reload that still wants the address acquires the same Socket, so
// it is never bound twice and its accept queue is never dropped; the last holder to release it closes it. Accepting survives the
// exhaustion of file descriptors by backing off, and a socket at its limit of connections refuses the next one at once.
//
// The package does not read a connection except in Sniff, which tells from the first bytes what a connection speaks. It knows
// nothing of TLS, HTTP or configuration.
package listener
