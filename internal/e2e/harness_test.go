package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
)

// process is a running postern.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	admin  *admin.Client
	socket string
	out    *output
	exited chan struct{}
}

// output is what a process prints; safe to read while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// launch starts postern with the arguments and environment, without waiting for anything. It is killed at the end of the test.
func launch(t *testing.T, dir, socket string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, socket: socket, admin: admin.NewClient(socket), out: &output{}, exited: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s printed:\n%s", binary, strings.Join(args, " "), p.out)
		}
	})
	return p
}

// start runs "postern run" with a configuration and waits until it is ready. The admin socket is name.sock in dir.
func start(t *testing.T, dir, name, yaml string) *process {
	t.Helper()
	write(t, filepath.Join(dir, name+".yaml"), yaml)
	p := launch(t, dir, filepath.Join(dir, name+".sock"), nil, "run", "-c", name+".yaml")
	p.ready()
	return p
}

// ready waits until the process says that it is.
func (p *process) ready() {
	p.t.Helper()
	p.eventually("ready", func() error {
		st, err := p.admin.Status(p.t.Context())
		if err == nil && !st.Ready {
			err = fmt.Errorf("waits for %v", st.NotReady)
		}
		return err
	})
}

// eventually asks until there is no error, or the process ends, or 20 seconds have passed.
func (p *process) eventually(what string, ask func() error) {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			p.t.Fatalf("%s: the process ended\n%s", what, p.out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %v", what, err)
		}
	}
}

// kill ends the process at once, as a power cut would.
func (p *process) kill() {
	p.admin.Close()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// terminate asks the process to end and waits until it has.
func (p *process) terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Fatal("the process did not end within 30 seconds")
	}
	return p.cmd.ProcessState.ExitCode()
}

// postern runs a command and returns what it printed and its exit code.
func (p *process) postern(args ...string) (string, int) {
	p.t.Helper()
	return command(p.t, append([]string{"--admin-address", p.socket}, args...)...)
}

func command(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is postern for a command that has to succeed.
func (p *process) must(args ...string) string {
	p.t.Helper()
	out, code := p.postern(args...)
	if code != 0 {
		p.t.Fatalf("postern %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ports returns n free ports on loopback.
func ports(t *testing.T, n int) []int {
	t.Helper()
	list := make([]int, n)
	for i := range list {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		list[i] = l.Addr().(*net.TCPAddr).Port
	}
	return list
}

// shortDir is a temporary directory whose path leaves room for the name of a unix socket (108 bytes).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pst") //nolint:usetesting // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
