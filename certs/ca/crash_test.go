package ca

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
)

// The crash test kills a process that issues, revokes and rotates as fast as it can, and looks whether everything that it had
// acknowledged on its standard output is there when the data directory is opened again. POSTERN_CRASH_ROUNDS sets how often.
const (
	crashDir    = "POSTERN_CA_CRASH_DIR" // set in the process that is killed
	crashRounds = "POSTERN_CRASH_ROUNDS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := work(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// work runs until it is killed. Each line it writes is an acknowledgement.
func work(dir string, out io.Writer) error {
	ctx := context.Background() // this is the main function of a process of its own
	p := &place{dir: dir}
	var err error
	if p.store, err = store.OpenBolt(filepath.Join(dir, "postern.db"), store.BoltOptions{}); err != nil {
		return err
	}
	if p.keys, err = keys.Open(ctx, p.store, keys.LocalFile(filepath.Join(dir, "sealing.key"))); err != nil {
		return err
	}
	if p.events, err = audit.Open(filepath.Join(dir, "audit"), audit.Options{}); err != nil {
		return err
	}
	a, err := Open(ctx, p.options())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(out, words...)
	}
	say("root", a.Authorities()[0].ID)
	failed := make(chan error)
	for worker := range 4 {
		go func() { failed <- workOnce(ctx, a, worker, say) }()
	}
	go func() {
		for {
			err := a.Rotate(ctx, Signing, "uid:0")
			if errors.Is(err, ErrTooMany) { // in a long test
				return
			}
			if err != nil {
				failed <- err
				return
			}
			say("rotated")
		}
	}()
	return <-failed
}

func workOnce(ctx context.Context, a *Authority, worker int, say func(...any)) error {
	key, err := keys.Generate(keys.ECP256)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		id := fmt.Sprintf("spiffe://example.org/%d/%d", worker, rand.Int64())
		req := Request{ID: spiffeid.RequireFromString(id), PublicKey: key.Public()}
		issued, err := a.IssueX509(ctx, req)
		if err != nil {
			return err
		}
		say("issued", issued.Serial, id)
		if n%4 != 0 {
			continue
		}
		subject := revocation.Subject{Kind: revocation.Serial, Value: issued.Serial}
		if n%8 == 0 {
			subject = revocation.Subject{Kind: revocation.SPIFFEID, Value: id}
		}
		r, err := a.Revoke(ctx, revocation.Revocation{Kind: subject.Kind, Value: subject.Value}, "uid:0")
		if err != nil {
			return err
		}
		say("revoked", r.ID, subject.Value)
	}
}

func TestNothingAcknowledgedIsLostWhenTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	rounds := 20
	if text := os.Getenv(crashRounds); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	known := acknowledged{issued: map[string]string{}, revoked: map[string]string{}}
	for round := range rounds {
		fresh := killed(t, dir, 8+rand.IntN(40))
		known.add(t, fresh)
		known.check(t, dir, fresh)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	known.check(t, dir, known)
	t.Logf("%d rounds: %d issuances, %d revocations and %d rotations were acknowledged", rounds, len(known.issued), len(known.revoked), known.rotated)
}

// acknowledged is what killed processes said they had done.
type acknowledged struct {
	root    string
	issued  map[string]string // SPIFFE IDs by serial
	revoked map[string]string // values by id
	rotated int
}

// killed lets a process work until it has said so many lines, kills it, and returns all that it said.
func killed(t *testing.T, dir string, lines int) acknowledged {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := acknowledged{issued: map[string]string{}, revoked: map[string]string{}}
	scanner := bufio.NewScanner(out)
	for n := 0; scanner.Scan(); n++ {
		if n == lines {
			if err := cmd.Process.Kill(); err != nil { // SIGKILL
				t.Fatal(err)
			}
		}
		switch words := strings.Fields(scanner.Text()); words[0] {
		case "root":
			said.root = words[1]
		case "issued":
			if _, twice := said.issued[words[1]]; twice {
				t.Errorf("serial %q was given twice", words[1])
			}
			said.issued[words[1]] = words[2]
		case "revoked":
			said.revoked[words[1]] = words[2]
		case "rotated":
			said.rotated++
		}
	}
	if exit, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok || exit.Exited() {
		t.Fatalf("the process was not killed: %s", complaints.String())
	}
	return said
}

func (k *acknowledged) add(t *testing.T, fresh acknowledged) {
	t.Helper()
	if k.root == "" {
		k.root = fresh.root
	}
	if fresh.root != k.root {
		t.Errorf("root was %q and is %q: a silent new authority", k.root, fresh.root)
	}
	for serial, id := range fresh.issued {
		if _, twice := k.issued[serial]; twice {
			t.Errorf("serial %q was given twice", serial)
		}
		k.issued[serial] = id
	}
	for id, value := range fresh.revoked {
		k.revoked[id] = value
	}
	k.rotated += fresh.rotated
}

// check opens the data directory and looks for what was acknowledged.
func (k *acknowledged) check(t *testing.T, dir string, want acknowledged) {
	t.Helper()
	p := &place{dir: dir}
	p.open(t)
	defer p.close(t)
	a := p.authority(t, nil)
	if got := a.Authorities()[0].ID; got != k.root {
		t.Errorf("root was %q and is %q", k.root, got)
	}
	for serial, id := range want.issued {
		if c, err := a.Credential(t.Context(), serial); err != nil || c.SPIFFEID != id {
			t.Errorf("issuance of %q with serial %q is lost: %+v, %v", id, serial, c, err)
		}
	}
	all, err := a.Revocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, r := range all {
		have[r.ID] = r.Value
	}
	for id, value := range want.revoked {
		if have[id] != value {
			t.Errorf("revocation %q of %q is lost", id, value)
		}
	}
	events := strings.Join(p.eventLines(t, audit.SVIDIssued), "") + strings.Join(p.eventLines(t, audit.RevocationAdded), "")
	for serial := range want.issued {
		if !strings.Contains(events, serial) {
			t.Errorf("event of the issuance with serial %q is lost", serial)
		}
	}
	for id := range want.revoked {
		if !strings.Contains(events, id) {
			t.Errorf("event of revocation %q is lost", id)
		}
	}
	if err := verify(issue(t, a, request(t, "/after")).Chain, a.Bundle(), time.Now(), nil); err != nil {
		t.Errorf("the key is damaged: %v", err)
	}
	if err := audit.Verify(filepath.Join(dir, "audit")); err != nil {
		t.Error(err)
	}
}
