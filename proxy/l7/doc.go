// Package l7 holds the one message type in which the HTTP engines meet: a request head, a body stream, a response head and
// trailers, and the two sides on which they are exchanged.
//
// A downstream engine (http1, http2) reads a message from a Stream, checks its syntax, takes away
// what concerns the hop only, and hands an Exchange to the Handler. The handler canonicalises (l7/canonical), routes, judges,
// asks an upstream engine for the response and gives it to Exchange.WriteResponse, which streams it with back-pressure.
//
// What holds for every message that reached a handler:
//   - framing and routing live in fields of Request and Response (ContentLength, Authority), never in the Header, so that a
//     message cannot say one thing to us and another to the next hop;
//   - hop-by-hop fields, and those that Connection nominates, are gone; what the proxy sets is set afterwards;
//   - field names are lower case and tokens, values contain no CR, LF or NUL.
//
// Strings taken from a message are views into its buffer: they are valid until the exchange ends (requests) or the body is
// closed (responses). Who keeps one longer clones it.
//
// The package does no I/O, judges nobody and knows no route.
package l7
