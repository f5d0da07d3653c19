// Package translate turns what an authority holds into the resources that nodes follow, and back: entries, bundles, policies,
// revocations. It is pure: no I/O, no state, no clock.
//
// The way out cannot fail. The way in takes nothing on trust: every field is parsed into the type that the rest of the program uses,
// within bounds, and the first thing that is wrong is the error, with which the resource is rejected.
package translate
