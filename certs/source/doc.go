// Package source holds this process's live credentials: it obtains them, renews them before they end, and hands them out as one
// value of one moment.
//
// Whoever presents or verifies an SVID asks a Holder and gets an *X509: certificate, key and bundles together, immutable. What
// fills the Holder is one of
//
//   - Manager: the SVIDs of a node, issued by its authority (in this process or remote) through an Issuer. It is told the node's
//     entries, the bundles and the revocations, makes every key itself, renews at a jittered half of life, goes on serving to the
//     true expiry when the authority does not answer, and drops what is revoked or no longer assigned. Workloads follow their part
//     of it through a Subscription;
//   - Files: certificate, key and bundle that something else writes, read again when they change;
//   - WorkloadAPI: what any SPIFFE Workload API gives this process.
//
// Invariants: an X509 never changes and its key always belongs to its leaf; a Holder never goes back to an SVID it has dropped;
// an SVID that has expired, or that a revocation names, is not handed out.
//
// The package decides nothing about who may have which identity (registration and the authority do), and verifies no peer (svid
// does).
package source
