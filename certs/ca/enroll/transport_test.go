package enroll

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

// handshake connects to the listener for nodes with a certificate, or none, and returns what the server made of it.
func (a *authority) handshake(certificates ...tls.Certificate) error {
	a.t.Helper()
	conn, err := tls.Dial("tcp", a.private, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: certificates, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	must(a.t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 the server judges after the client is done; then come HTTP/2 settings
	return err
}

// openConns is how many connections of nodes are open.
func (a *authority) openConns() int {
	a.transport.mu.Lock()
	defer a.transport.mu.Unlock()
	open := map[*nodeConn]struct{}{}
	for _, conns := range a.transport.bySubject {
		maps.Copy(open, conns)
	}
	return len(open)
}

func TestOnlyNodesOfTheTrustDomainConnect(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	if err := a.handshake(n.Get().Certificate); err != nil {
		t.Fatalf("a node: %v", err)
	}
	client := a.localClient()
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/web"})
	key, csr, err := newKey()
	must(t, err)
	result := issueOne(t, client, source.IssueRequest{EntryID: entry.ID, ID: spiffeid.RequireFromString(entry.SPIFFEID), CSR: csr})
	must(t, result.Err)

	foreign, impostor := testkit.NewCA(t, "other.org"), testkit.NewCA(t, "example.org")
	for name, certificates := range map[string][]tls.Certificate{
		"no certificate":               nil,
		"foreign trust domain":         {foreign.Leaf(t, testkit.WithURIs("spiffe://other.org/node/web"))},
		"other root, same name":        {impostor.Leaf(t, testkit.WithURIs("spiffe://example.org/node/web"))},
		"the authority's own":          {a.credential.Get().Certificate},
		"workload of the trust domain": {{Certificate: rawOf(result.Chain), PrivateKey: key}},
		"self-signed of other root":    {impostor.Leaf(t, testkit.AsAuthority())},
	} {
		t.Run(name, func(t *testing.T) {
			if err := a.handshake(certificates...); err == nil {
				t.Error("connected")
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	for _, address := range []string{a.private, a.public} {
		conn, err := tls.Dial("tcp", address, &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{n.Get().Certificate}, MaxVersion: tls.VersionTLS12,
		})
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s takes TLS 1.2", address)
		}
	}
}

// SPIRE PR 711: an evicted agent kept using an open gRPC connection.
func TestRevocationCutsTheOpenConnectionOfThatNodeOnly(t *testing.T) {
	for name, revoke := range map[string]func(n *node) revocation.Subject{
		"SPIFFE ID": func(n *node) revocation.Subject {
			return revocation.Subject{Kind: revocation.SPIFFEID, Value: n.Get().ID.String()}
		},
		"serial": func(n *node) revocation.Subject {
			return revocation.Subject{Kind: revocation.Serial, Value: revocation.SerialString(n.Get().Certificate.Leaf.SerialNumber)}
		},
		"key": func(n *node) revocation.Subject {
			return revocation.Subject{Kind: revocation.Key, Value: revocation.KeyString(n.Get().Certificate.Leaf)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, nil)
			evicted, other := a.join("evicted"), a.join("other")
			entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: evicted.Get().ID.String()})
			must(t, issueOne(t, evicted.client, order(t, entry, entry.SPIFFEID)).Err)
			other.conn.Connect()
			waitFor(t, func() bool { return a.openConns() == 2 && other.conn.GetState() == connectivity.Ready })

			subject := revoke(evicted)
			revoked := revocation.Revocation{ID: "r1", Kind: subject.Kind, Value: subject.Value, At: time.Now()}
			a.index.Store(revocation.NewIndex([]revocation.Revocation{revoked}))
			if n := a.transport.CloseConcerned(revoked); n != 1 {
				t.Errorf("closed %d connections, want 1", n)
			}
			if _, err := evicted.client.IssueX509(t.Context(), orders(t, entry)); status.Code(errors.Unwrap(err)) != codes.Unavailable {
				t.Errorf("the evicted node was answered: %v", err)
			}
			if other.conn.GetState() != connectivity.Ready || a.openConns() != 1 {
				t.Errorf("the other node is %s, %d connections are open", other.conn.GetState(), a.openConns())
			}
		})
	}
}

func TestDeletedNodeIsNotServedOnItsOpenConnection(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: n.Get().ID.String()})
	must(t, issueOne(t, n.client, order(t, entry, entry.SPIFFEID)).Err)
	must(t, a.nodes.Delete(t.Context(), n.Get().ID))
	if _, err := n.client.IssueX509(t.Context(), orders(t, entry)); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Errorf("issuance: %v, want PermissionDenied", err)
	}
	_, csr, err := newKey()
	must(t, err)
	if _, err := n.client.RenewNode(t.Context(), csr); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Errorf("renewal: %v, want PermissionDenied", err)
	}
	if n := a.transport.CloseNode(n.Get().ID); n != 1 {
		t.Errorf("closed %d connections, want 1", n)
	}
}

