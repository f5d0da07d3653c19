// Package upstream reaches what stands behind a route: a Cluster is a named group of Endpoints, with its connections, its health and
// the TLS that it originates.
//
// Every use demands an authz.Permit, which only a decision makes. A request takes the endpoint with the fewest requests under way
// (balance.go) and there a pooled HTTP/1 connection (pool.go), a place on an HTTP/2 connection that many share (shared.go), or a
// place in the queue of those who wait until there is either (queue.go). A byte stream has a connection of its own. Dialled
// connections are in the registry like accepted ones, which ends them with all that is under way on them.
//
// A connection takes no more requests, and ends with its last one, when the registry asks for it, when our own credential has been
// renewed since, when its credentials are past half of what they had left, when it is old, or when its name has another address
// now (names.go). An HTTP/1 connection goes back to the pool only after both messages ended cleanly; one that saw an Upgrade never
// does. The HTTP/2 connection with the most requests that has room comes first, so that few carry the load and the others end.
//
// Requests that fail are tried again (retry.go) if that is safe: always, if nothing of them was sent; otherwise if the method is
// idempotent, there is no body, and nothing of a response came or its status is one that the call names. Another endpoint is
// preferred. What was sent and is sent again is bounded by a share of all requests (budget.go). An endpoint that cannot be reached
// is not a reason to fail as long as another can, nor, for two seconds, if none can: requests wait for it, while one dial at a time
// asks whether it is back (gate.go).
//
// An endpoint is not asked while others are available when it cannot be reached, or has failed several times in a row (outlier.go),
// or Run finds it unwell (checks.go). If fewer than half are available, all are asked: more likely the judgement is wrong, or the
// few that are left would break down under the load of all.
//
// A Cluster outlives the generations of the configuration that name it unchanged. The package judges nobody and chooses no cluster.
package upstream
