package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postern-proxy/postern/certs/store"
)

func statePath(t *testing.T) string { return filepath.Join(t.TempDir(), "state", "store.db") }

// filled makes a store with some content, closes it and returns its path.
func filled(t *testing.T) string {
	t.Helper()
	path := statePath(t)
	st, err := store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		op := store.Op{Key: "key", Value: bytes.Repeat([]byte("value"), 5000)}
		if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenMakesFolderAndFileForTheOwnerOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("NOT TESTED: Windows has no permission bits")
	}
	path := statePath(t)
	openBolt(t, path, store.BoltOptions{})
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("folder holds %v, %v; want the store alone", files, err)
	}
}

func TestSecondOpenSaysThatTheStoreIsInUse(t *testing.T) {
	path := statePath(t)
	openBolt(t, path, store.BoltOptions{})
	_, err := store.OpenBolt(path, store.BoltOptions{LockTimeout: 60 * time.Millisecond})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("second open: %v", err)
	}
}

// Security section 4, check 2: "opens with the last complete state or a clear error, never a silent new CA".
func TestOpenRefusesWhatIsNoWholeStoreAndLeavesItAlone(t *testing.T) {
	write := func(t *testing.T, content []byte) string {
		path := statePath(t)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	change := func(t *testing.T, f func([]byte) []byte) string {
		path := filled(t)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return write(t, f(content))
	}
	tests := []struct {
		name string
		make func(t *testing.T) string
		want string
	}{
		{"empty file", func(t *testing.T) string { return write(t, nil) }, "it is empty"},
		{"text", func(t *testing.T) string { return write(t, bytes.Repeat([]byte("hello\n"), 5000)) }, "no store of postern"},
		{"a few bytes", func(t *testing.T) string { return write(t, []byte("hello")) }, "no store of postern"},
		{"cut to a quarter", func(t *testing.T) string {
			return change(t, func(b []byte) []byte { return b[:len(b)/4] })
		}, "cut short"},
		{"cut to the meta pages", func(t *testing.T) string {
			return change(t, func(b []byte) []byte { return b[:2*os.Getpagesize()] })
		}, "cut short"},
		{"both meta pages zeroed", func(t *testing.T) string {
			return change(t, func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b })
		}, "damaged"},
		{"all pages but the meta pages zeroed", func(t *testing.T) string {
			return change(t, func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b })
		}, "damaged"},
		{"a value flipped", func(t *testing.T) string {
			return change(t, func(b []byte) []byte {
				return bytes.ReplaceAll(b, []byte("valuevaluevalue"), []byte("valuEvaluevalue"))
			})
		}, "damaged"},
		{"another program's bbolt file", func(t *testing.T) string { return foreign(t, "theirs", nil) }, "no store of postern"},
		{"a later format", func(t *testing.T) string {
			return foreign(t, "state", []byte("postern store 9"))
		}, `"postern store 9"`},
		{"a folder", func(t *testing.T) string {
			path := statePath(t)
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			return path
		}, "no regular file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.make(t)
			before, _ := os.ReadFile(path)
			_, err := store.OpenBolt(path, store.BoltOptions{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("open: %v; want %q in it", err, test.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// foreign makes a bbolt file with one bucket, or with all of ours and the format given.
func foreign(t *testing.T, bucket string, format []byte) string {
	t.Helper()
	path := statePath(t)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucket))
		if err != nil || format == nil {
			return err
		}
		for _, name := range []string{"items", "expiry", "changes"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return b.Put([]byte("format"), format)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// One meta page may be torn by a power cut; the other one leads to the state before.
func TestOpenGoesBackToTheOtherMetaPage(t *testing.T) {
	path := filled(t)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for page := range int64(2) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(make([]byte, 64), page*int64(os.Getpagesize())+16); err != nil {
			t.Fatal(err)
		}
		st, err := store.OpenBolt(path, store.BoltOptions{})
		if err != nil {
			t.Fatalf("open with meta page %d torn: %v", page, err)
		}
		rev, err := st.Revision(t.Context())
		if err != nil || (rev != 11 && rev != 10) {
			t.Errorf("revision %d, %v; want the last or the one before", rev, err)
		}
		if rev == 10 {
			torn++
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if torn != 1 {
		t.Errorf("%d of the two meta pages led to the last revision's predecessor, want 1", torn)
	}
}

func TestOpenRefusesAFileThatOthersCanUse(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("NOT TESTED: Windows has no permission bits")
	}
	path := filled(t)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(path, store.BoltOptions{}); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("file of mode 0640: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(path, store.BoltOptions{}); err == nil || !strings.Contains(err.Error(), "0770") {
		t.Errorf("folder of mode 0770: %v", err)
	}
}
