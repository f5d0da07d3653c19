// Package l4 splices two authorized byte streams.
//
// Each direction runs on its own: the end of one is passed on as a half-close, which under TLS is a close_notify, and the other goes
// on until it ends too. From a plain socket to one of TCP the kernel moves the bytes (splice(2), on Linux); otherwise they pass
// through a buffer, and a session of TLS is told to read and write in large pieces.
//
// A tunnel that waits holds neither buffer nor pipe: a plain socket is waited for first and read then, a session of TLS is read with
// a kilobyte of its own. What a slow reader leaves is held in one buffer, or one pipe, for each direction; the rest stays with the
// sender. Pipes are descriptors, so they are taken from an account.
//
// The package authorizes nobody and opens nothing.
package l4
