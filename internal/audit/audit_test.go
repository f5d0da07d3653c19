package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions() Options {
	return Options{Clock: func() time.Time { return testTime }, MaxSegment: 1000}
}

func open(t *testing.T, dir string, opts Options) *Log {
	t.Helper()
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func appendEvents(t *testing.T, l *Log, n int) {
	t.Helper()
	for range n {
		if _, err := l.Append(t.Context(), Event{Type: EntryCreated, Actor: "uid:0", Target: "e1"}); err != nil {
			t.Fatal(err)
		}
	}
}

func readAll(t *testing.T, dir string, from uint64) []Event {
	t.Helper()
	var events []Event
	for e, err := range Read(dir, from) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// written makes a log of n events in several segments, and returns its folder and the segments' paths.
func written(t *testing.T, n int) (string, []string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, dir, testOptions())
	appendEvents(t, l, n)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, paths
}

func TestAppendedEventIsReadBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, testOptions())
	in := Event{Type: SVIDIssued, Actor: "postern", Target: "spiffe://example.org/a", Detail: map[string]string{"serial": "0a"}}
	if seq, err := l.Append(t.Context(), in); err != nil || seq != 1 {
		t.Fatalf("append = %d, %v; want 1", seq, err)
	}
	appendEvents(t, l, 1)
	got := readAll(t, dir, 1)
	if len(got) != 2 {
		t.Fatalf("%d events, want 2", len(got))
	}
	first := got[0]
	if first.Seq != 1 || !first.Time.Equal(testTime) || first.Type != in.Type || first.Actor != in.Actor ||
		first.Target != in.Target || first.Detail["serial"] != "0a" || first.Prev != "" {
		t.Errorf("first event = %+v", first)
	}
	if len(got[1].Prev) != 64 {
		t.Errorf("second event has prev %q, want a SHA-256", got[1].Prev)
	}
}

func TestSegmentsFormOneLogAcrossReopening(t *testing.T) {
	dir, paths := written(t, 30)
	if len(paths) < 4 {
		t.Fatalf("%d segments, want several", len(paths))
	}
	l := open(t, dir, testOptions())
	if seq, err := l.Append(t.Context(), Event{Type: Started}); err != nil || seq != 31 {
		t.Fatalf("append after reopening = %d, %v; want 31", seq, err)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
	for _, from := range []uint64{0, 1, 17, 31, 32} {
		events := readAll(t, dir, from)
		if want := 31 - int(max(from, 1)) + 1; len(events) != want {
			t.Errorf("from %d: %d events, want %d", from, len(events), want)
		} else if want > 0 && events[0].Seq != max(from, 1) {
			t.Errorf("from %d: the first is %d", from, events[0].Seq)
		}
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", path, info.Mode(), err)
		}
	}
}

func TestConcurrentAppendsGetTheirOwnNumbers(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{MaxSegment: 4000})
	const callers, each = 16, 10
	var wg sync.WaitGroup
	seqs := make(chan string, callers*each)
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				target := fmt.Sprintf("%d/%d", c, i)
				seq, err := l.Append(t.Context(), Event{Type: SVIDIssued, Target: target})
				if err != nil {
					t.Error(err)
				}
				seqs <- fmt.Sprint(seq, " ", target)
			}
		})
	}
	wg.Wait()
	close(seqs)
	acked := map[string]bool{}
	for s := range seqs {
		acked[s] = true
	}
	events := readAll(t, dir, 1)
	for _, e := range events {
		if !acked[fmt.Sprint(e.Seq, " ", e.Target)] {
			t.Errorf("event %d of %q was acknowledged under another number", e.Seq, e.Target)
		}
	}
	if len(events) != callers*each {
		t.Errorf("%d events, want %d", len(events), callers*each)
	}
}

