package testkit

import (
	"testing"

	"go.uber.org/goleak"
)

// CheckLeaks fails the test if goroutines that it started are still alive when it and the cleanups registered after this call
// have ended; call it first. Goroutines that run already are left out. It must not be used in tests that run in parallel with
// others, since it can't tell whose goroutine it sees.
func CheckLeaks(t testing.TB) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if t.Failed() {
			return // a failed test may leave things behind, and its own message is the one to read
		}
		goleak.VerifyNone(t, before)
	})
}

// Main runs the tests of a package and fails them if a goroutine outlives them all. It is for TestMain, and does not return.
func Main(m *testing.M) {
	goleak.VerifyTestMain(m)
}
