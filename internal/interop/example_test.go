package interop

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The example as a user runs it: the script, curl, and a service that postern knows nothing of.
func TestTheSidecarExampleRunsAsItsREADMESays(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "../../examples/sidecar/run.sh", "check")
	cmd.Env = append(os.Environ(), "POSTERN="+postern(t))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-> 200") || !strings.Contains(string(out), "-> 403") {
		t.Errorf("%v\n%s", err, out)
	}
}
