package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/admin"
)

// acknowledged is what the authority said it had done; it must still be so after any crash.
type acknowledged struct {
	mu          sync.Mutex
	entries     map[string]string // id to SPIFFE ID
	deleted     map[string]bool
	revocations map[string]bool
	serials     map[string]string // of SVIDs that a workload was handed, to SPIFFE ID
}

// "kill -9: every acknowledged issuance record, revocation and policy is still there" (promise 6).
func TestNothingAcknowledgedIsLostWhenTheAuthorityIsKilled(t *testing.T) {
	dir := shortDir(t)
	env := []string{"XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	socket := filepath.Join(dir, "postern", "admin.sock")
	ack := &acknowledged{entries: map[string]string{}, deleted: map[string]bool{}, revocations: map[string]bool{}, serials: map[string]string{}}
	rounds := envInt(t, "POSTERN_CRASH_ROUNDS", 20)
	var roots string
	for round := range rounds {
		p := launch(t, dir, socket, env, "run", "--log-level", "error")
		p.ready()
		ack.check(t, p)
		if show := p.must("bundle", "show"); roots != "" && show != roots {
			t.Fatalf("round %d: there is another root", round)
		} else {
			roots = show
		}
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		clients.Go(func() { ack.entriesUntil(ctx, p.admin, round) })
		clients.Go(func() { ack.revocationsUntil(ctx, p.admin, round) })
		clients.Go(func() { ack.svidsUntil(ctx, "unix://"+filepath.Join(dir, "postern", "workload.sock")) })
		time.Sleep(time.Duration(30+rand.IntN(170)) * time.Millisecond) // a random moment is the point
		p.kill()
		cancel()
		clients.Wait()
	}
	p := launch(t, dir, socket, env, "run", "--log-level", "error")
	p.ready()
	ack.check(t, p)
	t.Logf("%d kills: %d entries, %d revocations and %d SVIDs acknowledged, none lost", rounds, len(ack.entries), len(ack.revocations), len(ack.serials))
}

// entriesUntil creates and deletes entries until the authority is gone.
func (a *acknowledged) entriesUntil(ctx context.Context, client *admin.Client, round int) {
	for i := 0; ; i++ {
		id := fmt.Sprintf("spiffe://local.internal/crash/%d/%d", round, i)
		e, err := client.CreateEntry(ctx, admin.Entry{SPIFFEID: id, Selectors: []string{fmt.Sprintf("unix:uid:%d", os.Geteuid())}})
		if err != nil {
			return
		}
		a.mu.Lock()
		a.entries[e.ID] = id
		a.mu.Unlock()
		if i%3 == 0 {
			continue
		}
		if client.DeleteEntry(ctx, e.ID) != nil {
			a.mu.Lock()
			delete(a.entries, e.ID) // whether it was deleted is not known
			a.mu.Unlock()
			return
		}
		a.mu.Lock()
		delete(a.entries, e.ID)
		a.deleted[e.ID] = true
		a.mu.Unlock()
	}
}

func (a *acknowledged) revocationsUntil(ctx context.Context, client *admin.Client, round int) {
	for i := 0; ; i++ {
		r, err := client.Revoke(ctx, admin.Revocation{Kind: revocation.SPIFFEID, Value: fmt.Sprintf("spiffe://local.internal/revoked/%d/%d", round, i), Reason: "crash test"})
		if err != nil {
			return
		}
		a.mu.Lock()
		a.revocations[r.ID] = true
		a.mu.Unlock()
	}
}

// svidsUntil is a workload: every certificate that it holds must be on record.
func (a *acknowledged) svidsUntil(ctx context.Context, endpoint string) {
	for {
		found, err := workloadapi.FetchX509SVIDs(ctx, workloadapi.WithAddr(endpoint))
		if err != nil {
			return
		}
		a.mu.Lock()
		for _, s := range found {
			a.serials[revocation.SerialString(s.Certificates[0].SerialNumber)] = s.ID.String()
		}
		a.mu.Unlock()
	}
}

func (a *acknowledged) check(t *testing.T, p *process) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	entries, err := p.admin.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, e := range entries {
		have[e.ID] = e.SPIFFEID
		if a.deleted[e.ID] {
			t.Fatalf("deleted entry %s is back", e.ID)
		}
	}
	for id, want := range a.entries {
		if have[id] != want {
			t.Fatalf("entry %s of %s is lost", id, want)
		}
	}
	revocations, err := p.admin.Revocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range revocations {
		known[r.ID] = true
	}
	for id := range a.revocations {
		if !known[id] {
			t.Fatalf("revocation %s is lost", id)
		}
	}
	issued, err := p.admin.Credentials(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]string{}
	for _, c := range issued {
		serials[c.Serial] = c.SPIFFEID
	}
	for serial, want := range a.serials {
		if serials[serial] != want {
			t.Fatalf("SVID %s of %s is not on record", serial, want)
		}
	}
	if events := filepath.Join(p.cmd.Dir, "state", "postern", "events"); len(a.entries) > 0 {
		if files, err := os.ReadDir(events); err != nil || len(files) == 0 || strings.HasPrefix(files[0].Name(), ".") {
			t.Fatalf("event log: %v %v", files, err)
		}
	}
}
