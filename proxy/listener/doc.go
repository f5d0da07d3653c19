// Package listener binds sockets and hands over each accepted connection with what is known of it before its first byte.
//
// A Set opens one Socket per address and counts who holds it. A reload that still wants the address acquires the same Socket, so
// it is never bound twice and its accept queue is never dropped; the last holder to release it closes it.
//
// Every connection takes its file descriptor from one account, Descriptors, which ends below the limit of the process: a socket at
// its own limit of connections, or an account that is used up, refuses the next one at once, and what is not the data path goes on.
// Should descriptors run out all the same, accepting survives it by backing off, and sheds who waits; WithReserve keeps a listener
// of an operator answering even then.
//
// Dead peers are found by the kernel within half a minute.
//
// The package reads a connection in two places only: Sniff tells from the first bytes what it speaks, and ReadProxyHeader on whose
// behalf a trusted proxy has connected. From others a PROXY header is never believed. It knows nothing of TLS, HTTP or configuration.
package listener
