package workloadattestor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// executable is the file that a process executes, as far as it could be established.
type executable struct {
	key    fileKey
	known  bool   // key is set
	path   string // empty when no path of ours leads to it
	sha256 string // empty when it could not be read
}

func (e executable) selectors() []string {
	var selectors []string
	if e.path != "" {
		selectors = append(selectors, "unix:path:"+e.path)
	}
	if e.sha256 != "" {
		selectors = append(selectors, "unix:sha256:"+e.sha256)
	}
	return selectors
}

// still reports whether the process executes this file now.
func (e executable) still(pid int) bool {
	if !e.known {
		return true // nothing was said of it
	}
	var stat unix.Stat_t
	return unix.Stat(procPath(pid, "exe"), &stat) == nil && keyOf(&stat) == e.key
}

// executable examines the program of a process in a goroutine of its own, since a file system may take for ever to answer: when ctx
// ends the goroutine is left behind, and counts against its user.
func (a *Attestor) executable(ctx context.Context, pid int, uid uint32) (executable, error) {
	if err := a.readers.enter(ctx, uid); err != nil {
		return executable{}, fmt.Errorf("wait to read executable: %w", err)
	}
	type result struct {
		executable
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer a.readers.leave(uid)
		exe, err := a.examine(ctx, pid)
		done <- result{exe, err}
	}()
	select {
	case r := <-done:
		return r.executable, r.err
	case <-ctx.Done():
		return executable{}, fmt.Errorf("read executable: %w", context.Cause(ctx))
	}
}

// examine opens the executable once and takes both path and digest from that one open file.
func (a *Attestor) examine(ctx context.Context, pid int) (executable, error) {
	fd, err := unix.Open(procPath(pid, "exe"), unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		return executable{}, nil // another user's process, and we are not root: its user and groups must do
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH):
		return executable{}, errors.Join(ErrExited, err)
	case err != nil:
		return executable{}, fmt.Errorf("open executable: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return executable{}, fmt.Errorf("stat executable: %w", err)
	}
	exe := executable{key: keyOf(&stat), known: true, path: pathOf(fd, &stat)}
	if a.maxExecutable < 0 || stat.Size > a.maxExecutable {
		return exe, nil
	}
	if sum, ok := a.digests.get(exe.key); ok {
		exe.sha256 = sum
		return exe, nil
	}
	exe.sha256, err = digestOf(ctx, fd, exe.key)
	if err != nil {
		return executable{}, err
	}
	if exe.sha256 != "" {
		a.digests.put(exe.key, exe.sha256)
	}
	return exe, nil
}

// pathOf returns the path of an open file if it leads to that file for us. The kernel's idea of the path is one inside the mount
// namespace and root of the process, and "… (deleted)" for a file that is gone.
func pathOf(fd int, stat *unix.Stat_t) string {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || path == "" || path[0] != '/' {
		return ""
	}
	var named unix.Stat_t
	if unix.Lstat(path, &named) != nil || named.Dev != stat.Dev || named.Ino != stat.Ino {
		return ""
	}
	return path
}

// digestOf reads the file behind an O_PATH descriptor. It returns nothing when the file may not be read, and an error when it
// changed meanwhile.
func digestOf(ctx context.Context, fd int, key fileKey) (string, error) {
	file, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open executable: %w", err)
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	// One byte more than its size shows a file that grows.
	n, err := io.Copy(hash, &contextReader{ctx, io.LimitReader(file, key.size+1)})
	if err != nil {
		return "", fmt.Errorf("read executable: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return "", fmt.Errorf("stat executable: %w", err)
	}
	if n != key.size || keyOf(&stat) != key {
		return "", errors.New("executable changed while it was read")
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// contextReader stops a long reading between two blocks.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one call of io.Copy
	io.Reader
}

// Read implements io.Reader.
func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func keyOf(stat *unix.Stat_t) fileKey {
	return fileKey{
		device: stat.Dev, inode: stat.Ino, size: stat.Size,
		modified: stat.Mtim.Nano(), changed: stat.Ctim.Nano(),
	}
}
