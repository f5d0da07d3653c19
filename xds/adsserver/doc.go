// Package adsserver is a control plane: it serves tables of named resources over the incremental variant of the aggregated
// discovery service of xDS.
//
// A Table keeps the current resources of one type, each encoded once, and the order in which they last changed. A stream keeps
// two cursors into that order per type, not a copy of what its client has, so that one changed resource costs each stream one
// step, however many resources there are. What a stream sends next is computed from the latest table when its last response was
// acknowledged: a slow client skips intermediate states and never makes another one wait.
//
// Invariants: there is one unacknowledged response per type and stream; a version that a client rejected is not sent to it again
// on that stream; a later type of Options.Types never overtakes an earlier one; who a client is comes from
// Options.Authenticate, and node.id in its requests is a label; a name that is not for this client and a name that does not
// exist get the same answer.
//
// A stream that fell so far behind that removals are no longer known ends with Aborted. Its client connects again and names the
// versions it has, which gives an exact difference.
//
// The package knows nothing of what the resources mean, and it terminates no connections: the gRPC server around it does.
// The state-of-the-world variant answers Unimplemented.
package adsserver
