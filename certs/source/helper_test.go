package source

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// fakeIssuer fills Issuer with a test authority. It signs whatever it is asked for.
type fakeIssuer struct {
	t testing.TB

	mu      sync.Mutex
	ca      *testkit.CA
	fail    error                                 // of the whole call
	hang    chan struct{}                         // calls wait for it, when not nil
	corrupt func(IssueRequest, *IssueResult)      // changes a result
	options func(IssueRequest) testkit.LeafOption // changes a leaf
	calls   []issueCall
	running int
	busiest int
}

type issueCall struct {
	at       time.Time
	requests []IssueRequest
}

func newFakeIssuer(t testing.TB) *fakeIssuer {
	return &fakeIssuer{t: t, ca: testkit.NewCA(t, "example.org")}
}

// publicOnly lets testkit sign for a key that stays with whoever asked.
type publicOnly struct{ public crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.public }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("not my key")
}

func (f *fakeIssuer) IssueX509(ctx context.Context, requests []IssueRequest) ([]IssueResult, error) {
	f.mu.Lock()
	f.calls = append(f.calls, issueCall{time.Now(), requests})
	f.running++
	f.busiest = max(f.busiest, f.running)
	fail, hang := f.fail, f.hang
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if fail != nil {
		return nil, fail
	}
	results := make([]IssueResult, len(requests))
	for i, request := range requests {
		results[i] = f.sign(request)
	}
	return results, nil
}

func (f *fakeIssuer) sign(request IssueRequest) IssueResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	csr, err := x509.ParseCertificateRequest(request.CSR)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return IssueResult{Err: err}
	}
	options := []testkit.LeafOption{
		testkit.WithURIs(request.ID.String()), testkit.WithTTL(time.Hour), testkit.WithKey(publicOnly{csr.PublicKey}),
	}
	if f.options != nil {
		options = append(options, f.options(request))
	}
	leaf := f.ca.Leaf(f.t, options...)
	result := IssueResult{Chain: []*x509.Certificate{leaf.Leaf, f.ca.Signing}}
	if f.corrupt != nil {
		f.corrupt(request, &result)
	}
	return result
}

func (f *fakeIssuer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeIssuer) requests() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, call := range f.calls {
		n += len(call.requests)
	}
	return n
}

// world is a running manager inside a synctest bubble.
type world struct {
	*Manager
	t      *testing.T
	issuer *fakeIssuer
}

// run gives test a running manager of example.org whose SVIDs live for an hour, in a bubble of its own.
func run(t *testing.T, options ManagerOptions, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		issuer := newFakeIssuer(t)
		options.Issuer, options.TrustDomain, options.Logger = issuer, issuer.ca.TrustDomain, slog.New(slog.DiscardHandler)
		m, err := NewManager(options)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		w := &world{m, t, issuer}
		w.trust(issuer.ca)
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// trust sets the bundle to these authorities, of which the first is the active one.
func (w *world) trust(authorities ...*testkit.CA) {
	state := BundleState{ActiveAuthority: authorities[0].Signing.SubjectKeyId}
	for _, ca := range authorities {
		state.Authorities = append(state.Authorities, ca.Root)
	}
	w.SetBundles(map[spiffeid.TrustDomain]BundleState{w.issuer.ca.TrustDomain: state})
}

// settle waits until everybody waits, without letting time pass.
func (w *world) settle() { synctest.Wait() }

// sleep lets time pass.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// own is an entry of the process itself.
func own(id, path string) registration.Entry {
	return entry(id, path, registration.SelfSelector)
}

// entry is one created as many seconds after the start as its id has bytes, so that "a", "bb", "ccc" is oldest first.
func entry(id, path string, selectors ...string) registration.Entry {
	return registration.Entry{
		ID: id, SPIFFEID: "spiffe://example.org" + path, Selectors: selectors, Created: start.Add(time.Duration(len(id)) * time.Second),
	}
}

func id(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://example.org" + path) }

func (w *world) want(holder *Holder) *X509 {
	w.t.Helper()
	x := holder.Get()
	if x == nil {
		w.t.Fatal("there is no SVID")
	}
	return x
}

func paths(update Update) []string {
	var paths []string
	for _, granted := range update.SVIDs {
		paths = append(paths, granted.ID.Path())
	}
	return paths
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

func asSigner(key any) crypto.Signer { return key.(crypto.Signer) }

func bundleSet(ca *testkit.CA) *x509bundle.Set {
	return x509bundle.NewSet(x509bundle.FromX509Authorities(ca.TrustDomain, []*x509.Certificate{ca.Root}))
}

func spkiHash(x *X509) string {
	sum := sha256.Sum256(x.Chain()[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
