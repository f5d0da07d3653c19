package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/postern-proxy/postern/internal/admin"
)

// quickStart is "postern run" with no arguments in an empty home.
func quickStart(t *testing.T) (p *process, endpoint string) {
	t.Helper()
	dir := shortDir(t)
	env := []string{"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	p = launch(t, dir, filepath.Join(dir, "postern", "admin.sock"), env, "run")
	return p, "unix://" + filepath.Join(dir, "postern", "workload.sock")
}

func TestWithoutConfigurationAWorkloadGetsAnIdentityAtOnce(t *testing.T) {
	began := time.Now()
	p, endpoint := quickStart(t)
	p.eventually("printed endpoint", func() error {
		if !strings.Contains(p.out.String(), "SPIFFE_ENDPOINT_SOCKET="+endpoint) {
			return fmt.Errorf("printed %q", p.out)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(endpoint)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = source.Close() }()
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first SVID %d ms after the start of the process: %s", time.Since(began).Milliseconds(), svid.ID)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("spiffe://local.internal/uid/%d/exe/", os.Geteuid()); !strings.HasPrefix(svid.ID.String(), want) ||
		!strings.HasSuffix(svid.ID.Path(), strings.ReplaceAll(filepath.Base(self), "_", "__")) {
		t.Errorf("identity %s of executable %s", svid.ID, self)
	}
	if _, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain()); err != nil {
		t.Error(err)
	}
}

// updates follows the Workload API and sends the IDs of every answer.
type updates chan []string

func (u updates) OnX509ContextUpdate(c *workloadapi.X509Context) {
	var ids []string
	for _, s := range c.SVIDs {
		ids = append(ids, s.ID.String())
	}
	u <- ids
}

func (updates) OnX509ContextWatchError(error) {}

func TestAnEntryReachesAWaitingClientAndItsEndToo(t *testing.T) {
	p, endpoint := quickStart(t)
	p.ready()
	seen := make(updates, 1024) // more answers than the test makes: the client must never wait for the test
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = workloadapi.WatchX509Context(ctx, seen, workloadapi.WithAddr(endpoint)) }()
	await := func(what string, ok func([]string) bool) time.Time {
		t.Helper()
		for {
			select {
			case ids := <-seen:
				if ok(ids) {
					return time.Now()
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the client never saw %s", what)
			}
		}
	}
	await("its first identity", func(ids []string) bool { return len(ids) > 0 })

	rounds := envInt(t, "POSTERN_ENTRY_ROUNDS", 20)
	var took []time.Duration
	for i := range rounds {
		id := fmt.Sprintf("spiffe://local.internal/round/%d", i)
		began := time.Now()
		e, err := p.admin.CreateEntry(t.Context(), admin.Entry{SPIFFEID: id, Selectors: []string{fmt.Sprintf("unix:uid:%d", os.Geteuid())}})
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, await(id, func(ids []string) bool { return slices.Contains(ids, id) }).Sub(began))
		if err := p.admin.DeleteEntry(t.Context(), e.ID); err != nil {
			t.Fatal(err)
		}
		await("the end of "+id, func(ids []string) bool { return !slices.Contains(ids, id) })
	}
	slices.Sort(took)
	t.Logf("entry to client over %d rounds: median %s, p99 %s, most %s", rounds, took[rounds/2], took[rounds*99/100], took[rounds-1])
}

func TestStateSurvivesARestart(t *testing.T) {
	dir := shortDir(t)
	env := []string{"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	socket := filepath.Join(dir, "postern", "admin.sock")
	p := launch(t, dir, socket, env, "run")
	p.ready()
	p.must("entry", "create", "--spiffe-id", "spiffe://local.internal/kept", "--selector", "unix:uid:4242")
	bundle := p.must("bundle", "show")
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	p = launch(t, dir, socket, env, "run")
	p.ready()
	if !strings.Contains(p.must("entry", "list"), "spiffe://local.internal/kept") {
		t.Error("the entry is gone")
	}
	if p.must("bundle", "show") != bundle {
		t.Error("there is another root")
	}
}

func TestAStoreThatIsLostIsNotSilentlyReplaced(t *testing.T) {
	dir := shortDir(t)
	env := []string{"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	p := launch(t, dir, filepath.Join(dir, "postern", "admin.sock"), env, "run")
	p.ready()
	p.terminate()
	if err := os.Remove(filepath.Join(dir, "state", "postern", "postern.db")); err != nil {
		t.Fatal(err)
	}
	p = launch(t, dir, filepath.Join(dir, "postern", "admin.sock"), env, "run")
	<-p.exited
	if code := p.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(p.out.String(), "restore it from a backup") {
		t.Errorf("exit code %d, %s", code, p.out)
	}
}
