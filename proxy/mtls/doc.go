// Package mtls terminates and originates TLS with credentials that rotate, and yields the verified Peer.
//
// A Server or Client asks its credentials for the current X.509-SVID at every handshake, so that a rotation needs no reload:
// certificate, key and bundles are one value of one moment. Everything about the peer is judged inside VerifyConnection, which
// crypto/tls calls for every handshake, resumed ones included; a Peer is made only when the handshake that follows has proved
// possession of the key, and nothing outside this package can make one.
//
// What is remembered of peers belongs to an epoch, the time in which neither our credential, nor the bundles, nor the revocations
// change, and ends with it: verified chains, which spare the signatures of a chain that was verified already, and sessions, which
// spare the rest. A known chain, whether it was presented again or comes with a session, still has to hold at the clock and by the
// index of the moment; in every doubt svid.Verify decides. There is no 0-RTT. Versions below 1.2 and suites without forward secrecy
// and authenticated encryption do not exist here, and the key exchange is a post-quantum hybrid wherever the peer has one.
//
// Beneath TLS stands a transport that sees the ClientHello pass, from which the fingerprint of an accepted connection is taken,
// and that moves byte streams in large pieces. Its buffers are borrowed while bytes are in them; an idle connection has none.
//
// Every refusal is an *Error with a reason code. Text that a peer chose is escaped before it can reach a log.
//
// The package knows no policy: that a peer is verified does not mean that it may do anything. It reads no configuration.
package mtls
