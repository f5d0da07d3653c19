package ca

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/testkit"
)

var domain = spiffeid.RequireTrustDomainFromString("example.org")

// place is a data directory with everything under an authority, which can be closed and opened again.
type place struct {
	dir    string
	store  *store.Bolt
	keys   *keys.Manager
	events *audit.Log
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{dir: t.TempDir()}
	p.open(t)
	t.Cleanup(func() { p.close(t) })
	return p
}

func (p *place) open(t testing.TB) {
	t.Helper()
	var err error
	if p.store, err = store.OpenBolt(filepath.Join(p.dir, "postern.db"), store.BoltOptions{}); err != nil {
		t.Fatal(err)
	}
	if p.keys, err = keys.Open(t.Context(), p.store, keys.LocalFile(filepath.Join(p.dir, "sealing.key"))); err != nil {
		t.Fatal(err)
	}
	if p.events, err = audit.Open(filepath.Join(p.dir, "audit"), audit.Options{}); err != nil {
		t.Fatal(err)
	}
}

func (p *place) close(t testing.TB) {
	t.Helper()
	if p.store == nil {
		return
	}
	if err := p.store.Close(); err != nil {
		t.Error(err)
	}
	if err := p.events.Close(); err != nil {
		t.Error(err)
	}
	p.store, p.keys, p.events = nil, nil, nil
}

func (p *place) reopen(t testing.TB) {
	t.Helper()
	p.close(t)
	p.open(t)
}

func (p *place) options() Options {
	return Options{Store: p.store, Keys: p.keys, TrustDomain: domain, Events: p.events}
}

// authority opens the place's authority; change may be nil.
func (p *place) authority(t testing.TB, change func(*Options)) *Authority {
	t.Helper()
	opts := p.options()
	if change != nil {
		change(&opts)
	}
	a, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return a
}

// eventLines returns the lines of the audit log that name the type.
func (p *place) eventLines(t testing.TB, eventType string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "audit", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, `"type":"`+eventType+`"`) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// newAuthority is an authority in a place of its own.
func newAuthority(t testing.TB) (*Authority, *place) {
	t.Helper()
	p := newPlace(t)
	return p.authority(t, nil), p
}

func request(t testing.TB, path string) Request {
	t.Helper()
	id, err := spiffeid.FromPath(domain, path)
	if err != nil {
		t.Fatal(err)
	}
	return Request{ID: id, PublicKey: testkit.NewKey(t).Public(), EntryID: "entry-1", Node: "spiffe://example.org/node/a"}
}

func issue(t testing.TB, a *Authority, req Request) *Issued {
	t.Helper()
	issued, err := a.IssueX509(t.Context(), req)
	if err != nil {
		t.Fatalf("IssueX509: %v", err)
	}
	return issued
}

// verify judges a chain as a peer with that bundle would.
func verify(chain []*x509.Certificate, bundle Bundle, now time.Time, index *revocation.Index) error {
	pool := x509.NewCertPool()
	for _, root := range bundle.Authorities {
		pool.AddCert(root)
	}
	roots := map[spiffeid.TrustDomain]*x509.CertPool{bundle.TrustDomain: pool}
	_, err := svid.Verify(chain, roots, svid.VerifyOptions{Role: svid.Client, Now: now, Revocations: index})
	return err
}

// clock is a wall clock that a test moves.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// faulty is a store in which commits fail from the n-th on.
type faulty struct {
	store.Store
	left atomic.Int64 // commits that still succeed
	lost bool         // the failing commit is made all the same: the process dies before it hears of it
}

func (f *faulty) Commit(ctx context.Context, txn store.Txn) (store.Revision, error) {
	if f.left.Add(-1) >= 0 {
		return f.Store.Commit(ctx, txn)
	}
	if f.lost {
		f.lost = false
		if _, err := f.Store.Commit(ctx, txn); err != nil {
			return 0, err
		}
	}
	return 0, errDied
}

// deaf is an audit log that takes nothing.
type deaf struct{}

func (deaf) Append(context.Context, audit.Event) (uint64, error) { return 0, errDied }

type diedError struct{}

func (diedError) Error() string { return "the process died" }

var errDied = diedError{}
