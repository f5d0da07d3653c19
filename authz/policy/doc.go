// Package policy compiles declared policies into a table that answers requests, and explains its answers.
//
// The semantics, in full: a rule matches a request when every condition it has holds. Any matching deny rule denies; otherwise any
// matching allow rule allows; otherwise the request is denied. The order of rules and of policies never matters; it only settles
// which of several matching rules is named. A policy in shadow mode decides nothing; what it would have changed is reported beside
// the decision. What is absent never satisfies a condition of an allow rule. An expired policy no longer allows, and its deny
// rules stay.
//
// A Table is immutable and safe for concurrent use. It is an index (service, path by segments, principal), so that a decision
// costs the same with ten rules and with ten thousand; Explain walks the rules one by one instead, and the tests hold both to
// the same answers. The package does no I/O.
package policy
