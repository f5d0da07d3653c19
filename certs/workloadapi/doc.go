// Package workloadapi serves the SPIFFE Workload API to the processes of this machine. (source.WorkloadAPI follows the one of another
// implementation.)
//
// A process connects to the unix socket and asks; it presents nothing. The server pins it (workloadattestor), establishes its
// selectors anew for every call and before every message, and streams what the node's entries give them (source.Subscription): first
// what is there, then the full state again at every change (SPIFFE Workload API, Section 4.3). When nothing is left, or the
// process has ended, the stream ends.
//
// Offered are the X.509-SVID profile and server reflection. The JWT-SVID and WIT-SVID profiles answer Unimplemented.
//
// A caller for whom there is no entry gets PermissionDenied, but not in the first moment: workloads are often started together with
// the creation of their entry, and the clients of go-spiffe back off by a whole second and more once they were refused. So the first
// call of a connection is held for a short grace (ServerOptions.Grace), and a caller that comes back over the same connection after a
// refusal is taken for one that waits: its call is held for longer (ServerOptions.Patience) and answered at once when an entry
// appears.
//
// The package issues nothing and decides nothing about entitlement. Nothing it logs tells selectors or keys.
package workloadapi
