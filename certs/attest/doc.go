// Package attest is the map of this folder: attestors turn evidence into selectors, facts of the form "type:key:value" that
// registration entries are matched with.
//
//   - workloadattestor establishes facts about a local process from its connection to a unix socket;
//   - nodeattestor establishes which machine asks to enrol, from the evidence that it sends.
//
// An attestor never decides what a selector earns. What it cannot establish it leaves out, so that an entry that asks for it does
// not match.
package attest
