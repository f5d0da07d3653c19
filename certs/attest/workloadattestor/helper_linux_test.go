package workloadattestor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-proxy/postern/internal/testkit"
)

// helperEnv makes the test binary a caller: its value is the socket.
const helperEnv = "POSTERN_TEST_CALLER"

func TestMain(m *testing.M) {
	if socket := os.Getenv(helperEnv); socket != "" {
		if err := runCaller(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testkit.Main(m)
}

// runCaller connects, says so, and then does what it is told on standard input, answering "done".
func runCaller(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	fmt.Println("connected")
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		command, argument, _ := strings.Cut(commands.Text(), " ")
		switch command {
		case "setuid":
			uid, err := strconv.Atoi(argument)
			if err != nil {
				return err
			}
			if err := syscall.Setuid(uid); err != nil {
				return err
			}
		case "attest": // whoever connects to the socket named, with the rights of this process
			selectors, err := attestOne(argument)
			if err != nil {
				return err
			}
			fmt.Println(strings.Join(selectors, " "))
		case "exec": // another program, with the connection kept open
			file, err := conn.(*net.UnixConn).File()
			if err != nil {
				return err
			}
			if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), syscall.F_SETFD, 0); errno != 0 {
				return errno
			}
			fmt.Println("done")
			return syscall.Exec(argument, []string{argument, "60"}, nil)
		}
		fmt.Println("done")
	}
	return nil
}

func attestOne(socket string) ([]string, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }()
	if err := os.Chmod(socket, 0o777); err != nil {
		return nil, err
	}
	fmt.Println("listening")
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	a, err := New(Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	process, selectors, err := a.Attest(context.Background(), conn)
	if err != nil {
		return nil, err
	}
	return selectors, process.Close()
}

// caller is a helper process and our end of its connection.
type caller struct {
	t       *testing.T
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	conn    *net.UnixConn
}

// call starts program (a copy of this test binary; empty for this one) under credential and accepts its connection.
func call(t *testing.T, program string, credential *syscall.Credential) *caller {
	t.Helper()
	dir, err := os.MkdirTemp("", "attest") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	if program == "" {
		program = self(t)
	}
	c := &caller{t: t, command: exec.CommandContext(context.Background(), program, "-test.run=^$")}
	c.command.Env = []string{helperEnv + "=" + socket}
	c.command.Stderr = os.Stderr
	c.command.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL}
	if c.stdin, err = c.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = bufio.NewReader(stdout)
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	c.want("connected")
	if c.conn, err = listener.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

func (c *caller) tell(command string) {
	c.t.Helper()
	c.send(command)
	c.want("done")
}

func (c *caller) send(command string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, command+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) want(line string) {
	c.t.Helper()
	got, err := c.stdout.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != line {
		c.t.Fatalf("caller said %q (%v), want %q", got, err, line)
	}
}

// kill ends the process and waits until the kernel has forgotten it.
func (c *caller) kill() {
	_ = c.command.Process.Kill()
	_ = c.command.Wait()
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// copyOfSelf returns another file with this test binary, which every user may execute.
func copyOfSelf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "attest") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func newAttestor(t *testing.T, options Options) *Attestor {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	a, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pinned(t *testing.T, a *Attestor, conn *net.UnixConn) *Process {
	t.Helper()
	p, err := a.Pin(conn)
	if err != nil {
		t.Fatalf("pin: %v", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: starts processes of other users, which only root may")
	}
}
