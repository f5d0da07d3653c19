package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFullDiskRefusesEventsAndLeavesNoHalfLine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a full disk needs a small file system, and only root may mount one")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Skipf("NOT TESTED: a full disk needs a small file system, and mounting one failed: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, filepath.Join(dir, "audit"), Options{MaxSegment: 50_000})
	event := Event{Type: SVIDIssued, Target: strings.Repeat("t", 1500)}
	acked := 0
	var err error
	for {
		if _, err = l.Append(t.Context(), event); err != nil {
			break
		}
		acked++
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("event %d: %v, want ENOSPC", acked+1, err)
	}
	wantKept := func(when string) {
		t.Helper()
		if got := len(readAll(t, filepath.Join(dir, "audit"), 1)); got != acked {
			t.Errorf("%s: %d events, want %d", when, got, acked)
		}
		segments, err := listSegments(filepath.Join(dir, "audit"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(segments[len(segments)-1].path)
		if err != nil || (len(text) > 0 && text[len(text)-1] != '\n') {
			t.Errorf("%s: the last segment ends in half a line, %v", when, err)
		}
	}
	wantKept("on the full disk")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := l.Append(t.Context(), event); err != nil {
			t.Fatalf("with room again: %v", err)
		}
		acked++
	}
	wantKept("with room again")
}
