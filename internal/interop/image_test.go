package interop

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestImageRunsPosternWithoutRoot builds the Dockerfile with buildah, which needs no daemon, and runs postern in it. "make interop"
// has put the binary into the build's context.
func TestImageRunsPosternWithoutRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT CHECKED: only root may build and run the image with chroot isolation")
	}
	need(t, "buildah")
	t.Setenv("BUILDAH_ISOLATION", "chroot")
	state := t.TempDir()
	buildah := func(args ...string) string {
		t.Helper()
		args = append([]string{"--storage-driver", "vfs", "--root", filepath.Join(state, "root"), "--runroot", filepath.Join(state, "run")}, args...)
		// Not output, whose context has ended when the container is removed.
		out, err := exec.Command("buildah", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	context := filepath.Join("..", "..")
	buildah("build", "--quiet", "--format", "docker", "--build-arg", "VERSION=interop", "--build-arg", "COMMIT=none", "-t", "postern:interop", context)
	container := buildah("from", "--quiet", "postern:interop")
	t.Cleanup(func() { buildah("rm", container) })

	if out := buildah("run", container, "--", "/usr/bin/postern", "version"); !strings.Contains(out, "postern") {
		t.Errorf("postern version in the container said %q", out)
	}
	if out := buildah("inspect", "--type", "image", "--format", "{{.Docker.Config.User}} {{.Docker.Config.Healthcheck}}", "postern:interop"); !strings.Contains(out, "65532:65532") ||
		!strings.Contains(out, "healthcheck") {
		t.Errorf("user and health check of the image: %q", out)
	}
	root := buildah("mount", container)
	wantImageFile(t, filepath.Join(root, "var/lib/postern"), 0o700, imageUser)
	wantImageFile(t, filepath.Join(root, "run/postern"), 0o755, imageUser)
	wantImageFile(t, filepath.Join(root, "usr/bin/postern"), 0o755, 0)

	environment := strings.Fields(buildah("inspect", "--type", "image", "--format", "{{range .Docker.Config.Env}}{{.}} {{end}}", "postern:interop"))
	running, log := inImage(t, root, environment, "run"), &bytes.Buffer{}
	running.Stderr = log
	if err := running.Start(); err != nil {
		t.Fatalf("start postern in the image: %v", err)
	}
	var healthy error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if healthy = inImage(t, root, environment, "healthcheck").Run(); healthy == nil {
			break
		}
	}
	if err := errors.Join(healthy, running.Process.Signal(syscall.SIGTERM), running.Wait()); err != nil {
		t.Errorf("run, healthcheck and SIGTERM in the image: %v\n%s", err, log)
	}
}

// imageUser is the uid and gid of the Dockerfile.
const imageUser = 65532

// inImage is a postern command with the image as its file system, its user and its environment.
func inImage(t *testing.T, root string, environment []string, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), "/usr/bin/postern", args...)
	command.Dir, command.Env = "/", environment
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: imageUser, Gid: imageUser}}
	return command
}

func wantImageFile(t *testing.T, path string, mode os.FileMode, owner uint32) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if got := info.Sys().(*syscall.Stat_t).Uid; info.Mode().Perm() != mode || got != owner {
		t.Errorf("%s has mode %v and owner %d, want %v and %d", path, info.Mode().Perm(), got, mode, owner)
	}
}
