// Package proxy is the data plane: every connection from accept to close.
//
// Compile turns a declared configuration into a Snapshot, which is immutable and has touched nothing. Server.Apply binds what it
// names and swaps it in with one atomic store, or leaves everything as it was. A connection then goes its way through
//
//	listener → mtls (Peer) → http1 or l4 → canonical → route → principal → policy (Permit) → upstream → bytes → Flow
//
// which is serveConn in connection.go, and for each request ServeExchange in handler.go. A request loads the active generation once
// and keeps it to its end; a connection pins none, but finds the listener's current routes by name.
//
// What ends a connection: its own two ends; the registry, by revocation, by expiry or because its listener is gone; a new policy,
// for byte streams that were judged as a whole (long_stream.go). What outlives a generation lives in the Server: sockets by
// address, clusters by content, listener states by what their connections depend on.
//
// The package issues no credential, evaluates no rule and parses no HTTP; it puts together what does.
package proxy
