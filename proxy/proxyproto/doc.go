// Package proxyproto reads and writes the PROXY header, versions 1 and 2, with which a proxy tells the next one on whose behalf it
// connects (haproxy.org, proxy-protocol.txt).
//
// Decode is given the bytes that have arrived and says how many the header needs at the least, so that its caller can read exactly
// the header and leave what follows on the socket; Read does so. AppendHeader writes one.
//
// The reader is strict: whatever does not match the text of the protocol is an error, as the text demands, and there is one way
// to write each thing. It takes TCP over IPv4 and IPv6, unix streams, and connections of unknown origin; datagrams are refused. A
// header has at most the length that the caller allows. IPv4 addresses within IPv6 become IPv4 addresses, so that a rule for the
// one form cannot be passed by in the other.
//
// The package does not know whom to believe: that is package listener's.
package proxyproto
