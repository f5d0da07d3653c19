package workloadattestor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCallerIsDescribedByUserGroupsPathAndDigest(t *testing.T) {
	c := call(t, "", nil)
	a := newAttestor(t, Options{})
	process, selectors, err := a.Attest(t.Context(), c.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = process.Close() }()
	if process.PID != c.command.Process.Pid || int(process.UID) != os.Geteuid() {
		t.Errorf("attested pid %d uid %d, want pid %d uid %d", process.PID, process.UID, c.command.Process.Pid, os.Geteuid())
	}
	path, err := filepath.EvalSymlinks(self(t))
	if err != nil {
		t.Fatal(err)
	}
	wanted := []string{
		"unix:uid:" + strconv.Itoa(os.Geteuid()),
		"unix:gid:" + strconv.Itoa(os.Getegid()),
		"unix:path:" + path,
		"unix:sha256:" + digestOfFile(t, path),
	}
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		wanted = append(wanted, "unix:user:"+u.Username)
	}
	for _, want := range wanted {
		if !slices.Contains(selectors, want) {
			t.Errorf("selector %q is missing from %q", want, selectors)
		}
	}
	if !slices.IsSorted(selectors) {
		t.Errorf("selectors are not sorted: %q", selectors)
	}
}

func TestCallerOfAnotherUserHasThatUsersSelectorsOnly(t *testing.T) {
	needsRoot(t)
	c := call(t, copyOfSelf(t), &syscall.Credential{Uid: 4242, Gid: 4343, Groups: []uint32{12, 34}})
	p := pinned(t, newAttestor(t, Options{}), c.conn)
	selectors := attested(t, p)
	for _, want := range []string{"unix:uid:4242", "unix:gid:4343", "unix:supplementary_gid:12", "unix:supplementary_gid:34"} {
		if !slices.Contains(selectors, want) {
			t.Errorf("selector %q is missing from %q", want, selectors)
		}
	}
	if slices.Contains(selectors, "unix:uid:0") || slices.Contains(selectors, "unix:supplementary_gid:0") {
		t.Errorf("selectors of another user in %q", selectors)
	}
}

func TestProcessThatExitsIsNotDescribed(t *testing.T) {
	a := newAttestor(t, Options{})
	t.Run("before it is pinned", func(t *testing.T) {
		c := call(t, "", nil)
		c.kill()
		if p, err := a.Pin(c.conn); !errors.Is(err, ErrExited) {
			t.Errorf("pin of a process that is gone: %v, %v; want ErrExited", p, err)
		}
	})
	t.Run("between pin and reading", func(t *testing.T) {
		c := call(t, "", nil)
		p := pinned(t, a, c.conn)
		c.kill()
		if selectors, err := p.Attest(t.Context()); !errors.Is(err, ErrExited) {
			t.Errorf("attest of a process that is gone: %q, %v; want ErrExited", selectors, err)
		}
	})
	t.Run("and is a zombie", func(t *testing.T) {
		c := call(t, "", nil)
		p := pinned(t, a, c.conn)
		if err := c.command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); !errors.Is(err, ErrExited) {
			t.Fatalf("wait: %v", err)
		}
		if selectors, err := p.Attest(t.Context()); !errors.Is(err, ErrExited) {
			t.Errorf("attest of a zombie: %q, %v; want ErrExited", selectors, err)
		}
	})
}

// The kernel gives a process id to another process. The pidfd is of the caller, which has ended; everything that /proc says under the
// id is of the other one.
func TestReusedProcessIDIsNotDescribedAsTheCaller(t *testing.T) {
	a := newAttestor(t, Options{})
	c := call(t, "", nil)
	p := pinned(t, a, c.conn)
	c.kill()
	p.PID = os.Getpid()
	if selectors, err := p.Attest(t.Context()); !errors.Is(err, ErrExited) {
		t.Errorf("attested %q, %v; want ErrExited", selectors, err)
	}
}

