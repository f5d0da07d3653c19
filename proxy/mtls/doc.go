// Package mtls terminates and originates TLS with credentials that rotate, and yields the verified Peer.
//
// A Server or Client asks its credentials for the current X.509-SVID at every handshake, so that a rotation needs no reload:
// certificate, key and bundles are one value of one moment. Everything about the peer is judged by svid.Verify inside
// VerifyConnection, which crypto/tls calls for every handshake; a Peer is made only when the handshake that follows has proved
// possession of the key, and nothing outside this package can make one.
//
// Session tickets are off: a resumed session would revive a peer whose credential was revoked or whose authority is gone.
// Versions below 1.2 and suites without forward secrecy and authenticated encryption do not exist here.
//
// Every refusal is an *Error with a reason code. Text that a peer chose is escaped before it can reach a log.
//
// The package knows no policy: that a peer is verified does not mean that it may do anything. It reads no configuration.
package mtls
