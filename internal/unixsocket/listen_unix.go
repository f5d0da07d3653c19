//go:build unix

package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// directoryMode of a directory that Listen makes: others may reach the socket and not replace it.
	directoryMode = 0o755
	// answerTimeout is how long another process may take to accept on a socket that is there already.
	answerTimeout = time.Second
	// maxPath is the shortest sun_path of the systems we run on (104 on macOS and the BSDs, 108 on Linux), with its final NUL.
	maxPath = 103
)

// Listen makes the unix socket path with the mode. Its directory is made if need be; it and those above it must belong to root or to
// this user and be writable by nobody else, since who can write there can put a socket of his own in the place of this one. A socket
// that a process left behind is replaced; one at which somebody answers, or another kind of file, is an error. Closing the listener
// removes the socket.
func Listen(ctx context.Context, path string, mode os.FileMode) (net.Listener, error) {
	listener, err := listen(ctx, path, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on unix socket %q: %w", path, err)
	}
	return listener, nil
}

// CheckOwner says why a socket in dir may not be the one that root or this user put there. A directory that does not exist is no
// error: nothing answers there.
func CheckOwner(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return checkDirectories(resolved)
}

func listen(ctx context.Context, path string, mode os.FileMode) (net.Listener, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, name := filepath.Split(absolute)
	if err := os.MkdirAll(dir, directoryMode); err != nil {
		return nil, err
	}
	// The links are followed now and not again: what was checked is what is used.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if err := checkDirectories(dir); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, name)
	if len(socket) > maxPath {
		return nil, fmt.Errorf("path of %d bytes; the system takes %d", len(socket), maxPath)
	}
	if err := removeStale(ctx, socket); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux a socket file gets the mode of the socket that is bound to it, so that there is no moment in which more may
		// connect than should. Elsewhere this fails, and the mode is set below.
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), uint32(mode)) })
	}}
	listener, err := config.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, mode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// checkDirectories checks dir and everything above it.
func checkDirectories(dir string) error {
	for {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if err := checkDirectory(dir, info); err != nil {
			return err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

func checkDirectory(dir string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("owner of %q is not known", dir)
	}
	mode := info.Mode()
	sticky := mode&os.ModeSticky != 0 // in such a directory nobody can move another's file away
	ownGroup := stat.Gid == 0 || int(stat.Gid) == os.Getegid()
	switch {
	case !info.IsDir():
		return fmt.Errorf("%q is not a directory", dir)
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("directory %q belongs to user %d, neither root nor this process's", dir, stat.Uid)
	case mode.Perm()&0o002 != 0 && !sticky:
		return fmt.Errorf("directory %q is writable by everybody (mode %s)", dir, mode.Perm())
	case mode.Perm()&0o020 != 0 && !sticky && !ownGroup:
		return fmt.Errorf("directory %q is writable by group %d (mode %s)", dir, stat.Gid, mode.Perm())
	}
	return nil
}

// removeStale removes a socket at which nobody answers.
func removeStale(ctx context.Context, socket string) error {
	info, err := os.Lstat(socket)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("the file is there and is no socket")
	}
	dialer := net.Dialer{Timeout: answerTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err == nil {
		_ = conn.Close()
		return errors.New("another process answers there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask whether another process answers there: %w", err)
	}
	return os.Remove(socket)
}
