// Package enroll admits nodes and signs for them: the Enrollment service over gRPC, its client, and the credentials of the
// connection between a node and its authority.
//
// A machine becomes a node by AttestNode: it shows a join token (certs/attest/nodeattestor) to an authority that it can recognise
// by the token's pin, and gets an SVID whose SPIFFE ID is /node/<name>. From then on it speaks mutual TLS to the authority's own
// listener, renews that SVID by itself, and has SVIDs signed for the registration entries that are its own. Keys are made where they are
// used; only public keys travel.
//
// Three transports lead to one server. The public one (PublicTLS) asks for no certificate and serves AttestNode alone. The node
// one (NodeTransport) yields a verified Node for each connection, keeps the connections indexed by everything that can be revoked, and closes
// those that a revocation concerns, or whose certificate has ended. The local one (Local) is a listener inside the process for the
// authority's own node: there is no address at which anybody else could reach it.
//
// Who calls is a property of the connection (NodeFromContext), never of a message. The authority signs only for entries of that node,
// and nothing under the reserved paths /node and /authority.
//
// The package keeps records of nodes. It decides nothing about entries (certs/registration), signs nothing itself (certs/ca), and does not
// revoke.
package enroll
