package source_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/workloadapi"
	"github.com/postern-proxy/postern/internal/testkit"
)

type signer struct {
	t  *testing.T
	ca *testkit.CA
}

type publicOnly struct{ public crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.public }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("not my key")
}

func (s signer) IssueX509(_ context.Context, requests []source.IssueRequest) ([]source.IssueResult, error) {
	results := make([]source.IssueResult, len(requests))
	for i, request := range requests {
		csr, err := x509.ParseCertificateRequest(request.CSR)
		if err != nil {
			return nil, err
		}
		leaf := s.ca.Leaf(s.t, testkit.WithURIs(request.ID.String()), testkit.WithKey(publicOnly{csr.PublicKey}))
		results[i].Chain = []*x509.Certificate{leaf.Leaf, s.ca.Signing}
	}
	return results, nil
}

func TestWorkloadAPIIsFollowedAcrossItsOutageAndItsRefusal(t *testing.T) {
	testkit.CheckLeaks(t)
	ca := testkit.NewCA(t, "example.org")
	logger := slog.New(slog.DiscardHandler)
	manager, err := source.NewManager(source.ManagerOptions{Issuer: signer{t, ca}, TrustDomain: ca.TrustDomain, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	running := start(t, cancel)
	running.run(func() error { return manager.Run(ctx) })

	serve := func() func() {
		t.Helper()
		attestor, err := workloadattestor.New(workloadattestor.Options{Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		server, err := workloadapi.NewServer(workloadapi.ServerOptions{
			Identities: manager, Attestor: attestor, Logger: logger, Grace: 10 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		serving, end := context.WithCancel(ctx)
		listener, err := workloadapi.Listen(serving, socket)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- server.Serve(serving, listener) }()
		return func() {
			end()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	}
	orders := registration.Entry{
		ID: "a", SPIFFEID: "spiffe://example.org/orders", Selectors: []string{"unix:uid:" + strconv.Itoa(os.Geteuid())},
	}
	manager.SetBundles(map[spiffeid.TrustDomain]source.BundleState{ca.TrustDomain: {Authorities: []*x509.Certificate{ca.Root}}})
	manager.SetEntries([]registration.Entry{orders})

	// The client is there before the server.
	client, err := source.NewWorkloadAPI(source.WorkloadAPIOptions{Socket: "unix://" + socket, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	running.run(func() error { return client.Run(ctx) })
	named := client.Identity(spiffeid.RequireFromString(orders.SPIFFEID))
	stop := serve()
	first := await(t, client.Default(), func(x *source.X509) bool { return x != nil })
	if named.Get() != first || first.ID.String() != orders.SPIFFEID || first.Roots[ca.TrustDomain] == nil {
		t.Errorf("received %+v", first)
	}

	// An outage: what was received serves on, and what changed meanwhile is there afterwards.
	stop()
	if client.Default().Get() != first {
		t.Error("the SVID was dropped when the API went away")
	}
	next := testkit.NewCA(t, "example.org")
	manager.SetBundles(map[spiffeid.TrustDomain]source.BundleState{ca.TrustDomain: {Authorities: []*x509.Certificate{ca.Root, next.Root}}})
	stop = serve()
	after := await(t, client.Default(), func(x *source.X509) bool { return x != first })
	if after.Generation <= first.Generation {
		t.Errorf("generation %d after %d", after.Generation, first.Generation)
	}

	// SPIFFE Workload API, Section 5.2.1: on PermissionDenied "the client SHOULD cease using the redacted SVIDS".
	manager.SetEntries(nil)
	await(t, client.Default(), func(x *source.X509) bool { return x == nil })
	if named.Get() != nil {
		t.Error("the named identity is still there")
	}
	manager.SetEntries([]registration.Entry{orders})
	await(t, client.Default(), func(x *source.X509) bool { return x != nil })
	stop()
}

func TestWorkloadAPISocketIsCheckedAtOnce(t *testing.T) {
	for _, socket := range []string{"/run/spire/agent.sock", "http://127.0.0.1", "unix:relative"} {
		if _, err := source.NewWorkloadAPI(source.WorkloadAPIOptions{Socket: socket, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("accepted %q", socket)
		}
	}
}

// runs are goroutines that end with the test.
type runs struct {
	t    *testing.T
	done chan error
	n    int
}

func start(t *testing.T, cancel func()) *runs {
	r := &runs{t: t, done: make(chan error, 10)} // more than a test starts
	t.Cleanup(func() {
		cancel()
		for range r.n {
			if err := <-r.done; err != nil {
				t.Errorf("run: %v", err)
			}
		}
	})
	return r
}

func (r *runs) run(f func() error) {
	r.n++
	go func() { r.done <- f() }()
}

func await(t *testing.T, holder *source.Holder, when func(*source.X509) bool) *source.X509 {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		changed := holder.Changed()
		if x := holder.Get(); when(x) {
			return x
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("it did not come")
		}
	}
}
