// Package svid is the X.509-SVID profile in both directions: what this authority may sign, and what a peer may present.
//
// Verify is the one verifier of the data path, for both roles. crypto/x509 builds and checks the path underneath; around it stand
// the rules that crypto/x509 does not have and an identity needs: exactly one URI SAN, no authority as leaf, the extended key usage
// of the role the peer plays, a floor for keys and signatures, one encoding, what RFC 5280 and X.509-SVID demand of authorities, roots
// of the leaf's own trust domain only, and the revocation index. Each rule refuses with a reason code (package observe), so that an
// operator can tell them apart.
//
// A stranger's presentation costs little: certificates and their number, sizes, keys, and the ways that lead through them are bounded,
// and all that can be refused without checking a signature is refused before one is checked.
//
// It must run from tls.Config.VerifyConnection, which is called for resumed sessions too; VerifyPeerCertificate is not.
//
// Template and CheckIssued are the same profile for the authority: the first before it signs, the second before it lets go.
//
// The package holds no state, does no I/O and decides nothing about authorization: that a peer is who it says does not mean that
// it may do anything.
package svid