func TestUnfinishedLastLineIsCutOff(t *testing.T) {
	for name, tail := range map[string]string{"half a line": `{"seq":3,"ti`, "zeros": "\x00\x00\x00", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			dir, paths := written(t, 2)
			appendTo(t, paths[0], tail)
			if err := Verify(dir); err != nil {
				t.Errorf("verify before opening: %v", err)
			}
			l := open(t, dir, testOptions())
			appendEvents(t, l, 1)
			if got := readAll(t, dir, 1); len(got) != 3 || got[2].Seq != 3 {
				t.Errorf("events: %+v, want 3", got)
			}
		})
	}
}

func TestUnfinishedFirstLineOfASegmentIsCutOff(t *testing.T) {
	dir, paths := written(t, 30)
	last := paths[len(paths)-1]
	if err := os.Truncate(last, 10); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); err != nil {
		t.Errorf("verify: %v", err)
	}
	kept := len(readAll(t, dir, 1))
	if tail := readAll(t, dir, 30); len(tail) != 0 {
		t.Errorf("reading from a torn segment yields %+v", tail)
	}
	l := open(t, dir, testOptions())
	if seq, err := l.Append(t.Context(), Event{Type: Started}); err != nil || seq != uint64(kept)+1 {
		t.Errorf("append = %d, %v; want %d", seq, err, kept+1)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsFoundWithFileAndLine(t *testing.T) {
	lines := func(f func([]string) []string) func(string) string {
		return func(text string) string { return strings.Join(f(strings.SplitAfter(text, "\n")), "") }
	}
	tests := []struct {
		name   string
		change func(string) string
		line   int
	}{
		{"a word changed", func(s string) string { return strings.Replace(s, "uid:0", "uid:1", 2) }, 2},
		{"a line taken out", lines(func(l []string) []string { return slices.Delete(l, 1, 2) }), 2},
		{"a line put in twice", lines(func(l []string) []string { return slices.Insert(l, 1, l[0]) }), 2},
		{"two lines exchanged", lines(func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }), 2},
		{"a field added", func(s string) string { return strings.Replace(s, `"seq":`, `"x":1,"seq":`, 1) }, 1},
		{"an empty line", lines(func(l []string) []string { return slices.Insert(l, 2, "\n") }), 3},
		{"the line feed gone", func(s string) string { return s[:len(s)-1] }, 0},
		{"the end cut off", lines(func(l []string) []string { return l[:len(l)-2] }), 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, paths := written(t, 16)
			victim := paths[len(paths)-2] // one that Open looks at too
			text, err := os.ReadFile(victim)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(victim, []byte(test.change(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			want := filepath.Base(victim)
			if test.line > 0 {
				want = fmt.Sprintf("%s:%d:", want, test.line)
			} else {
				want = ".jsonl" // the last line of this file, or the next file
			}
			verifyErr := Verify(dir)
			l, openErr := Open(dir, testOptions())
			if openErr == nil {
				defer func() { _ = l.Close() }()
			}
			for call, err := range map[string]error{"verify": verifyErr, "open": openErr} {
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v; want damage at %q", call, err, want)
				}
			}
		})
	}
}

func TestMissingSegmentIsFound(t *testing.T) {
	for _, i := range []int{0, 1} {
		dir, paths := written(t, 30)
		if err := os.Remove(paths[i]); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("without segment %d: %v, want ErrDamaged", i, err)
		}
	}
}

func TestChainReachesAcrossSegments(t *testing.T) {
	dir, paths := written(t, 30)
	// An attacker who makes a whole early segment anew, consistent in itself.
	if err := os.RemoveAll(paths[0]); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	l := open(t, other, Options{Clock: func() time.Time { return testTime.Add(time.Hour) }, MaxSegment: 1000})
	appendEvents(t, l, 30)
	forged, err := os.ReadFile(filepath.Join(other, filepath.Base(paths[0])))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths[0], forged, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(paths[1])+":1:") {
		t.Errorf("verify: %v, want damage at the second segment's first line", err)
	}
}

