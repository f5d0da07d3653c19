package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Everything a peer can grow is bounded (promise 7). While one client attacks, others are served; the attack costs the attacker at
// least as much CPU as it costs us, at most 1 MiB for each of its connections, and the memory comes back.
//
// The attacker is a process of its own (this test's binary, see runFlood), so that its CPU can be told from the server's.
// POSTERN_FLOOD_FOR makes each attack longer.
func TestFloodsCostTheAttackerMoreThanTheServerAndNobodyElse(t *testing.T) {
	length := envDuration(t, "POSTERN_FLOOD_FOR", time.Second)
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) { f.run(t, length) })
	}
}

func (f *flood) run(t *testing.T, length time.Duration) {
	p, port := floodTarget(t)
	load := &load{url: fmt.Sprintf("http://127.0.0.1:%d/", port)}
	warm := load.offer(floodRate)
	time.Sleep(300 * time.Millisecond) // the length of the load is the test's own
	warm()

	before := p.usage()
	stop := load.offer(floodRate)
	time.Sleep(time.Second)
	stop()
	good := p.usage().cpu - before.cpu // of one second of good traffic alone
	before = p.usage()

	stop = load.offer(floodRate)
	began := time.Now()
	peak := p.watchMemory()
	attacker, report := f.attack(t, port, length)
	most := peak()
	stop()
	took := time.Since(began)

	ours := p.usage().cpu - before.cpu - time.Duration(float64(good)*took.Seconds())
	total, failed := load.total.Load(), load.failed.Load()
	t.Logf("%s; CPU: attacker %v, server %v beside %d good requests, %d failed; memory %d KiB, at most %d KiB more",
		report, attacker, ours, total, failed, before.rss>>10, (most-before.rss)>>10)
	if failed*1000 > total {
		t.Errorf("%d of %d good requests failed; the first: %v", failed, total, load.first.Load())
	}
	if !f.answers && ours > attacker+attacker/5+floodSlack {
		t.Errorf("the attack cost %v of CPU, and the attacker %v", ours, attacker)
	}
	each := int64(1 << 20)
	if f.answers {
		each = 4 << 20
	}
	if grown := most - before.rss; grown > int64(f.connections)*each+memorySlack {
		t.Errorf("%d connections grew the memory by %d KiB", f.connections, grown>>10)
	}
	p.eventually("the memory comes back", func() error {
		if now := p.usage().rss; now > before.rss+before.rss/5+memorySlack {
			return fmt.Errorf("%d KiB, %d KiB before", now>>10, before.rss>>10)
		}
		return nil
	})
}

const (
	// floodRate is how many good requests come in a second.
	floodRate = 100
	// floodSlack is what the clocks of a busy machine differ by, and memorySlack what a garbage collector has not collected yet.
	floodSlack  = 300 * time.Millisecond
	memorySlack = 16 << 20
)

// floodTarget is a gateway for HTTP/1.1 and HTTP/2 in front of a service with a large and a small answer.
func floodTarget(t *testing.T) (*process, int) {
	t.Helper()
	large := strings.Repeat("x", 1<<20)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = io.WriteString(w, large)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(app.Close)
	port := ports(t, 1)[0]
	yaml := gateway(port, strings.TrimPrefix(app.URL, "http://"), "/", "access_log: {path: \"off\"}\n")
	return start(t, shortDir(t), "gateway", yaml), port
}

// attack runs the flood in a process of its own and returns what CPU it took and what it says of itself.
func (f *flood) attack(t *testing.T, port int, length time.Duration) (cpu time.Duration, report string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), length+30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "POSTERN_FLOOD="+f.name, "POSTERN_FLOOD_TARGET=127.0.0.1:"+strconv.Itoa(port), "POSTERN_FLOOD_FOR="+length.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the attacker: %v\n%s", err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), strings.TrimSpace(string(out))
}

// usage is what a process has used.
type usage struct {
	cpu time.Duration
	rss int64 // bytes
	fds int
}

// usage reads /proc; the clock there ticks a hundred times a second.
func (p *process) usage() usage {
	p.t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		p.t.Skipf("NOT TESTED: what a process uses is read from /proc: %v", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	open, err4 := os.ReadDir(filepath.Join(proc, "fd"))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		p.t.Fatal(err)
	}
	return usage{cpu: time.Duration(user+system) * 10 * time.Millisecond, rss: pages * int64(os.Getpagesize()), fds: len(open)}
}

// watchMemory returns what ends the watch and says the most memory that was seen.
func (p *process) watchMemory() (most func() int64) {
	done, result := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var seen int64
		for {
			seen = max(seen, p.usage().rss)
			select {
			case <-done:
				result <- seen
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 { close(done); return <-result }
}
