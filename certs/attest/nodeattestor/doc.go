// Package nodeattestor holds the evidence by which a machine first proves to an authority that it may be a node. Today that is the
// join token: one line that an operator carries from the authority to the machine.
//
// A Token works once, for one node, for a short time. It carries a secret, and the hash of the key of the trust domain's root
// authority, so that the machine knows whom it gives the secret to: the first contact is pinned, and there is no moment of blind
// trust. The pin is on the root and not on the server's certificate, because that one is renewed, and its signing authority
// rotated, while tokens are on their way.
//
// The authority keeps only a hash of the secret. Redeeming is one transaction that deletes it, so that of any number of machines that
// present a token, on any number of replicas, one succeeds.
//
// The package signs nothing: certs/ca/enroll exchanges what is attested here for an identity.
package nodeattestor
