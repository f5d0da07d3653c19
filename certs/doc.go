// Package certs is the map of its folder, where identities are made, held, delivered and withdrawn; it has no code of its own.
//
// The story of one SVID, from left to right:
//
//	evidence ─ attest ─┐
//	                   ├─ registration ── ca ── svid ── source ── workloadapi
//	operator ─ entry ──┘                  │
//	                                      └─ revocation
//
// Folder by folder:
//
//   - attest/workloadattestor turns a process on the other end of a unix socket into selectors; attest/nodeattestor judges the
//     evidence with which a node asks to be admitted.
//   - registration keeps the entries: which selectors earn which SPIFFE ID, who owns it, how long its SVIDs live.
//   - ca signs SVIDs and rotates its authorities; ca/keys is where their private keys live, sealed; ca/enroll admits remote nodes
//     and carries their requests.
//   - svid is the X.509-SVID profile in both directions: what may be signed, and what a peer may present. A certificate is judged
//     there and nowhere else.
//   - revocation answers, in constant time, whether a certificate has been withdrawn.
//   - source holds this process's live credentials, renews them and hands them out as one value.
//   - workloadapi serves them to other processes over the SPIFFE Workload API, and is the client of someone else's.
//   - store is the durable state under all of it: ordered keys, transactions, watches.
//
// Packages of this folder import each other but nothing above them; they take plain parameters, not the configuration.
package certs
