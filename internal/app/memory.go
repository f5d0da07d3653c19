package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// giveMemoryBack returns memory to the system after many connections have ended at once, until the context ends. The runtime would
// do it too, but not before its next collection, which without traffic is up to two minutes away, and then slowly: what a flood
// took would be missing to others on the machine long after it.
func giveMemoryBack(ctx context.Context) error {
	tick := time.NewTicker(memoryCheck)
	defer tick.Stop()
	most := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := runtime.NumGoroutine()
		if !worthCollecting(most, now) {
			most = max(most, now)
			continue
		}
		debug.FreeOSMemory()
		most = now
	}
}

// worthCollecting: of what ran at most since the last time, half has ended, and so much that a collection, of a few milliseconds,
// is small beside it.
func worthCollecting(most, now int) bool { return most-now >= 500 && now <= most/2 }

// memoryCheck is how often it is looked at.
const memoryCheck = 2 * time.Second
