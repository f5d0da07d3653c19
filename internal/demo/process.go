package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
)

// process is one running postern.
type process struct {
	name   string
	cmd    *exec.Cmd
	output *tail
	admin  *admin.Client
	done   chan struct{} // closed when it has ended
	err    error         // of Wait; read after done
}

// start runs "postern run -c <name>.yaml" in dir and waits until it is ready.
func start(ctx context.Context, binary, dir, name string) (*process, error) {
	p := &process{name: name, output: &tail{}, done: make(chan struct{}), admin: admin.NewClient(filepath.Join(dir, name+".sock"))}
	p.cmd = exec.Command(binary, "run", "-c", filepath.Join(dir, name+".yaml")) //nolint:gosec,noctx // our own binary; stop ends it
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = childAttributes()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, p.ready(ctx)
}

// ready waits until the process says that it is.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		st, err := p.admin.Status(ctx)
		switch {
		case err != nil:
			last = err
		case st.Ready:
			return nil
		default:
			last = fmt.Errorf("it waits for %v", st.NotReady)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.output)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, last, p.output)
		case <-tick.C:
		}
	}
}

// stop ends the process: first by a signal, then by force.
func (p *process) stop() {
	p.admin.Close()
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tail keeps the last output of a process, for when it fails.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - tailSize; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
