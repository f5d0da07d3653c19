package e2e

import (
	"os"
	"strings"
	"testing"
)

func TestDemoShowsEveryStepAndLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", shortDir(t))
	out, code := command(t, "demo", "--once")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	for _, want := range []string{"-> 200", "-> 403, decision ", "peer_no_certificate", "0 failed", "stream cut", "200 again"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demonstration did not say %q", want)
		}
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		t.Errorf("%s was left behind", f.Name())
	}
	t.Log("\n" + out)
}
