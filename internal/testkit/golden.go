package testkit

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files under testdata with what the tests produced")

// Golden compares got with the file testdata/name of the test's package. With -update it writes the file instead, and the change
// is reviewed as code.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", filepath.FromSlash(name))
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatalf("make the folder of golden file %q: %v", path, err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatalf("write golden file %q: %v", path, err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read golden file %q (go test -update makes it): %v", path, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what the test produced, first in line %d (go test -update rewrites it)\n--- got\n%s\n--- want\n%s",
			path, firstDifference(got, want), got, want)
	}
}

// firstDifference returns the number, from 1, of the first line that is not the same in both.
func firstDifference(a, b []byte) int {
	line := 1
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == '\n' {
			line++
		}
	}
	return line
}