func TestConnectionEndsWithItsCertificate(t *testing.T) {
	a := start(t, func(_ *ServerOptions, o *ca.Options) { o.NodeTTL = ca.MinTTL })
	n := a.join("web")
	n.conn.Connect()
	waitFor(t, func() bool { return a.openConns() == 1 })
	// What the timer does at the certificate's end, without the wait.
	a.transport.mu.Lock()
	for conn := range a.transport.bySubject[revocation.Subject{Kind: revocation.SPIFFEID, Value: n.Get().ID.String()}] {
		conn.expiry.Reset(0)
	}
	a.transport.mu.Unlock()
	waitFor(t, func() bool { return a.openConns() == 0 || n.conn.GetState() != connectivity.Ready })
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	for range 20 {
		must(t, a.handshake(n.Get().Certificate))
	}
	waitFor(t, func() bool {
		a.transport.mu.Lock()
		defer a.transport.mu.Unlock()
		return len(a.transport.bySubject) == 0
	})
}

func TestConnectionsOfOneNodeAreBounded(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	id := n.Get().ID
	subject := revocation.Subject{Kind: revocation.SPIFFEID, Value: id.String()}
	var held []*nodeConn
	for range maxNodeConns {
		conn := &nodeConn{transport: a.transport, subjects: []revocation.Subject{subject}}
		if !a.transport.register(conn, id, time.Hour) {
			t.Fatalf("connection %d was refused", len(held)+1)
		}
		held = append(held, conn)
	}
	if err := a.handshake(n.Get().Certificate); err == nil {
		t.Error("one more was taken")
	}
	for _, conn := range held {
		a.transport.forget(conn)
	}
	must(t, a.handshake(n.Get().Certificate))
}

func TestNodeRenewsWithANewKeyAndTheOldOneServesUntilItsEnd(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	before := n.Get()
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: before.ID.String()})
	must(t, n.renew(t.Context(), n.client))
	after := n.Get()
	if after.Certificate.Leaf.Equal(before.Certificate.Leaf) || revocation.KeyString(after.Certificate.Leaf) == revocation.KeyString(before.Certificate.Leaf) {
		t.Error("SVID and key did not both change")
	}
	saved, err := n.state.Load()
	must(t, err)
	if !saved.Chain[0].Equal(after.Certificate.Leaf) {
		t.Error("what is used is not what is on disk")
	}
	// A node that crashed before it saved its new key comes back with the old one.
	identity := &NodeIdentity{ID: before.ID, Key: before.Certificate.PrivateKey.(crypto.Signer), Chain: chainOf(t, before.Certificate.Certificate), Authorities: saved.Authorities}
	crashed := a.connect(identity)
	must(t, issueOne(t, crashed.client, order(t, entry, entry.SPIFFEID)).Err)
	must(t, issueOne(t, n.client, order(t, entry, entry.SPIFFEID)).Err)
	if count(a.eventTypes(), audit.NodeRenewed) != 1 {
		t.Errorf("events are %v", a.eventTypes())
	}
}

