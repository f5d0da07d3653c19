// Package ca is the certificate authority of one trust domain: it signs X.509-SVIDs, rotates its own authorities and withdraws what
// should no longer be trusted.
//
// A self-signed root (ten years) signs signing authorities (24 hours), and these sign SVIDs (one hour). The root's key is read from
// the sealed store for the moment in which a signing authority is made; only the key of the active signing authority stays in memory.
// Peers are given the roots as the bundle; the signing authority travels in each chain.
//
// There is one way to a signature. A Request becomes a checked value, which only the checks can make; the checked value becomes a
// template that has passed the profile; the signature is verified; the credential is recorded durably, an event is appended, and
// only then does the caller have the certificate. What was not recorded was not issued.
//
// Rotation is a state machine whose every state is one durable record:
//
//	prepared ──► active ──► replaced ──► (gone)
//
// A signing authority is prepared at half of the active one's life and takes over at five sixths. A root is prepared likewise, joins
// the bundle at once, and takes over only when the nodes that follow have acknowledged that bundle (Options.Propagated) or the
// deadline has passed with a warning. A replaced root leaves the bundle when the last leaf beneath it has ended. A process that dies
// between two states goes on from the first when it is opened again.
//
// A leaf never outlives the authority that signed it, so an SVID asked for longer, such as a node's, ends with the signing authority;
// whoever renews at half of life notices nothing. A store that has traces of an authority but not its state is refused: the package
// makes a new root only where there has never been one.
//
// The package attests nobody and knows no entries: that a caller may have an identity was decided before.
package ca
