// Package upstream reaches what stands behind a route: a Cluster is a named group of Endpoints, with its pools, its health and the
// TLS that it originates.
//
// Every use demands an authz.Permit, which only a decision makes. A request takes the endpoint with the fewest requests under way,
// on a pooled connection or a fresh one; an endpoint that cannot be reached is left alone for a while that grows. A pooled
// connection goes back only after both messages ended cleanly; one that saw an Upgrade never does, nor one whose own credential
// has been renewed since, whose credentials are past half of what they had left, or that is old.
//
// A request is tried once more, on a fresh connection, only if nothing of it was sent, or if it is idempotent without a body and
// the pooled connection died before the first byte of a response: the upstream had closed it meanwhile.
//
// Dialled connections are in the registry like accepted ones. A Cluster outlives the generations of the configuration that name it
// unchanged. The package judges nobody and chooses no cluster.
package upstream