func TestNewAttestationEndsTheKeysOfTheOldOne(t *testing.T) {
	a := start(t, nil)
	stolen := a.join("web")
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/w", Node: stolen.Get().ID.String()})
	must(t, issueOne(t, stolen.client, order(t, entry, entry.SPIFFEID)).Err)
	fresh := a.join("web")
	if _, err := stolen.client.IssueX509(t.Context(), orders(t, entry)); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Errorf("the old key: %v, want PermissionDenied", err)
	}
	must(t, issueOne(t, fresh.client, order(t, entry, entry.SPIFFEID)).Err)
}

func TestNodeRenewsByItselfWhenAnotherAuthoritySigns(t *testing.T) {
	a := start(t, func(_ *ServerOptions, o *ca.Options) { o.NodeTTL = 20 * time.Second })
	n := a.join("web")
	if left := time.Until(n.renewAt); left < 7*time.Second || left > 13*time.Second {
		t.Errorf("renewal is due in %s, want about half of 20 s", left)
	}
	a.run(func(ctx context.Context) error { return n.Run(ctx, n.conn) })
	before := n.Get().Certificate.Leaf
	must(t, a.ca.Rotate(t.Context(), ca.Root, "uid:0"))
	bundle := a.ca.Bundle()
	must(t, n.SetBundle(bundle.Authorities, bundle.ActiveAuthority))
	waitFor(t, func() bool { return !n.Get().Certificate.Leaf.Equal(before) })
	if got := n.Get().Certificate.Leaf.AuthorityKeyId; string(got) != string(bundle.ActiveAuthority) {
		t.Error("renewed under the authority that was replaced")
	}
	saved, err := n.state.Load()
	must(t, err)
	if len(saved.Authorities) != len(bundle.Authorities) || !saved.Chain[0].Equal(n.Get().Certificate.Leaf) {
		t.Error("the new bundle and SVID are not both on disk")
	}
}

func TestNodeTalksToItsAuthorityOnly(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/web"})
	result := issueOne(t, a.localClient(), order(t, entry, entry.SPIFFEID))
	must(t, result.Err)
	workload := testkit.NewCA(t, "example.org")
	verify := n.clientTLS().VerifyConnection
	own := chainOf(t, a.credential.Get().Certificate.Certificate)
	must(t, verify(tls.ConnectionState{PeerCertificates: own}))
	var refused *svid.Error
	if err := verify(tls.ConnectionState{PeerCertificates: result.Chain}); !errors.As(err, &refused) || refused.Reason != observe.PeerUnexpectedID {
		t.Errorf("a workload as authority: %v", err)
	}
	stranger := workload.Leaf(t, testkit.WithURIs("spiffe://example.org/authority"))
	if err := verify(tls.ConnectionState{PeerCertificates: chainOf(t, stranger.Certificate)}); err == nil {
		t.Error("an authority under another root was accepted")
	}
}

func TestAuthorityRenewsItsOwnSVIDWhenAnotherOneSigns(t *testing.T) {
	a := start(t, nil)
	before := a.credential.Get()
	changed := a.credential.Changed()
	must(t, a.ca.Rotate(t.Context(), ca.Signing, "uid:0"))
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nothing changed")
	}
	after := a.credential.Get()
	if after.Generation <= before.Generation || string(after.Certificate.Leaf.AuthorityKeyId) != string(a.ca.Bundle().ActiveAuthority) {
		t.Error("the authority still serves under the one that was replaced")
	}
	n := a.join("web")
	if err := a.handshake(n.Get().Certificate); err != nil {
		t.Error(err)
	}
}

func TestListenerForNodesHasNoAddressForTheLocalNode(t *testing.T) {
	l := NewLocal(AuthorityID(domain))
	if l.Addr().String() != "local" {
		t.Errorf("address %q", l.Addr())
	}
	must(t, l.Close())
	must(t, l.Close())
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, err := l.connect(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("connect after Close: %v", err)
	}
}

func chainOf(t *testing.T, raw [][]byte) []*x509.Certificate {
	t.Helper()
	chain, err := parseChain(raw)
	must(t, err)
	return chain
}

// orders asks for one SVID of an entry.
func orders(t *testing.T, entry registration.Entry) []source.IssueRequest {
	t.Helper()
	return []source.IssueRequest{order(t, entry, entry.SPIFFEID)}
}

// waitFor waits for what other goroutines are about to do.
func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to pass")
		}
	}
}
