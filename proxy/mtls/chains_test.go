package mtls

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

// full is a handshake that cannot be resumed, seen from the server: every venue is another endpoint.
func (s *scene) full(t *testing.T, server *Server) *Conn {
	t.Helper()
	conn, _ := newVenue(t).want(server, NewClient(s.client), false)
	return conn
}

func TestVerifiedChainIsSharedByConnections(t *testing.T) {
	s := newScene(t)
	server := NewServer(s.server)
	first, second := s.full(t, server), s.full(t, server)
	if first.Peer() != second.Peer() {
		t.Error("the chain was verified twice")
	}
	if a, b := first.ConnectionState().PeerCertificates[0], second.ConnectionState().PeerCertificates[0]; a != b {
		t.Error("each connection keeps a parsed chain of its own")
	}
	if &first.Subjects()[0] != &second.Subjects()[0] {
		t.Error("each connection keeps subjects of its own")
	}
}

func TestChangedCircumstanceVerifiesAgain(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, s *scene){
		"another bundle": func(_ *testing.T, s *scene) {
			next := *s.orders.Get()
			next.Generation++
			s.orders.Set(&next)
		},
		"a new revocation": func(_ *testing.T, s *scene) { s.index = revocation.NewIndex(nil) },
		"another chain": func(t *testing.T, s *scene) {
			s.web.Set(credentials(t, s.ca, leafOf(t, s.ca, "/web"), 2))
		},
		"the verdict is old":  func(_ *testing.T, s *scene) { s.now = s.now.Add(chainLife) },
		"the clock went back": func(_ *testing.T, s *scene) { s.now = s.now.Add(-time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			server := NewServer(s.server)
			first := s.full(t, server)
			change(t, s)
			if s.full(t, server).Peer() == first.Peer() {
				t.Error("the chain was not verified again")
			}
		})
	}
}

func TestKnownChainIsRefusedWhenItNoLongerHolds(t *testing.T) {
	s := newScene(t)
	s.client.Now = time.Now
	server := NewServer(s.server)
	s.full(t, server)
	refused := func(want observe.Reason) {
		t.Helper()
		_, _, err, _ := newVenue(t).meet(server, NewClient(s.client), "orders.test")
		wantReason(t, err, want)
	}
	s.now = s.webLeaf.Leaf.NotAfter.Add(-chainLife / 2)
	s.full(t, server)
	s.now = s.webLeaf.Leaf.NotAfter.Add(time.Second) // the verdict itself is not old
	refused(observe.PeerExpired)
	s.now = s.webLeaf.Leaf.NotBefore.Add(-time.Second)
	refused(observe.PeerNotYetValid)

	s = newScene(t)
	server = NewServer(s.server)
	s.full(t, server)
	s.index = revocation.NewIndex([]revocation.Revocation{{ID: "1", Kind: revocation.SPIFFEID, Value: "spiffe://example.org/web"}})
	s.client.Revocations = nil
	refused(observe.PeerRevoked)

	s = newScene(t)
	server = NewServer(s.server)
	s.full(t, server)
	next := *s.orders.Get()
	next.Roots, next.Generation = testkit.NewCA(t, "example.org").Roots(), 2
	s.orders.Set(&next)
	refused(observe.PeerUntrusted)
}

// An epoch that knows a chain asks the index and the clock of the moment, not those with which it began.
func TestHitAsksTheIndexAndTheClockOfTheMoment(t *testing.T) {
	s := newScene(t)
	server := NewServer(s.server)
	conn := s.full(t, server)
	e, err := server.epochs.get()
	if err != nil {
		t.Fatal(err)
	}
	presented := conn.ConnectionState().PeerCertificates
	if chain, err := e.verify(presented, svid.Client, nil, s.now); err != nil || chain.peer != conn.Peer() {
		t.Fatalf("not known: %v", err)
	}
	revoked := revocation.NewIndex([]revocation.Revocation{{ID: "1", Kind: revocation.Authority, Value: revocation.AuthorityString(s.ca.Root.SubjectKeyId)}})
	if _, err := e.verify(presented, svid.Client, revoked, s.now); err == nil {
		t.Error("a revoked authority is accepted")
	}
	if e.chains.get(keyOf(presented)) != nil {
		t.Error("a refused chain is still known")
	}
	if _, err := e.verify(presented, svid.Client, nil, s.webLeaf.Leaf.NotAfter.Add(time.Second)); err == nil {
		t.Error("an expired chain is accepted")
	}
}

// What a peer presents beside the path that was found has to be valid as well, as svid.Verify demands.
func TestKnownChainHoldsWhileEveryPresentedCertificateIsValid(t *testing.T) {
	s := newScene(t)
	conn := s.full(t, NewServer(s.server))
	e := &epoch{credential: &credential{x509: s.orders.Get()}, chains: newChains(1)}
	chain, err := e.verify(conn.ConnectionState().PeerCertificates, svid.Client, nil, s.now)
	if err != nil {
		t.Fatal(err)
	}
	if !chain.holds(nil, s.now) {
		t.Fatal("a good chain does not hold")
	}
	beside := *chain.presented[len(chain.presented)-1]
	beside.NotAfter = s.now.Add(time.Minute)
	chain.presented = append(chain.presented, &beside)
	if !chain.holds(nil, s.now) || chain.holds(nil, s.now.Add(2*time.Minute)) {
		t.Error("the end of a certificate that is on no path is not seen")
	}
}

// A chain that is known of a client is not known of a server: the leaf of this one may not serve.
func TestRolesShareNothing(t *testing.T) {
	s := newScene(t)
	clientOnly := leafOf(t, s.ca, "/web", testkit.WithExtKeyUsage(x509.ExtKeyUsageClientAuth))
	s.web.Set(credentials(t, s.ca, clientOnly, 2))
	s.full(t, NewServer(s.server))
	s.server.Credentials, s.server.Mutual = s.web, false
	_, _, _, err := newVenue(t).meet(NewServer(s.server), NewClient(s.client), "orders.test")
	wantReason(t, err, observe.PeerExtKeyUsage)
}

func TestKnownChainsAreBounded(t *testing.T) {
	c := newChains(3)
	key := func(i int) chainKey { return chainKey{byte(i)} }
	for i := range 10 {
		c.put(&verifiedChain{key: key(i)})
		c.get(key(0)) // used again and again
	}
	if len(c.known) != 3 || c.recent.Len() != 3 {
		t.Fatalf("%d chains are known, in a list of %d", len(c.known), c.recent.Len())
	}
	for i, want := range map[int]bool{0: true, 7: false, 8: true, 9: true} {
		if (c.get(key(i)) != nil) != want {
			t.Errorf("chain %d is known: %v", i, !want)
		}
	}
}
