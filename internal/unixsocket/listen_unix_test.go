//go:build unix

package unixsocket

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSocketIsForEverybodyAndGoesWithTheListener(t *testing.T) {
	path := filepath.Join(shortDir(t), "made", "here", "s.sock")
	listener, err := Listen(t.Context(), path, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil || dir.Mode().Perm()&0o022 != 0 {
		t.Errorf("directory %v, %v", dir.Mode(), err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestSocketLeftBehindIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(shortDir(t), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	live, err := Listen(t.Context(), path, 0o777)
	if err != nil {
		t.Fatalf("a socket left behind: %v", err)
	}
	defer func() { _ = live.Close() }()
	if second, err := Listen(t.Context(), path, 0o777); err == nil {
		_ = second.Close()
		t.Error("took the socket of a process that answers")
	} else if !strings.Contains(err.Error(), "another process answers") {
		t.Error(err)
	}
}

func TestSocketIsNotMadeWhereOthersCouldReplaceIt(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(dir string) (path string, err error)
		want    string
	}{
		{"a directory that everybody may write to", func(dir string) (string, error) {
			return filepath.Join(dir, "s"), os.Chmod(dir, 0o777)
		}, "writable by everybody"},
		{"below a directory that everybody may write to", func(dir string) (string, error) {
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
				return "", err
			}
			return filepath.Join(dir, "sub", "s"), os.Chmod(dir, 0o777)
		}, "writable by everybody"},
		{"behind a link into such a directory", func(dir string) (string, error) {
			open, link := filepath.Join(dir, "open"), filepath.Join(dir, "link")
			if err := os.Mkdir(open, 0o755); err != nil {
				return "", err
			}
			if err := os.Chmod(open, 0o777); err != nil {
				return "", err
			}
			return filepath.Join(link, "s"), os.Symlink(open, link)
		}, "writable by everybody"},
		{"a directory of another user", func(dir string) (string, error) {
			if os.Geteuid() != 0 {
				return "", nil
			}
			return filepath.Join(dir, "s"), os.Chown(dir, 4242, 4242)
		}, "belongs to user 4242"},
		{"a directory that another group may write to", func(dir string) (string, error) {
			if os.Geteuid() != 0 {
				return "", nil
			}
			if err := os.Chown(dir, 0, 4242); err != nil {
				return "", err
			}
			return filepath.Join(dir, "s"), os.Chmod(dir, 0o775)
		}, "writable by group 4242"},
		{"where a file is", func(dir string) (string, error) {
			path := filepath.Join(dir, "s")
			return path, os.WriteFile(path, []byte("precious"), 0o600)
		}, "is no socket"},
		{"where a link is", func(dir string) (string, error) {
			path := filepath.Join(dir, "s")
			return path, os.Symlink("/nowhere", path)
		}, "is no socket"},
		{"a path that is too long for the system", func(dir string) (string, error) {
			return filepath.Join(dir, strings.Repeat("x", 110)), nil
		}, "the system takes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, err := test.prepare(shortDir(t))
			if err != nil {
				t.Fatal(err)
			}
			if path == "" {
				t.Skip("NOT TESTED: only root can give a directory to another user")
			}
			listener, err := Listen(t.Context(), path, 0o777)
			if err == nil {
				_ = listener.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
