// Package http2 is the HTTP/2 engine, both sides: ServerConn takes requests from a downstream and ClientConn sends them to an
// upstream, many at once on one connection (RFC 9113; RFC 7541 for field compression, RFC 8441 for WebSockets).
//
// It is strict where others are lenient, by the same rules as package http1: names are tokens in lower case, values have no control
// characters and no white space at an end, a message has one host and one length, and its DATA add up to that length or the stream is
// reset before its end is told. A response is as suspect as a request. What RFC 9113 calls malformed is reset, behind a 400 that has
// no end, so that who looks sees the status; what is well formed and not accepted (too large, a name with an underscore) is answered.
//
// From bytes to message: frame.go cuts frames and settings.go reads their settings (pure: bytes in, values out), fields.go takes
// decoded fields by the rules of Section 8, request.go and response.go make messages of them, encode.go writes field blocks (pure
// too). conn.go is what both sides of a connection share, inbound.go its reading function and every frame, stream.go one stream,
// window.go and buffers.go its flow control and what it holds, output.go what is about to be sent. server.go and client.go are the
// two sides of a connection, server_exchange.go and client_exchange.go one request on them; body.go, send.go and tunnel.go move
// content. budget.go says how much trouble a peer may make.
//
// # One function reads, everybody writes
//
// Each connection has one reading function, which never waits for anything but bytes and the time: it does not write, because a
// peer may read nothing until it has written. Each request runs in a function of its own. All of them queue whole frames under the
// mutex of the connection; one of them hands over everything that is pending in one write, after it has let those run who are about
// to add something. That is what makes a hundred small exchanges cost a few system calls. One mutex guards the connection and its
// streams together, for field changes of nanoseconds to a copy of at most 16 KiB; it is never held across a Stream operation or a Park.
// Who waits looks under the mutex, releases it and parks; who changes something unparks; a wake too many is harmless, and that is what
// lets exchanges be reused.
//
// # What a peer can make us hold
//
// Content that nobody reads is bounded by the windows that were announced, and held in small buffers; windows are given back as
// content is read, and the connection's for content that is dropped. What is pending to be sent is bounded: senders wait for room, and
// answers to frames beyond that end the connection. A body is read only when its peer takes something, and into a small buffer while
// it has to be waited for. A connection that waits for bytes keeps no read buffer. The decoder's table is the 4,096 bytes that the
// protocol begins with; the encoder has none, so that blocks may be written in any order and no secret gets into a table.
//
// A place for a request is taken until it is answered, or its handler has returned: resetting a stream frees nothing. Resets, those
// that we are made to send, and frames that carry nothing are counted over time (budget.go), since every one of them is legitimate
// and a thousand of them are not. Waiting has an end everywhere: for the preface, for a field block, for content, for the peer to
// take a share of 16 KiB of what is sent.
//
// # Ends
//
// A stream that ends early does so with RST_STREAM and an error for whoever is at it; io.EOF is the peer's END_STREAM and nothing else.
// A broken rule of the connection ends it with GOAWAY and the reason protocol_error, a broken budget with abuse. A drain announces the
// end, serves what the peer begins until it has read that, names the last stream, and closes after it.
//
// The package routes, judges and logs nothing; it pushes nothing, and ignores priorities. Huffman coding is read but not written.
package http2
