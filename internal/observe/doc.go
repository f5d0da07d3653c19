// Package observe holds the names under which postern reports what it does: reason codes, log keys, metrics and the Flow,
// which is the record of one connection.
//
// One list each, shared by the access log, metric labels, the admin socket and the docs, so that a word found in one place
// can be searched for in the others. The package reports; it decides nothing.
package observe
