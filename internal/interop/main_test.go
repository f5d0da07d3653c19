package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// postern returns the path of the binary under test: POSTERN_BIN, or one built for this run.
func postern(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("POSTERN_BIN"); path != "" {
		return path
	}
	path, err := build()
	if err != nil {
		t.Fatalf("build postern: %v", err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "postern-interop-")
	if err != nil {
		return "", err
	}
	command := exec.Command("go", "build", "-o", filepath.Join(dir, "postern"), "./cmd/postern")
	command.Dir = filepath.Join("..", "..")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(dir, "postern"), nil
})

// need returns the path of a foreign program.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" || os.Getuid() == 0 {
		t.Fatalf("%s is not on this machine: make interop installs it", program)
	}
	t.Skipf("NOT CHECKED: %s is not on this machine", program)
	return ""
}

// python returns the interpreter that has the packages of requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("POSTERN_PYTHON"); path != "" {
		return path
	}
	return need(t, filepath.Join("..", "..", ".cache", "venv", "bin", "python"))
}

// process is a postern that runs in folders of its own.
type process struct {
	Socket  string // of the Workload API, as unix:///…
	Started time.Time
	home    string
	bin     string
	env     []string
}

// start runs postern without configuration until the test ends, and returns when it has said where its Workload API is.
func start(t *testing.T) *process {
	t.Helper()
	p := newProcess(t)
	said := p.launch(t, "run")
	select {
	case socket, ok := <-said:
		if !ok {
			t.Fatal("postern run ended before it said where its Workload API is")
		}
		p.Socket = socket
	case <-time.After(20 * time.Second):
		t.Fatal("postern run did not say where its Workload API is")
	}
	return p
}

// startWith runs postern with a configuration, in whose text HOME stands for the folder of the process, until the test ends. It
// returns when the Workload API at HOME/w.sock gives this test an SVID.
func startWith(t *testing.T, config string) *process {
	t.Helper()
	p := newProcess(t)
	file := filepath.Join(p.home, "postern.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "HOME", p.home)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.launch(t, "run", "-c", file)
	p.Socket = "unix://" + filepath.Join(p.home, "w.sock")
	var out string
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out, err = output(t, p.bin, "svid", "fetch", "--socket", p.Socket); err == nil {
			return p
		}
	}
	t.Fatalf("no SVID from postern run -c: %v\n%s", err, out)
	return nil
}

func newProcess(t *testing.T) *process {
	t.Helper()
	home, err := os.MkdirTemp("", "pi") //nolint:usetesting // t.TempDir is too long for a unix socket, whose path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	runtime := filepath.Join(home, "run")
	if err := os.Mkdir(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	return &process{home: home, bin: postern(t), env: append(os.Environ(),
		"HOME="+home, "XDG_RUNTIME_DIR="+runtime, "XDG_STATE_HOME="+filepath.Join(home, "state"), "SPIFFE_ENDPOINT_SOCKET=")}
}

// launch starts the command and returns a channel that yields the Workload API that it says it serves, and is closed at its end.
func (p *process) launch(t *testing.T, args ...string) <-chan string {
	t.Helper()
	command := exec.Command(p.bin, args...)
	command.Dir, command.Env = p.home, p.env
	var log bytes.Buffer
	command.Stderr = &log
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Started = time.Now()
	if err := command.Start(); err != nil {
		t.Fatalf("start postern: %v", err)
	}
	said, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(said)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			if _, socket, found := strings.Cut(scan.Text(), "SPIFFE_ENDPOINT_SOCKET="); found {
				select {
				case said <- strings.Trim(socket, `"'`):
				default: // said already
				}
			}
		}
	}()
	t.Cleanup(func() { stop(t, command, ended, &log) })
	return said
}

// stop ends postern as an operator would, and shows its log when the test failed.
func stop(t *testing.T, command *exec.Cmd, ended <-chan struct{}, log *bytes.Buffer) {
	_ = command.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = command.Process.Kill() })
	<-ended
	err := command.Wait()
	if !kill.Stop() {
		t.Errorf("postern run did not end within 20s of SIGTERM")
	} else if err != nil {
		t.Errorf("postern run ended with %v after SIGTERM", err)
	}
	if t.Failed() {
		t.Logf("log of postern run:\n%s", log)
	}
}

// run runs a postern command in the environment of the process and returns what it printed.
func (p *process) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, p.bin, args...)
	command.Env = p.env
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("postern %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// chain is what "postern svid fetch --write" leaves in a folder.
type chain struct {
	SVID, Key, Bundle string // paths
	Authorities       string // what follows the leaf in SVID
}

// fetch has postern write an SVID of its own to files.
func (p *process) fetch(t *testing.T) chain {
	t.Helper()
	dir := t.TempDir()
	p.run(t, "svid", "fetch", "--socket", p.Socket, "--write", dir)
	c := chain{SVID: filepath.Join(dir, "svid.pem"), Key: filepath.Join(dir, "svid.key"), Bundle: filepath.Join(dir, "bundle.pem"),
		Authorities: filepath.Join(dir, "authorities.pem")}
	for _, path := range []string{c.SVID, c.Key, c.Bundle} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("postern svid fetch --write: %v", err)
		}
	}
	svid, err := os.ReadFile(c.SVID)
	if err != nil {
		t.Fatal(err)
	}
	_, authorities := pem.Decode(svid)
	if err := os.WriteFile(c.Authorities, authorities, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// output runs a foreign program and returns what it said, on both streams.
func output(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return string(out), err
}