func TestTextOfAnEventCannotSteerATerminalOrBreakALine(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	nasty := "a\nb\x1b[2J\x7f\u0085\u202e\U0001f600<&>\"\\é"
	if _, err := l.Append(t.Context(), Event{Type: TokenUsed, Actor: nasty, Target: "bad \xff utf-8", Detail: map[string]string{"k": nasty}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range text {
		if (c < ' ' || c > '~') && i != len(text)-1 {
			t.Errorf("byte %d of the line is %#x", i, c)
		}
	}
	if e := readAll(t, dir, 1)[0]; e.Actor != nasty || e.Detail["k"] != nasty || e.Target != "bad \ufffd utf-8" {
		t.Errorf("read back: %+v", e)
	}
}

func TestEventsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	long := strings.Repeat("é", 5000)
	detail := map[string]string{}
	for i := range maxDetails {
		detail[fmt.Sprintf("k%d", i)] = strings.Repeat("\x01", 100_000)
	}
	if _, err := l.Append(t.Context(), Event{Type: SVIDIssued, Actor: long, Target: long, Detail: detail}); err != nil {
		t.Fatal(err)
	}
	e := readAll(t, dir, 1)[0]
	if want := strings.Repeat("é", 1024) + "[+7952 bytes]"; e.Actor != want {
		t.Errorf("long actor became %d bytes ending in %q", len(e.Actor), e.Actor[len(e.Actor)-20:])
	}
	if info, err := os.Stat(filepath.Join(dir, segmentName(1))); err != nil || info.Size() > maxLine {
		t.Errorf("largest line has %d bytes, %v; at most %d can be read", info.Size(), err, maxLine)
	}
	detail["one_more"] = ""
	for name, e := range map[string]Event{
		"too many details": {Type: SVIDIssued, Detail: detail},
		"no type":          {},
		"type":             {Type: "Some Thing"},
		"long type":        {Type: strings.Repeat("a", 65)},
		"name of a detail": {Type: SVIDIssued, Detail: map[string]string{"A-b": ""}},
	} {
		if seq, err := l.Append(t.Context(), e); err == nil {
			t.Errorf("%s: accepted as %d", name, seq)
		}
	}
	appendEvents(t, l, 1)
	if got := readAll(t, dir, 1); len(got) != 2 {
		t.Errorf("%d events, want 2", len(got))
	}
}

func TestSecondOpenSaysThatTheLogIsInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
}

func TestEndedContextAndClosedLogRefuse(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, Event{Type: Started}); !errors.Is(err, context.Canceled) {
		t.Errorf("append = %v, want context.Canceled", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), Event{Type: Started}); !errors.Is(err, ErrClosed) {
		t.Errorf("append = %v, want ErrClosed", err)
	}
	if got := readAll(t, dir, 1); len(got) != 0 {
		t.Errorf("the log holds %+v", got)
	}
}

func TestVerifyMayRunBesideAWriter(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, testOptions())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 60 {
			if _, err := l.Append(t.Context(), Event{Type: Started}); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if err := Verify(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			b.ResetTimer()
			for w := range writers {
				wg.Go(func() {
					for range b.N/writers + min(1, max(0, b.N%writers-w)) {
						if _, err := l.Append(b.Context(), Event{Type: SVIDIssued, Actor: "postern"}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-03-01T12:00:00Z","type":"started","actor":"","prev":""}`))
	f.Add([]byte(`{"seq":1}{"seq":2}`))
	f.Add([]byte(`{"detail":{"a":"b"},"prev":"00"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := decode(line)
		if err != nil {
			return
		}
		again, err := e.encode()
		if err != nil {
			return // a time that JSON cannot write
		}
		if back, err := decode(again); err != nil || back.Seq != e.Seq || back.Prev != e.Prev {
			t.Errorf("%q became %q: %v", line, again, err)
		}
	})
}
