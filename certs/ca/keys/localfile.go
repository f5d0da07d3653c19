package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// LocalFile returns a Sealer that keeps the sealing key in a file of its own, which it makes when the store is new and which must be
// readable by its owner alone.
//
// Creation takes two steps, so that a crash between file and store leaves neither a lost key nor a silent new authority: the key is
// written as "<path>.new", then the store is sealed under it, then the file gets its name. A named file beside a store that was
// never sealed is thus the trace of a store that somebody lost.
func LocalFile(path string) Sealer { return localFile{path: path} }

type localFile struct{ path string }

func (f localFile) pending() string { return f.path + ".new" }

// Kind returns KindLocalFile.
func (f localFile) Kind() string { return KindLocalFile }

// Create writes a new key under the pending name.
func (f localFile) Create() (key, params []byte, err error) {
	if _, err := os.Lstat(f.path); err == nil {
		return nil, nil, fmt.Errorf("%w: the store is empty, but sealing key file %q of an earlier one is here: "+
			"restore the store from its backup, or move the file away to begin with a new authority that nobody trusts yet", ErrStateLost, f.path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("look for sealing key file: %w", err)
	}
	// A pending file beside a store that was never sealed protects nothing: the process died in between.
	if err := os.Remove(f.pending()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("remove unfinished sealing key file: %w", err)
	}
	key = make([]byte, sealingKeySize)
	_, _ = rand.Read(key) // never fails
	if err := writeNew(f.pending(), key); err != nil {
		return nil, nil, fmt.Errorf("write sealing key file: %w", err)
	}
	return key, []byte("{}"), nil
}

// Open reads the key, under its pending name if the process died before Settle.
func (f localFile) Open([]byte) ([]byte, error) {
	key, err := readPrivate(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = readPrivate(f.pending())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the store holds keys that are sealed under file %q, which is not there: "+
			"put it back from where it was kept; without it these keys are lost, and a new authority needs a new data directory", ErrSealingKeyMissing, f.path)
	}
	if err != nil {
		return nil, err
	}
	if len(key) != sealingKeySize {
		return nil, fmt.Errorf("%w: sealing key file %q has %d bytes instead of %d: put the right one back", ErrWrongSealingKey, f.path, len(key), sealingKeySize)
	}
	return key, nil
}

// Settle gives the pending file its name.
func (f localFile) Settle() error {
	if _, err := os.Lstat(f.path); err == nil {
		return nil
	}
	if err := os.Rename(f.pending(), f.path); err != nil {
		return fmt.Errorf("name sealing key file: %w", err)
	}
	return syncDir(filepath.Dir(f.path))
}

// writeNew writes a file that must not exist yet, for its owner's eyes only, and makes it durable.
func writeNew(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readPrivate reads a regular file that nobody but its owner may read.
func readPrivate(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open sealing key file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat() // of the file that is open, not of what the path names by now
	if err != nil {
		return nil, fmt.Errorf("look at sealing key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("sealing key file %q is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" { // Windows has no such bits
		return nil, fmt.Errorf("sealing key file %q has mode %04o: others may have read it; chmod 600 it, and think about whether they did", path, mode)
	}
	key := make([]byte, sealingKeySize+1)
	n, err := file.Read(key)
	if err != nil {
		return nil, fmt.Errorf("read sealing key file: %w", err)
	}
	return key[:n], nil
}

// syncDir makes a new name in a directory durable. Windows does so by itself and cannot open directories for it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
