package enroll

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 10 * time.Second

var domain = spiffeid.RequireTrustDomainFromString("example.org")

// authority is a whole one, on disk and on loopback sockets.
type authority struct {
	t          *testing.T
	ca         *ca.Authority
	credential *AuthorityCredential
	registry   *registration.Registry
	tokens     *nodeattestor.Tokens
	nodes      *Nodes
	server     *Server
	transport  *NodeTransport
	local      *Local
	public     string // addresses
	private    string

	index atomic.Pointer[revocation.Index]

	mu     sync.Mutex
	events []audit.Event
}

// Append keeps the event, and passes it on to nobody.
func (a *authority) Append(_ context.Context, event audit.Event) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, event)
	return uint64(len(a.events)), nil
}

func (a *authority) eventTypes() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var types []string
	for _, e := range a.events {
		types = append(types, e.Type)
	}
	return types
}

func start(t *testing.T, change func(*ServerOptions, *ca.Options)) *authority {
	t.Helper()
	a := &authority{t: t}
	dir := t.TempDir()
	st, err := store.OpenBolt(filepath.Join(dir, "postern.db"), store.BoltOptions{})
	must(t, err)
	t.Cleanup(func() { _ = st.Close() })
	manager, err := keys.Open(t.Context(), st, keys.LocalFile(filepath.Join(dir, "sealing.key")))
	must(t, err)
	a.registry = registration.New(domain, st, a, nil)
	a.tokens = nodeattestor.NewTokens(st, a, domain, nil)
	a.nodes = NewNodes(st)
	caOptions := ca.Options{Store: st, Keys: manager, TrustDomain: domain, Events: a}
	options := ServerOptions{
		TrustDomain: domain, Entries: a.registry, Tokens: a.tokens, Nodes: a.nodes, Events: a, Register: a.register,
	}
	if change != nil {
		change(&options, &caOptions)
	}
	a.ca, err = ca.Open(t.Context(), caOptions)
	must(t, err)
	options.Authority = a.ca
	a.server, err = NewServer(options)
	must(t, err)
	a.credential, err = NewAuthorityCredential(t.Context(), a.ca, nil, nil)
	must(t, err)
	a.run(a.credential.Run)
	a.transport, err = NewNodeTransport(NodeTransportOptions{TrustDomain: domain, Credential: a.credential.Get, Revocations: a.index.Load})
	must(t, err)
	a.local = NewLocal(spiffeid.RequireFromString("spiffe://example.org/node/self"))
	a.listen()
	return a
}

// register is what internal/app does with the identities of a token.
func (a *authority) register(ctx context.Context, node spiffeid.ID, identities []spiffeid.ID, actor string) error {
	for _, id := range identities {
		_, err := a.registry.Create(ctx, registration.Entry{
			SPIFFEID: id.String(), Node: node.String(), Selectors: []string{registration.SelfSelector},
		}, actor)
		if err != nil && !errors.Is(err, registration.ErrExists) {
			return err
		}
	}
	return nil
}

func (a *authority) listen() {
	public, err := net.Listen("tcp", "127.0.0.1:0")
	must(a.t, err)
	private, err := net.Listen("tcp", "127.0.0.1:0")
	must(a.t, err)
	a.public, a.private = public.Addr().String(), private.Addr().String()
	a.serve(public, a.server.RegisterPublic, append(a.server.PublicGRPCOptions(), grpc.Creds(credentials.NewTLS(PublicTLS(a.credential.Get))))...)
	a.serve(private, a.server.RegisterNodes, grpc.Creds(a.transport))
	a.serve(a.local, a.server.RegisterNodes, grpc.Creds(a.local.ServerCredentials()))
}

func (a *authority) serve(listener net.Listener, register func(grpc.ServiceRegistrar), options ...grpc.ServerOption) {
	g := grpc.NewServer(options...)
	register(g)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(listener) }()
	a.t.Cleanup(func() { g.Stop(); <-done })
}

// run starts something that ends with the test.
func (a *authority) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Errorf("Run returned %v", err)
		}
	})
}

func (a *authority) token(name string, identities ...spiffeid.ID) nodeattestor.Token {
	a.t.Helper()
	id, err := NodeID(domain, name)
	must(a.t, err)
	pin, err := a.credential.Pin()
	must(a.t, err)
	token, _, err := a.tokens.Create(a.t.Context(), nodeattestor.TokenSpec{Node: id, Identities: identities}, pin, "uid:0")
	must(a.t, err)
	return token
}

func (a *authority) entry(e registration.Entry) registration.Entry {
	a.t.Helper()
	if e.Selectors == nil {
		e.Selectors = []string{"unix:uid:1000"}
	}
	created, err := a.registry.Create(a.t.Context(), e, "uid:0")
	must(a.t, err)
	return created
}

// node is an attested one with a connection to its authority.
type node struct {
	*NodeCredential
	state  *State
	conn   *grpc.ClientConn
	client *Client
}

func (a *authority) join(name string) *node {
	a.t.Helper()
	identity, err := Attest(a.t.Context(), AttestOptions{Address: a.public, Token: a.token(name)})
	must(a.t, err)
	return a.connect(identity)
}

func (a *authority) connect(identity *NodeIdentity) *node {
	a.t.Helper()
	state, err := OpenState(filepath.Join(a.t.TempDir(), "node"))
	must(a.t, err)
	must(a.t, state.Save(identity))
	n := &node{state: state}
	n.NodeCredential, err = NewNodeCredential(identity, NodeCredentialOptions{State: state})
	must(a.t, err)
	n.conn, err = n.Dial(a.private)
	must(a.t, err)
	a.t.Cleanup(func() { _ = n.conn.Close() })
	n.client = NewClient(n.conn)
	return n
}

// order makes a key and a request for an entry's SVID.
func order(t *testing.T, entry registration.Entry, id string) source.IssueRequest {
	t.Helper()
	_, csr, err := newKey()
	must(t, err)
	return source.IssueRequest{EntryID: entry.ID, ID: spiffeid.RequireFromString(id), CSR: csr}
}

// issueOne asks for one SVID and returns the answer to it.
func issueOne(t *testing.T, client *Client, request source.IssueRequest) source.IssueResult {
	t.Helper()
	results, err := client.IssueX509(t.Context(), []source.IssueRequest{request})
	must(t, err)
	return results[0]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func count(list []string, what string) int {
	return len(slices.DeleteFunc(list, func(s string) bool { return s != what }))
}

func nowFunc() time.Time { return time.Now() }
