// Package e2e tests the built binary: real processes, real sockets, real clients, one scenario a file, named by the behaviour it holds.
//
// The tests run the binary that POSTERN_BIN names, or build one. They hold what is promised to users; what a package promises to
// another is tested there.
package e2e
