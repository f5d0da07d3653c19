// Package svid is the X.509-SVID profile in both directions: what this authority may sign, and what a peer may present.
//
// Verify is the one verifier of the data path, for both roles. crypto/x509 builds and checks the path underneath; around it stand
// the rules that crypto/x509 does not have and an identity needs: exactly one URI SAN, no authority as leaf, the extended key usage
// of the role the peer plays, a floor for keys and signatures, a bound on the chain, roots of the leaf's own trust domain only, and
// the revocation index. Each rule refuses with a reason code of its own (package observe), so that an operator can tell them apart.
//
// It must run from tls.Config.VerifyConnection, which is called for resumed sessions too; VerifyPeerCertificate is not.
//
// Template and CheckIssued are the same profile for the authority: the first before it signs, the second before it lets go.
//
// The package holds no state, does no I/O and decides nothing about authorization: that a peer is who it says does not mean that
// it may do anything.
package svid