func TestDeletedOrReplacedExecutableHasNoPath(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(path string) error
	}{
		{"deleted", os.Remove},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"), 0o755); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
		{"deleted, and a file of the name that the kernel shows in its place", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path+" (deleted)", []byte("#!/bin/sh\n"), 0o755)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			program := copyOfSelf(t)
			sum := digestOfFile(t, program)
			c := call(t, program, nil)
			p := pinned(t, newAttestor(t, Options{}), c.conn)
			if selectors := attested(t, p); !slices.Contains(selectors, "unix:path:"+program) {
				t.Fatalf("no path before the change: %q", selectors)
			}
			if err := test.change(program); err != nil {
				t.Fatal(err)
			}
			selectors := attested(t, p)
			for _, selector := range selectors {
				if strings.HasPrefix(selector, "unix:path:") {
					t.Errorf("path of an executable that is not there: %q", selector)
				}
			}
			if !slices.Contains(selectors, "unix:sha256:"+sum) {
				t.Errorf("digest of what is executed is missing from %q", selectors)
			}
		})
	}
}

func TestProcessThatBecameAnotherUserIsRefused(t *testing.T) {
	needsRoot(t)
	c := call(t, "", nil)
	p := pinned(t, newAttestor(t, Options{}), c.conn)
	c.tell("setuid 4242")
	if selectors, err := p.Attest(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("attested %q, %v; want ErrChanged", selectors, err)
	}
}

