// Package http1 is the HTTP/1.1 engine, both sides: ServerConn reads requests from a downstream and writes responses, ClientConn
// does the reverse to an upstream (RFC 9110, RFC 9112).
//
// It is strict where others are lenient, because every leniency is a message that two readers cut differently: CR LF is the only
// line end, a message has one length, Transfer-Encoding is "chunked" or an error, nothing is folded, repaired or guessed. What
// is accepted is not passed on as it came: heads are written anew from the fields that were understood, bodies are framed anew.
// A response is as suspect as a request.
//
// From bytes to message: scan.go finds the end of a head, request.go, response.go and fields.go parse it (pure: bytes in, offsets
// out), chunk.go cuts chunked bodies, encode.go writes heads anew (pure too). reader.go and writer.go put a Stream under them,
// with deadlines and borrowed buffers, pace.go ends waits for peers that are too slow; body.go and send.go move contents. server.go and client.go are the two sides of a
// connection, server_exchange.go and client_exchange.go one request on them, refuse.go the answer to what is no request, tunnel.go
// and websocket.go what follows an upgrade.
//
// A connection that waits for its next request holds no buffer. Nothing holds a lock across I/O, and nothing is started but through
// the l7.Driver: the body of a request is sent beside the wait for its response. The package routes, judges and
// logs nothing; refusals are reported to the Options.Refused callback.
package http1
