// Package app is the composition root: it builds the roles that a configuration names, wires them to each other, and runs them
// until the process ends.
//
//	authority  store, CA, registration, enrolment, and the ADS server that nodes follow        authority.go, feed.go
//	agent      follows an authority, holds this node's SVIDs, serves the Workload API          node.go
//	proxy      the data plane, under credentials, policies and revocations as they arrive      dataplane.go
//
// The node side always reaches the authority over gRPC: over mutual TLS when it is elsewhere, over a listener inside the process
// when it is here, so that one machine and a thousand run the same code. What is decided, is decided by the packages beneath; this
// one only carries values from one to the next.
//
// A reload builds the new configuration beside the old one and swaps at the end, or leaves everything as it is (reload.go).
package app