// A caller executes somebody else's setuid program with the open connection: the program's user must not be taken for the caller's.
func TestSetuidProgramIsNotTakenForTheUserWhoConnected(t *testing.T) {
	needsRoot(t)
	sleep := copyOf(t, "/bin/sleep")
	if err := os.Chmod(sleep, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	c := call(t, copyOfSelf(t), &syscall.Credential{Uid: 4242, Gid: 4343})
	p := pinned(t, newAttestor(t, Options{}), c.conn)
	c.tell("exec " + sleep)
	awaitExecutable(t, c.command.Process.Pid, sleep)
	if selectors, err := p.Attest(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("attested %q, %v; want ErrChanged", selectors, err)
	}
}

func TestProcessThatExecutesAnotherProgramIsDescribedAnew(t *testing.T) {
	sleep := copyOf(t, "/bin/sleep")
	c := call(t, "", nil)
	p := pinned(t, newAttestor(t, Options{}), c.conn)
	before := attested(t, p)
	c.tell("exec " + sleep)
	awaitExecutable(t, c.command.Process.Pid, sleep)
	after := attested(t, p)
	if slices.Contains(before, "unix:path:"+sleep) || !slices.Contains(after, "unix:path:"+sleep) {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestKernelWithoutPeerPidfdIsServedByIDAndCounted(t *testing.T) {
	const noSuchOption = 0x7fff
	a := newAttestor(t, Options{})
	c := call(t, "", nil)
	p, err := a.pin(c.conn, noSuchOption)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if p.PID != c.command.Process.Pid {
		t.Errorf("pid %d, want %d", p.PID, c.command.Process.Pid)
	}
	attested(t, p)
	if n := testutil.ToFloat64(a.unpinned); n != 1 {
		t.Errorf("%v connections counted as unpinned, want 1", n)
	}
	c.kill()
	if p, err := a.pin(c.conn, noSuchOption); !errors.Is(err, ErrExited) {
		t.Errorf("pin of a process that is gone: %v, %v; want ErrExited", p, err)
	}
}

func TestWaitEndsWithTheProcessOrWithClose(t *testing.T) {
	a := newAttestor(t, Options{})
	c := call(t, "", nil)
	p := pinned(t, a, c.conn)
	closed := pinned(t, a, c.conn)
	if !p.Alive() {
		t.Error("a running process is not alive")
	}
	ends := make(chan error, 2)
	go func() { ends <- closed.Wait() }()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ends); err == nil || errors.Is(err, ErrExited) {
		t.Errorf("wait after close: %v", err)
	}
	go func() { ends <- p.Wait() }()
	c.kill()
	if err := receive(t, ends); !errors.Is(err, ErrExited) {
		t.Errorf("wait after exit: %v, want ErrExited", err)
	}
	if p.Alive() {
		t.Error("a process that has ended is alive")
	}
}

func TestExecutableAboveTheLimitHasAPathButNoDigest(t *testing.T) {
	c := call(t, "", nil)
	selectors := attested(t, pinned(t, newAttestor(t, Options{MaxExecutable: 1000}), c.conn))
	has := func(prefix string) bool {
		return slices.ContainsFunc(selectors, func(s string) bool { return strings.HasPrefix(s, prefix) })
	}
	if !has("unix:path:") || has("unix:sha256:") {
		t.Errorf("selectors %q", selectors)
	}
}

func TestDigestIsRememberedUntilTheFileChanges(t *testing.T) {
	program := copyOfSelf(t)
	a := newAttestor(t, Options{})
	attested(t, pinned(t, a, call(t, program, nil).conn))
	if n := a.digests.recent.Len(); n != 1 {
		t.Fatalf("%d digests remembered, want 1", n)
	}
	attested(t, pinned(t, a, call(t, program, nil).conn))
	if n := a.digests.recent.Len(); n != 1 {
		t.Errorf("%d digests after the same file again, want 1", n)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(program, later, later); err != nil {
		t.Fatal(err)
	}
	attested(t, pinned(t, a, call(t, program, nil).conn))
	if n := a.digests.recent.Len(); n != 2 {
		t.Errorf("%d digests after the file changed, want 2", n)
	}
}

func TestReadingStopsWithItsContext(t *testing.T) {
	c := call(t, "", nil)
	p := pinned(t, newAttestor(t, Options{}), c.conn)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if selectors, err := p.Attest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("attested %q, %v; want context.Canceled", selectors, err)
	}
}

// An attestor without privileges may not look at the executables of other users.
func TestOtherUsersProcessHasNoPathWhereItMayNotBeRead(t *testing.T) {
	needsRoot(t)
	dir, err := os.MkdirTemp("", "attest") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	c := call(t, copyOfSelf(t), &syscall.Credential{Uid: 4242, Gid: 4343})
	socket := filepath.Join(dir, "s")
	c.send("attest " + socket)
	c.want("listening")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(line, "unix:uid:0 ") && !strings.Contains(line, "unix:uid:0\n") {
		t.Errorf("the user is missing from %q", line)
	}
	if strings.Contains(line, "unix:path:") || strings.Contains(line, "unix:sha256:") {
		t.Errorf("an executable that may not be read is described: %q", line)
	}
}

func TestPeerUIDIsOfTheProcessThatConnected(t *testing.T) {
	c := call(t, "", nil)
	uid, pid, err := PeerUID(c.conn)
	if err != nil || int(uid) != os.Geteuid() || pid != c.command.Process.Pid {
		t.Errorf("uid %d pid %d, %v; want uid %d pid %d", uid, pid, err, os.Geteuid(), c.command.Process.Pid)
	}
	_ = c.conn.Close()
	if _, _, err := PeerUID(c.conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a closed connection: %v", err)
	}
}

func attested(t *testing.T, p *Process) []string {
	t.Helper()
	selectors, err := p.Attest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return selectors
}

func digestOfFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func copyOf(t *testing.T, program string) string {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Skipf("NOT TESTED: needs %s: %v", program, err)
	}
	path := copyOfSelf(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// awaitExecutable returns when the kernel has put the other program in place: execve gives no notice to others.
func awaitExecutable(t *testing.T, pid int, path string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if target, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err == nil && target == path {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("process %d does not execute %s", pid, path)
}

func receive(t *testing.T, from <-chan error) error {
	t.Helper()
	select {
	case err := <-from:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}
