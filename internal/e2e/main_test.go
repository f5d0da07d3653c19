package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the postern under test.
var binary string

func TestMain(m *testing.M) {
	if name := os.Getenv("POSTERN_FLOOD"); name != "" {
		os.Exit(runFlood(name))
	}
	code, err := withBinary(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func withBinary(run func() int) (int, error) {
	if binary = os.Getenv("POSTERN_BIN"); binary != "" {
		path, err := filepath.Abs(binary)
		binary = path
		if err != nil {
			return 1, err
		}
		return run(), nil
	}
	dir, err := os.MkdirTemp("", "postern-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "postern")
	build := exec.Command("go", "build", "-o", binary, "github.com/postern-proxy/postern/cmd/postern")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build postern: %w\n%s", err, out)
	}
	return run(), nil
}
