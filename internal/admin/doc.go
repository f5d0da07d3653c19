// Package admin is the operator's door to a running process: HTTP with JSON on a unix socket, and the client that the command
// line uses.
//
// The socket knows its caller: the kernel says which user is at the other end, and every change is recorded with that user as its
// actor. Only the user that the process runs as and root are served. The package holds no state of its own: it asks the process
// through the interfaces in server.go, which internal/app fills in. Keys never pass it.
package admin
