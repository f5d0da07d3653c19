package audit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// crashDirEnv tells the test binary to be the process that is killed, syncDirEnv the one whose disk fails. crashRoundsEnv is the number of rounds.
const (
	crashDirEnv    = "POSTERN_TEST_AUDIT_CRASH_DIR"
	syncDirEnv     = "POSTERN_TEST_AUDIT_SYNC_DIR"
	crashRoundsEnv = "POSTERN_CRASH_ROUNDS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := appendUntilKilled(dir); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1)
	}
	if dir := os.Getenv(syncDirEnv); dir != "" {
		if err := appendOnFailingDisk(dir); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// appendUntilKilled appends without end and prints the number and the target of each acknowledged event.
func appendUntilKilled(dir string) error {
	l, err := Open(dir, Options{MaxSegment: 20_000})
	if err != nil {
		return err
	}
	fmt.Println("open")
	ctx := context.Background()
	var (
		wg     sync.WaitGroup
		print  sync.Mutex
		failed error
	)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				target := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				seq, err := l.Append(ctx, Event{Type: SVIDIssued, Target: target})
				print.Lock()
				if err != nil {
					failed = err
					print.Unlock()
					return
				}
				fmt.Println("ack", seq, target)
				print.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

func TestAcknowledgedEventsSurviveKill(t *testing.T) {
	rounds := 20
	if s := os.Getenv(crashRoundsEnv); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	acked := map[uint64]string{}
	for range rounds {
		runAndKill(t, dir, acked)
		l, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("open after kill: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		found := map[uint64]string{}
		for _, e := range readAll(t, dir, 1) {
			found[e.Seq] = e.Target
		}
		for seq, target := range acked {
			if found[seq] != target {
				t.Fatalf("event %d of %q was acknowledged; the log has %q", seq, target, found[seq])
			}
		}
	}
	if len(acked) == 0 {
		t.Fatal("no event was acknowledged in any round")
	}
	t.Logf("%d acknowledged events in %d rounds, none lost", len(acked), rounds)
}

func runAndKill(t *testing.T, dir string, acked map[uint64]string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if first, err := lines.ReadString('\n'); first != "open\n" {
		_ = cmd.Wait()
		t.Fatalf("child said %q, %v", first, err)
	}
	kill := time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			_ = cmd.Wait() // killed, as it was meant
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var (
			seq    uint64
			target string
		)
		if _, err := fmt.Sscanf(line, "ack %d %s\n", &seq, &target); err != nil {
			t.Fatalf("child said %q", line)
		}
		acked[seq] = target
	}
}
