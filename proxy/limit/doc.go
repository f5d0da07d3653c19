// Package limit bounds what callers can hold of a listener: connections and requests under way, and how many requests they begin in
// a second.
//
// A Limiter belongs to a listener and outlives the generations of the configuration, so that a reload forgets nobody; its bounds
// may change under it. A Caller is one identity, or one address of anonymous callers; it is in memory while it has a connection,
// and a second longer when its rate is bounded, so that coming back is no way to begin anew.
//
// Nothing here waits: what is over a bound is refused, and the caller of this package says how. It knows no protocol.
package limit
