package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/postern-proxy/postern/certs/store"
)

// smallDisk mounts a file system of size bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a full disk needs a small file system, and only root may mount one")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Skipf("NOT TESTED: a full disk needs a small file system, and mounting one failed: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// Facts, security section 4, check 3, and identity section 6: on a full disk a commit fails with an error and leaves nothing behind, reading goes
// on, and writing goes on when there is room again.
func TestFullDiskRefusesCommitsAndKeepsReading(t *testing.T) {
	dir := smallDisk(t, 8<<20)
	path := filepath.Join(dir, "store.db")
	st := openBolt(t, path, store.BoltOptions{})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte("v"), 20_000)
	commit := func(i int) error {
		_, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{
			{Key: fmt.Sprintf("a/%05d", i), Value: value}, {Key: fmt.Sprintf("b/%05d", i), Value: value[:10]},
		}})
		return err
	}
	acked := 0
	var err error
	for ; err == nil; acked++ {
		err = commit(acked)
	}
	acked--
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("commit %d: %v, want ENOSPC", acked, err)
	}
	wantKept := func(when string) {
		t.Helper()
		for _, prefix := range []string{"a/", "b/"} {
			items, _, err := store.All(t.Context(), st, prefix)
			if err != nil || len(items) != acked {
				t.Fatalf("%s: %d keys under %s, %v; want %d", when, len(items), prefix, err, acked)
			}
		}
		if rev, err := st.Revision(t.Context()); err != nil || rev != store.Revision(acked+1) {
			t.Fatalf("%s: revision %d, %v; want %d", when, rev, err, acked+1)
		}
	}
	wantKept("on the full disk")
	for refused := 0; refused < 5; { // one may find pages that an earlier commit freed, and fit
		switch err := commit(acked); {
		case err == nil:
			acked++
		case errors.Is(err, syscall.ENOSPC):
			refused++
		default:
			t.Fatalf("commit on the full disk: %v, want ENOSPC", err)
		}
	}
	wantKept("after more refused commits")

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := commit(acked); err != nil {
			t.Fatalf("commit with room again: %v", err)
		}
		acked++
	}
	wantKept("with room again")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = openBolt(t, path, store.BoltOptions{})
	wantKept("after reopening")
	t.Logf("%d commits kept", acked)
}
