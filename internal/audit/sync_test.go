package audit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// appendOnFailingDisk appends events on one thread and prints which were acknowledged.
func appendOnFailingDisk(dir string) error {
	runtime.LockOSThread() // strace counts calls by thread
	l, err := Open(filepath.Join(dir, "audit"), Options{})
	if err != nil {
		return err
	}
	for i := range 3 {
		seq, err := l.Append(context.Background(), Event{Type: SVIDIssued, Target: fmt.Sprint("t", i)})
		fmt.Printf("t%d %d %t\n", i, seq, err == nil)
	}
	return nil
}

// The second event's sync fails: the event is refused and taken out again, and the third takes its number. When the sync that makes this
// good fails too, nothing more is written.
func TestFailedSyncIsNeverReportedAsDone(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("NOT TESTED: a failing disk needs strace")
	}
	for _, test := range []struct {
		name, when, out string
		kept            []string
	}{
		{"once", "2", "t0 1 true\nt1 0 false\nt2 2 true\n", []string{"t0", "t2"}},
		{"from then on", "2+", "t0 1 true\nt1 0 false\nt2 0 false\n", []string{"t0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := open(t, filepath.Join(dir, "audit"), Options{}).Close(); err != nil {
				t.Fatal(err)
			}
			inject := "inject=fsync:error=EIO:when=" + test.when
			cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", inject, os.Args[0])
			cmd.Env = append(os.Environ(), syncDirEnv+"="+dir)
			out, err := cmd.Output()
			if err != nil && len(out) == 0 {
				t.Skipf("NOT TESTED: strace cannot trace here: %v", err)
			}
			if string(out) != test.out {
				t.Errorf("the child said %q, want %q", out, test.out)
			}
			open(t, filepath.Join(dir, "audit"), Options{})
			var kept []string
			for _, e := range readAll(t, filepath.Join(dir, "audit"), 1) {
				kept = append(kept, e.Target)
			}
			if fmt.Sprint(kept) != fmt.Sprint(test.kept) {
				t.Errorf("the log holds %q, want %q", kept, test.kept)
			}
		})
	}
}
