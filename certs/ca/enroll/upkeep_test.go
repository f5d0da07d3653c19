package enroll

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/testkit"
)

// deafAuthority answers no call, and counts them.
type deafAuthority struct {
	grpc.ClientConnInterface
	asked atomic.Int32
}

func (d *deafAuthority) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	d.asked.Add(1)
	return status.Error(codes.Unavailable, "deaf")
}

// wallClock is one that goes on while the machine sleeps.
type wallClock struct{ slept atomic.Int64 }

func (w *wallClock) now() time.Time { return time.Now().Add(time.Duration(w.slept.Load())) }

// credentialOf makes a node's credential with a state of its own.
func credentialOf(t *testing.T, clock func() time.Time) (*NodeCredential, *State) {
	t.Helper()
	state, err := OpenState(t.TempDir() + "/node")
	must(t, err)
	identity := someIdentity(t, "web")
	must(t, state.Save(identity))
	credential, err := NewNodeCredential(identity, NodeCredentialOptions{State: state, Clock: clock})
	must(t, err)
	return credential, state
}

// runFor runs f while the test's time goes on by d.
func runFor(t *testing.T, d time.Duration, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	must(t, f(ctx))
}

func TestNodeWhoseStateCannotBeWrittenKeepsItsKeyAndRecovers(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: n.Get().ID.String()})
	must(t, os.RemoveAll(n.state.dir))
	for range 2 * maxNodeKeys {
		if err := n.renew(t.Context(), n.client); err == nil {
			t.Fatal("renewed without a place for the key")
		}
	}
	record, err := a.nodes.Get(t.Context(), n.Get().ID)
	must(t, err)
	if len(record.Keys) != 2 {
		t.Errorf("the record has %d keys, want the one in use and the one that waits", len(record.Keys))
	}
	must(t, issueOne(t, n.client, order(t, entry, entry.SPIFFEID)).Err)
	must(t, os.Mkdir(n.state.dir, 0o700))
	must(t, n.renew(t.Context(), n.client))
	if got := revocation.KeyString(n.Get().Certificate.Leaf); got != record.Keys[1].Hash || n.pendingKey != nil {
		t.Error("the key that waited was not used, or waits still")
	}
}

func TestAuthorityNeverDropsTheKeyThatCalls(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	for range 2 * maxNodeKeys {
		_, csr, err := newKey()
		must(t, err)
		_, err = n.client.RenewNode(t.Context(), csr)
		must(t, err)
	}
	record, err := a.nodes.Get(t.Context(), n.Get().ID)
	must(t, err)
	if len(record.Keys) != maxNodeKeys || record.Keys[0].Hash != revocation.KeyString(n.Get().Certificate.Leaf) {
		t.Errorf("the record has %d keys, of which the first is %q", len(record.Keys), record.Keys[0].Hash)
	}
}

func TestRefusedKeyIsNotTriedAgain(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	must(t, os.RemoveAll(n.state.dir))
	if err := n.renew(t.Context(), n.client); err == nil {
		t.Fatal("renewed without a place for the key")
	}
	must(t, os.Mkdir(n.state.dir, 0o700))
	record, err := a.nodes.Get(t.Context(), n.Get().ID)
	must(t, err)
	_, err = a.ca.Revoke(t.Context(), revocation.Revocation{Kind: revocation.Key, Value: record.Keys[1].Hash, Reason: "test"}, "uid:0")
	must(t, err)
	if err := n.renew(t.Context(), n.client); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("renewal of a revoked key: %v", err)
	}
	must(t, n.renew(t.Context(), n.client))
}

