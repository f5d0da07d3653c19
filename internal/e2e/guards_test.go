package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
)

func TestTheAuthorityCannotBeMadeToCutItselfOff(t *testing.T) {
	p, _ := quickStart(t)
	p.ready()
	if out, code := p.postern("svid", "revoke", "--spiffe-id", "spiffe://local.internal/authority", "--reason", "test"); code != 2 || !strings.Contains(out, "ca rotate signing") {
		t.Errorf("exit code %d, %s", code, out)
	}
}

func TestAnEntryThatWouldNeverBeSignedIsRefused(t *testing.T) {
	p, _ := quickStart(t)
	p.ready()
	for _, args := range [][]string{
		{"--spiffe-id", "spiffe://local.internal/long", "--ttl", "48h"},
		{"--spiffe-id", "spiffe://local.internal/node/thief"},
		{"--spiffe-id", "spiffe://local.internal/authority"},
	} {
		if out, code := p.postern(append([]string{"entry", "create", "--selector", "unix:uid:1"}, args...)...); code != 2 {
			t.Errorf("%v: exit code %d, %s", args, code, out)
		}
	}
}

func TestTheAdminSocketReplacesNoOtherKindOfFile(t *testing.T) {
	dir := shortDir(t)
	precious := filepath.Join(dir, "gateway.sock")
	write(t, precious, "precious")
	write(t, filepath.Join(dir, "gateway.yaml"), gateway(ports(t, 1)[0], "127.0.0.1:1", "/", ""))
	p := launch(t, dir, precious, nil, "run", "-c", "gateway.yaml")
	select {
	case <-p.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("the process runs, with a socket in the place of the file")
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q, %v", data, err)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
}

// An edit of what is declared beside an entry's identity must not take its SVID away.
func TestAnEditedDeclarationKeepsTheEntry(t *testing.T) {
	dir, port := shortDir(t), ports(t, 1)[0]
	declared := func(purpose string) string {
		return gateway(port, "127.0.0.1:1", "/", fmt.Sprintf("entries: [{spiffe_id: \"spiffe://example.org/job\", selectors: [\"unix:uid:4242\"], purpose: %s}]\n", purpose))
	}
	p := start(t, dir, "gateway", declared("before"))
	find := func() admin.Entry {
		entries, err := p.admin.Entries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.SPIFFEID == "spiffe://example.org/job" {
				return e
			}
		}
		t.Fatal("the declared entry is not there")
		return admin.Entry{}
	}
	first := find()
	write(t, filepath.Join(dir, "gateway.yaml"), declared("after"))
	p.must("reload")
	if now := find(); now.ID != first.ID || now.Purpose != "after" {
		t.Errorf("entry %s became %s, purpose %q", first.ID, now.ID, now.Purpose)
	}
}
