// Package testkit is what tests of several packages share: a test authority that makes good and deliberately bad certificates,
// golden files, and a check for goroutines that outlive a test.
//
// Only tests import it. It holds no fakes of postern's own packages: those stand beside the interface that they fill.
package testkit
