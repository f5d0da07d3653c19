// Package adsclient follows a control plane: it keeps one incremental aggregated-discovery stream of xDS open, hands every change to
// a Handler, and answers with an ACK or a NACK that says what was wrong.
//
// What was accepted stays accepted when the stream is lost. On the next stream the client names the versions it has, so that
// it is told of changes and removals only, those of the time it was away included. It connects again for ever, with full jitter
// between 100 ms and 15 s.
//
// A response can be accepted in part: the Handler applies what is good and returns Rejections for the rest; the NACK names them. The
// resources that were rejected keep their last good version.
//
// The package holds names and versions, not the resources themselves. It opens no connection: Run takes one that its owner
// authenticated.
package adsclient