func TestNewBundleThatCannotBeSavedIsUsedAndSavedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, state := credentialOf(t, nil)
		must(t, os.RemoveAll(state.dir))
		authorities := append(n.identity.Authorities[:1:1], testkit.NewCA(t, "example.org").Root)
		must(t, n.SetBundle(authorities, nil))
		if bundle, err := n.Get().Bundles.GetX509BundleForTrustDomain(domain); err != nil || len(bundle.X509Authorities()) != 2 {
			t.Fatalf("in use is %v, %v", bundle, err)
		}
		must(t, os.Mkdir(state.dir, 0o700))
		runFor(t, lookEvery+time.Second, func(ctx context.Context) error { return n.Run(ctx, &deafAuthority{}) })
		saved, err := state.Load()
		must(t, err)
		if len(saved.Authorities) != 2 {
			t.Errorf("%d authorities were saved, want 2", len(saved.Authorities))
		}
	})
}

func TestMomentOfRenewalIsOneOfTheWallClock(t *testing.T) {
	at := halfLife(someIdentity(t, "web").Chain[0], time.Now())
	if strings.Contains(at.String(), "m=") { // the monotonic reading, says time.Time.String
		t.Errorf("%s goes by a clock that stands still during sleep", at)
	}
}

func TestNodeThatSleptRenewsWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock wallClock
		n, _ := credentialOf(t, clock.now)
		time.AfterFunc(time.Second, func() { clock.slept.Store(int64(45 * time.Minute)) })
		conn := &deafAuthority{}
		runFor(t, lookEvery+2*time.Second, func(ctx context.Context) error { return n.Run(ctx, conn) })
		if conn.asked.Load() == 0 {
			t.Error("nobody was asked for a renewal")
		}
	})
}

// ownAuthority issues under a test authority, or refuses.
type ownAuthority struct {
	*testkit.CA
	t testing.TB

	mu     sync.Mutex
	refuse error
	issued int
}

type publicOnly struct{ public crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.public }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("not my key")
}

func (o *ownAuthority) IssueX509(_ context.Context, req ca.Request) (*ca.Issued, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refuse != nil {
		return nil, o.refuse
	}
	o.issued++
	leaf := o.Leaf(o.t, testkit.WithURIs(req.ID.String()), testkit.WithKey(publicOnly{req.PublicKey}))
	return &ca.Issued{ID: req.ID, Chain: []*x509.Certificate{leaf.Leaf, o.Signing}}, nil
}

func (o *ownAuthority) IssueNode(ctx context.Context, req ca.Request) (*ca.Issued, error) {
	return o.IssueX509(ctx, req)
}

func (o *ownAuthority) Bundle() ca.Bundle {
	return ca.Bundle{TrustDomain: o.TrustDomain, Authorities: []*x509.Certificate{o.Root}, ActiveAuthority: o.Signing.SubjectKeyId}
}

func (*ownAuthority) Changed() <-chan struct{} { return nil }

func (o *ownAuthority) set(refuse error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refuse = refuse
}

func TestAuthorityThatSleptRenewsWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock wallClock
		own := &ownAuthority{CA: testkit.NewCA(t, "example.org"), t: t}
		c, err := NewAuthorityCredential(t.Context(), own, nil, clock.now)
		must(t, err)
		time.AfterFunc(time.Second, func() { clock.slept.Store(int64(45 * time.Minute)) })
		runFor(t, lookEvery+2*time.Second, c.Run)
		if own.issued != 2 {
			t.Errorf("issued %d times, want 2", own.issued)
		}
	})
}

func TestAuthorityWhoseIdentityIsRevokedComesUpAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		own := &ownAuthority{CA: testkit.NewCA(t, "example.org"), t: t, refuse: fmt.Errorf("issue: %w", ca.ErrRevoked)}
		c, err := NewAuthorityCredential(t.Context(), own, slog.New(slog.NewTextHandler(&log, nil)), nil)
		must(t, err)
		if c.Get() != nil {
			t.Error("it has an SVID")
		}
		if _, err := c.Pin(); err == nil {
			t.Error("it has a pin")
		}
		refusesHandshakes(t, c)
		runFor(t, 30*time.Second, c.Run)
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d lines in half a minute, want 1:\n%s", n, log.String())
		}
		own.set(nil)
		runFor(t, 2*retryOwn, c.Run)
		if c.Get() == nil {
			t.Fatal("it has no SVID after the revocation was lifted")
		}
		if _, err := c.Pin(); err != nil {
			t.Error(err)
		}
	})
}

