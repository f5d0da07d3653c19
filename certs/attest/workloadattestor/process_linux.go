package workloadattestor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const supported = true

// maxStatus bounds what is read of /proc/PID/status: 65,536 groups of up to eleven characters.
const maxStatus = 1 << 20

// Process is the process at the other end of a connection, pinned: it stays this one process, whatever becomes of its id. Close it
// after use. Its methods may be called concurrently.
type Process struct {
	// PID is its id in our PID namespace, for logs.
	PID int
	// UID and GID are the effective ids it had when it connected.
	UID uint32
	GID uint32

	attestor *Attestor
	pidfd    *os.File // non-blocking, so that its exit wakes the poller

	closeOnce sync.Once
	closeErr  error
}

// Pin takes hold of the peer of conn. It reads nothing of it yet, and does not block.
func (a *Attestor) Pin(conn *net.UnixConn) (*Process, error) {
	p, err := a.pin(conn, unix.SO_PEERPIDFD)
	if err != nil {
		err = fmt.Errorf("pin caller: %w", err)
		a.count(err)
		return nil, err
	}
	return p, nil
}

// pin is Pin with the socket option that yields the pidfd, so that a test can name one that no kernel has.
func (a *Attestor) pin(conn *net.UnixConn, option int) (*Process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	pidfd := -1
	unpinned := false
	controlErr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
		if errors.Is(err, unix.ENOPROTOOPT) {
			unpinned = true
			pidfd, err = openByID(int(fd), int(cred.Pid))
		}
	})
	if err = errors.Join(controlErr, err); err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			err = errors.Join(ErrExited, err)
		}
		return nil, err
	}
	unix.CloseOnExec(pidfd)
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, err
	}
	p := &Process{UID: cred.Uid, GID: cred.Gid, attestor: a, pidfd: os.NewFile(uintptr(pidfd), "pidfd")}
	if p.PID, err = p.id(); err != nil {
		_ = p.Close()
		return nil, err
	}
	if unpinned {
		a.unpinned.Inc()
	}
	return p, nil
}

// openByID opens a pidfd where the kernel keeps none with the connection. In between, the process may have ended and its id gone to
// another one; a connection whose peer has ended shows it, unless the peer left it to a child.
func openByID(fd, pid int) (int, error) {
	if pid <= 0 {
		return -1, errors.New("the caller is in another PID namespace")
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(poll, 0); err != nil || poll[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0 {
		_ = unix.Close(pidfd)
		return -1, errors.Join(ErrExited, err)
	}
	return pidfd, nil
}

// id reads the process id from the pidfd (pidfd_open(2), "Pid:" of fdinfo): -1 once it was reaped, 0 when it is not in our PID
// namespace.
func (p *Process) id() (int, error) {
	var data []byte
	err := p.control(func(fd int) (err error) {
		data, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read process id: %w", err)
	}
	for line := range bytes.Lines(data) {
		value, found := bytes.CutPrefix(line, []byte("Pid:"))
		if !found {
			continue
		}
		pid, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		switch {
		case err != nil:
			return 0, fmt.Errorf("read process id: %w", err)
		case pid < 0:
			return 0, ErrExited
		case pid == 0:
			return 0, errors.New("the caller is in another PID namespace")
		}
		return pid, nil
	}
	return 0, errors.New("no process id in fdinfo")
}

func (p *Process) control(f func(fd int) error) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Alive reports whether the process still runs; a zombie does not.
func (p *Process) Alive() bool { return p.check() == nil }

// check returns ErrExited once the process has ended: a pidfd is readable from then on.
func (p *Process) check() error {
	return p.control(func(fd int) error {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, 0)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return err
			case n > 0:
				return ErrExited
			}
			return nil
		}
	})
}

// Wait blocks until the process has ended, and returns ErrExited, or until Close, and returns os.ErrClosed.
func (p *Process) Wait() error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	exited := false
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, pollErr := unix.Poll(poll, 0)
		exited = pollErr == nil && n > 0
		return exited
	})
	if exited {
		return ErrExited
	}
	return err
}

// Close lets go of the process. Wait returns.
func (p *Process) Close() error {
	p.closeOnce.Do(func() { p.closeErr = p.pidfd.Close() })
	return p.closeErr
}

// Attest reads what the process is now and returns it as sorted selectors. It fails with ErrExited when the process ended before the
// reading was complete, and with ErrChanged when its user or group is not the one that connected. Reading a large executable for the
// first time takes a while; ctx bounds it.
func (p *Process) Attest(ctx context.Context) ([]string, error) {
	selectors, err := p.attest(ctx)
	if err != nil {
		err = fmt.Errorf("attest process %d: %w", p.PID, err)
	}
	p.attestor.count(err)
	return selectors, err
}

func (p *Process) attest(ctx context.Context) ([]string, error) {
	before, err := p.identity()
	if err != nil {
		return nil, err
	}
	if before.uid != p.UID || before.gid != p.GID {
		return nil, ErrChanged
	}
	selectors := identitySelectors(before)
	exe, err := p.attestor.executable(ctx, p.PID, p.UID)
	if err != nil {
		return nil, err
	}
	selectors = append(selectors, exe.selectors()...)

	// A process that executed another program while it was read would be described half as the one, half as the other.
	after, err := p.identity()
	if err != nil {
		return nil, err
	}
	if after.uid != before.uid || after.gid != before.gid || !slices.Equal(after.supplementary, before.supplementary) {
		return nil, ErrChanged
	}
	if !exe.still(p.PID) {
		return nil, errors.New("the calling process executed another program meanwhile")
	}
	// Last: all of the above was read of this process only if it is still there.
	if err := p.check(); err != nil {
		return nil, err
	}
	slices.Sort(selectors)
	return slices.Compact(selectors), nil
}

func (p *Process) identity() (identity, error) {
	data, err := readProc(p.PID, "status", maxStatus)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return identity{}, errors.Join(ErrExited, err)
		}
		return identity{}, err
	}
	id, err := parseStatus(data)
	if err != nil {
		return identity{}, err
	}
	if id.dead {
		return identity{}, ErrExited
	}
	if id.pid != p.PID {
		return identity{}, fmt.Errorf("process id is that of a thread of process %d", id.pid)
	}
	return id, nil
}

func identitySelectors(id identity) []string {
	uid, gid := strconv.FormatUint(uint64(id.uid), 10), strconv.FormatUint(uint64(id.gid), 10)
	selectors := []string{"unix:uid:" + uid, "unix:gid:" + gid}
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		selectors = append(selectors, "unix:user:"+u.Username)
	}
	if g, err := user.LookupGroupId(gid); err == nil && g.Name != "" {
		selectors = append(selectors, "unix:group:"+g.Name)
	}
	for _, group := range id.supplementary {
		selectors = append(selectors, "unix:supplementary_gid:"+strconv.FormatUint(uint64(group), 10))
	}
	return selectors
}

func readProc(pid int, name string, limit int) ([]byte, error) {
	data, err := os.ReadFile(procPath(pid, name))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s of process %d is larger than %d bytes", name, pid, limit)
	}
	return data, nil
}

func procPath(pid int, parts ...string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + strings.Join(parts, "/")
}
