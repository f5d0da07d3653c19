// Package xds is the map of this folder: how processes that follow an authority learn what it declares.
//
// One protocol carries everything: the aggregated discovery service of xDS in its incremental ("delta") variant. The authority
// runs adsserver over tables of resources; a node runs adsclient. translate turns the authority's own values into resources and
// back. The authority's own node follows it through the same server and client, over a connection inside the process.
//
// A node is told who is trusted before it is told what to use: bundles, then revocations, then policies, then entries.
// Nothing in this folder issues, verifies or judges.
package xds