// refusesHandshakes connects to both listeners of an authority without an SVID.
func refusesHandshakes(t *testing.T, c *AuthorityCredential) {
	t.Helper()
	transport, err := NewNodeTransport(NodeTransportOptions{TrustDomain: domain, Credential: c.Get})
	must(t, err)
	for name, handshake := range map[string]func(net.Conn) error{
		"nodes": func(conn net.Conn) error {
			_, _, err := transport.ServerHandshake(conn)
			return err
		},
		"public": func(conn net.Conn) error { return tls.Server(conn, PublicTLS(c.Get)).HandshakeContext(t.Context()) },
	} {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).HandshakeContext(t.Context())
			_ = client.Close()
		}()
		if err := handshake(server); !errors.Is(err, errNoSVID) {
			t.Errorf("handshake of %s: %v, want %v", name, err, errNoSVID)
		}
		_ = server.Close()
		<-done
	}
	if _, err := transport.verify(someIdentity(t, "web").Chain); err == nil {
		t.Error("a node was verified without a bundle")
	}
}

// as makes the context of a call over a node's connection.
func as(t *testing.T, node Node) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: nodeInfo{node: node}})
}

// What opened a control stream must not be enough to keep it: the machine that had the node's key before has lost it.
func TestNodeThatWasAttestedElsewhereIsCutOffAndNotKnownAnyMore(t *testing.T) {
	var a *authority
	var replaced []spiffeid.ID
	a = start(t, func(o *ServerOptions, _ *ca.Options) {
		o.Replaced = func(node spiffeid.ID) {
			replaced = append(replaced, node)
			a.transport.CloseNode(node)
		}
	})
	stolen, other := a.join("web"), a.join("other")
	for _, n := range []*node{stolen, other} {
		entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: n.Get().ID.String()})
		must(t, issueOne(t, n.client, order(t, entry, entry.SPIFFEID)).Err)
		id, err := a.server.Authenticate(as(t, Node{ID: n.Get().ID, Chain: n.identity.Chain}))
		if err != nil || id != n.Get().ID {
			t.Fatalf("%q is taken for %q, %v", n.Get().ID, id, err)
		}
	}
	replaced = nil
	fresh := a.join("web")
	if len(replaced) != 1 || replaced[0] != stolen.Get().ID {
		t.Errorf("told of %q", replaced)
	}
	if n := a.openConns(); n != 1 {
		t.Errorf("%d connections are open, want the other node's", n)
	}
	for name, test := range map[string]struct {
		caller Node
		want   codes.Code
	}{
		"key of the earlier attestation": {Node{ID: stolen.Get().ID, Chain: stolen.identity.Chain}, codes.PermissionDenied},
		"key of the later one":           {Node{ID: fresh.Get().ID, Chain: fresh.identity.Chain}, codes.OK},
		"other node":                     {Node{ID: other.Get().ID, Chain: other.identity.Chain}, codes.OK},
		"node in this process":           {Node{ID: spiffeid.RequireFromString("spiffe://example.org/node/self"), Local: true}, codes.OK},
		"nobody":                         {Node{}, codes.Unauthenticated},
	} {
		if _, err := a.server.Authenticate(as(t, test.caller)); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestOneNodeSignsABurstAndThenAtASustainablePace(t *testing.T) {
	now := time.Now()
	limits := Limits{}.withDefaults()
	p := newPace(limits.PerNode, limits.PerNodeBurst, func() time.Time { return now })
	if n := p.take("a", 10_000); n != 5000 {
		t.Errorf("%d at once, want 5,000", n)
	}
	now = now.Add(10 * time.Second)
	if n := p.take("a", 10_000); n != 500 {
		t.Errorf("%d in ten seconds after the burst, want 500", n)
	}
}
