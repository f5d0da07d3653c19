package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// held opens a store whose turn to write is taken, so that commits gather until release is called.
func held(t *testing.T, dir string) (b *Bolt, release func()) {
	t.Helper()
	b, err := OpenBolt(filepath.Join(dir, "store.db"), BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	b.turn <- struct{}{}
	return b, func() { <-b.turn }
}

// gather starts a commit and returns when it is queued.
func gather(ctx context.Context, t *testing.T, b *Bolt, txn Txn) <-chan error {
	t.Helper()
	before := queued(b)
	result := make(chan error, 1)
	go func() {
		_, err := b.Commit(ctx, txn)
		result <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); queued(b) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the commit is not queued")
		}
	}
	return result
}

func queued(b *Bolt) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

func one(key string, cond ...Condition) Txn { return Txn{If: cond, Then: []Op{{Key: key}}} }

func TestConflictWithinABatchConcernsOneCommitOnly(t *testing.T) {
	b, release := held(t, filepath.Join(t.TempDir(), "state"))
	first := gather(t.Context(), t, b, one("a", Condition{Key: "a"}))
	second := gather(t.Context(), t, b, one("a", Condition{Key: "a"})) // loses against the first
	third := gather(t.Context(), t, b, one("b", Condition{Key: "a", Modified: 2}))
	release()
	if err := <-first; err != nil {
		t.Errorf("first: %v", err)
	}
	var conflict *ConflictError
	if err := <-second; !errors.As(err, &conflict) || conflict.Have != 2 {
		t.Errorf("second: %v, want a conflict with revision 2", err)
	}
	if err := <-third; err != nil {
		t.Errorf("third, which builds on the first: %v", err)
	}
	if rev, err := b.Revision(t.Context()); err != nil || rev != 3 {
		t.Errorf("revision %d, %v; want 3", rev, err)
	}
}

func TestWaitingCommitIsWithdrawnWithItsContext(t *testing.T) {
	b, release := held(t, filepath.Join(t.TempDir(), "state"))
	ctx, cancel := context.WithCancel(t.Context())
	withdrawn := gather(ctx, t, b, one("a"))
	kept := gather(t.Context(), t, b, one("b"))
	cancel()
	if err := <-withdrawn; !errors.Is(err, context.Canceled) {
		t.Errorf("withdrawn commit: %v", err)
	}
	release()
	if err := <-kept; err != nil {
		t.Error(err)
	}
	if _, err := b.Get(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the withdrawn commit was made: %v", err)
	}
}

func TestCloseRefusesWaitingCommits(t *testing.T) {
	b, release := held(t, filepath.Join(t.TempDir(), "state"))
	waiting := gather(t.Context(), t, b, one("a"))
	closed := make(chan error, 1)
	go func() { closed <- b.Close() }()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting commit: %v, want ErrClosed", err)
	}
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A commit that is too large for what is left on the disk does not take those down that it shares a write with.
func TestNearlyFullDiskTakesWhatFits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a full disk needs a small file system, and only root may mount one")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Skipf("NOT TESTED: a full disk needs a small file system, and mounting one failed: %v", err)
	}
	t.Cleanup(func() { // after the store's own
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	b, release := held(t, dir)
	var huge Txn
	for i := range 5 {
		huge.Then = append(huge.Then, Op{Key: fmt.Sprint("huge", i), Value: make([]byte, MaxValue)})
	}
	before := gather(t.Context(), t, b, one("before"))
	refused := gather(t.Context(), t, b, huge)
	after := gather(t.Context(), t, b, one("after"))
	release()
	if err := errors.Join(<-before, <-after); err != nil {
		t.Errorf("small commits: %v", err)
	}
	if err := <-refused; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("huge commit: %v, want ENOSPC", err)
	}
	if rev, err := b.Revision(t.Context()); err != nil || rev != 3 {
		t.Errorf("revision %d, %v; want 3", rev, err)
	}
}
