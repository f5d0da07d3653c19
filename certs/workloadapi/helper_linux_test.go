package workloadapi

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/testkit"
)

// deadline is for what should take milliseconds.
const deadline = 20 * time.Second

// signer fills source.Issuer with a test authority.
type signer struct {
	t  testing.TB
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

// identities can be made to panic.
type identities struct {
	Identities
	panic atomic.Bool
}

func (i *identities) Subscribe(selectors []string) *source.Subscription {
	if i.panic.Load() {
		panic("as the test wants")
	}
	return i.Identities.Subscribe(selectors)
}

// node is a running manager with a Workload API server on a real socket.
type node struct {
	*source.Manager
	t          *testing.T
	identities *identities
	ca         *testkit.CA
	server     *Server
	socket     string
	stop       func()
}

func serve(t *testing.T, options ServerOptions) *node {
	t.Helper()
	testkit.CheckLeaks(t)
	logger := slog.New(slog.DiscardHandler)
	n := &node{t: t, ca: testkit.NewCA(t, "example.org")}
	var err error
	n.Manager, err = source.NewManager(source.ManagerOptions{Issuer: signer{t, n.ca}, TrustDomain: n.ca.TrustDomain, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	n.identities = &identities{Identities: n.Manager}
	options.Identities, options.Logger = n.identities, logger
	if options.Attestor, err = workloadattestor.New(workloadattestor.Options{Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if n.server, err = NewServer(options); err != nil {
		t.Fatal(err)
	}
	n.trust(n.ca)
	n.SetEntries(nil)
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.socket = filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := Listen(ctx, n.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- n.Run(ctx) }()
	go func() { done <- n.server.Serve(ctx, listener) }()
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		}
	}
	t.Cleanup(n.stop)
	return n
}

func (n *node) trust(authorities ...*testkit.CA) {
	bundles := make(map[spiffeid.TrustDomain]source.BundleState)
	for _, ca := range authorities {
		state := bundles[ca.TrustDomain]
		state.Authorities = append(state.Authorities, ca.Root)
		bundles[ca.TrustDomain] = state
	}
	n.SetBundles(bundles)
}

func (n *node) address() string { return "unix://" + n.socket }

// dial connects a plain gRPC client.
func (n *node) dial() workload.SpiffeWorkloadAPIClient {
	n.t.Helper()
	conn, err := grpc.NewClient("unix://"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn)
}

// myUID is a selector that this test process has.
func myUID() string { return "unix:uid:" + strconv.Itoa(os.Geteuid()) }

// entry is created as many seconds after the epoch as its id has bytes.
func entry(id, path string, selectors ...string) registration.Entry {
	return registration.Entry{
		ID: id, SPIFFEID: "spiffe://example.org" + path, Selectors: selectors, Created: time.Unix(int64(len(id)), 0),
	}
}

// authorized adds the security header to a call that ends with the test.
func authorized(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, securityHeader, "true")
}

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("%v, want code %s", err, code)
	}
}

func pathsOf(response *workload.X509SVIDResponse) []string {
	var paths []string
	for _, svid := range response.GetSvids() {
		paths = append(paths, spiffeid.RequireFromString(svid.GetSpiffeId()).Path())
	}
	return paths
}

// connect opens a connection and leaves it open.
func connect(t *testing.T, socket string) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}
