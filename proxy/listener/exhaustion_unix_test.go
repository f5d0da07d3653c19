//go:build unix

package listener

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this file run the test binary once more, with 256 file descriptors. That process accepts connections and holds them,
// and answers an operator's questions on a socket with a reserve.
const childVariable = "POSTERN_TEST_DESCRIPTORS"

// child is that process, seen from the test.
type child struct {
	data, admin string
}

func startChild(t *testing.T) *child {
	t.Helper()
	command := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "-test.run=^TestChildWithFewDescriptors$", "-test.v")
	command.Env = append(os.Environ(), childVariable+"=1")
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends it
		if err := command.Wait(); err != nil {
			t.Errorf("the process ended with %v", err)
		}
	})
	c := &child{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "addresses %s %s", &c.data, &c.admin); err == nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return c
		}
	}
	t.Fatal("the process did not say where it listens")
	return nil
}

// ask puts one question to the operator's socket, on a connection of its own.
func (c *child) ask(t *testing.T, question string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.admin, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = fmt.Fprintln(conn, question)
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) == 0 {
		t.Fatalf("the operator's question %q was not answered: %q, %v", question, answer, err)
	}
	return string(answer)
}

// connect opens a connection and says whether it was served.
func (c *child) connect(t *testing.T) (conn net.Conn, served bool) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.data, 5*time.Second)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = io.ReadFull(conn, make([]byte, 1))
	if err == nil {
		return conn, true
	}
	_ = conn.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("a connection hangs")
	}
	return nil, false
}

func (c *child) wantServedWithin(t *testing.T, limit time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		conn, served := c.connect(t)
		if served {
			_ = conn.Close()
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("not served %v after descriptors are free again", limit)
		}
	}
}

func TestFloodOfConnectionsLeavesDescriptorsForTheRest(t *testing.T) {
	c := startChild(t)
	var mu sync.Mutex
	var open []net.Conn
	var refused int
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for range 60 {
				conn, served := c.connect(t)
				mu.Lock()
				if served {
					open = append(open, conn)
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	// 256, of which the data path gets 192, of which accepted connections get three quarters.
	if len(open) != 144 || refused != 960-144 {
		t.Errorf("%d served and %d refused of 960", len(open), refused)
	}
	var failed, logged int
	var cpu time.Duration
	answer := c.ask(t, "state")
	if _, err := fmt.Sscanf(answer, "failed %d logged %d cpu %d", &failed, &logged, &cpu); err != nil || failed != 0 {
		t.Errorf("%q, %v: want no accept to have failed", answer, err)
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	c.wantServedWithin(t, time.Second)
}

func TestExhaustedProcessShedsRecoversAndAnswersItsOperator(t *testing.T) {
	c := startChild(t)
	c.ask(t, "exhaust")
	var before, after struct {
		failed, logged int
		cpu            time.Duration
	}
	const state = "failed %d logged %d cpu %d"
	_, _ = fmt.Sscanf(c.ask(t, "state"), state, &before.failed, &before.logged, &before.cpu)
	began := time.Now()
	var shed, served int
	for time.Since(began) < 2*time.Second {
		if conn, was := c.connect(t); was {
			defer func() { _ = conn.Close() }()
			served++
		} else {
			shed++
		}
	}
	// What an operator's connection has given back may be taken by one before the reserve has it again.
	if shed < 2 || served > 4 {
		t.Errorf("%d shed, %d served without a descriptor", shed, served)
	}
	for range 10 {
		c.ask(t, "state")
	}
	_, _ = fmt.Sscanf(c.ask(t, "state"), state, &after.failed, &after.logged, &after.cpu)
	spent := time.Since(began)
	if after.failed == before.failed {
		t.Error("no accept failed: nothing was tested")
	}
	if lines := after.logged - before.logged; lines > int(spent/time.Second)+1 {
		t.Errorf("%d lines were logged in %v", lines, spent)
	}
	if cpu := after.cpu - before.cpu; cpu > spent/10 {
		t.Errorf("%v of CPU in %v", cpu, spent)
	}
	c.ask(t, "free")
	c.wantServedWithin(t, time.Second)
}

// TestChildWithFewDescriptors is no test: it is the process that the others start, and otherwise nothing.
func TestChildWithFewDescriptors(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: 256}); err != nil {
		t.Fatal(err)
	}
	var logged, failed atomic.Int32
	s, err := NewSet(slog.New(slog.NewTextHandler(counter{&logged}, nil))).Acquire(t.Context(), loopback())
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin = WithReserve(admin, 4)
	ctx, end := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		_ = s.Serve(ctx, func(c *Conn) {
			running.Go(func() { _, _ = io.WriteString(c, "x"); _, _ = io.Copy(io.Discard, c); _ = c.Close() })
		}, Events{Failed: func(error) { failed.Add(1) }})
	})
	running.Go(func() {
		var hogs []*os.File
		for {
			conn, err := admin.Accept()
			if err != nil {
				return
			}
			question, _ := bufio.NewReader(conn).ReadString('\n')
			if strings.TrimSpace(question) == "free" {
				for _, f := range hogs {
					_ = f.Close()
				}
			}
			_, _ = fmt.Fprintf(conn, "failed %d logged %d cpu %d", failed.Load(), logged.Load(), cpuTime())
			_ = conn.Close()
			for strings.TrimSpace(question) == "exhaust" {
				f, err := os.Open(os.DevNull)
				if err != nil {
					break
				}
				hogs = append(hogs, f)
			}
		}
	})
	fmt.Printf("addresses %s %s\n", s.Bound(), admin.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	end()
	_ = admin.Close()
	running.Wait()
}

type counter struct{ n *atomic.Int32 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(1); return len(p), nil }

func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
