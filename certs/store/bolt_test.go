package store_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/certs/store/storetest"
)

func TestBolt(t *testing.T) {
	storetest.Run(t, func(t *testing.T, clock func() time.Time) (store.Store, func() store.Store) {
		path := filepath.Join(t.TempDir(), "state", "store.db")
		opts := store.BoltOptions{Clock: clock, KeepRevisions: 500, ReapInterval: 5 * time.Millisecond}
		current := openRunning(t, path, opts)
		return current, func() store.Store {
			if err := current.Close(); err != nil {
				t.Fatal(err)
			}
			current = openRunning(t, path, opts)
			return current
		}
	})
}

// openRunning opens a store and runs it until the test ends.
func openRunning(t *testing.T, path string, opts store.BoltOptions) *store.Bolt {
	t.Helper()
	b := openBolt(t, path, opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return b
}

func openBolt(t *testing.T, path string, opts store.BoltOptions) *store.Bolt {
	t.Helper()
	b, err := store.OpenBolt(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
