package mtls

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

// venue is one address at which servers take turns.
type venue struct {
	t        testing.TB
	listener net.Listener
}

func newVenue(t testing.TB) *venue {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(t.Context()), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &venue{t: t, listener: l}
}

func (v *venue) link() (near, far net.Conn) {
	v.t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() { c, _ := v.listener.Accept(); accepted <- c }()
	far, err := (&net.Dialer{}).DialContext(v.t.Context(), "tcp", v.listener.Addr().String())
	if err != nil {
		v.t.Fatal(err)
	}
	near = <-accepted
	v.t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// meet runs a handshake and sends a byte from the server to the client, so that the client has its ticket.
func (v *venue) meet(s *Server, c *Client, name string) (server, client *Conn, serverErr, clientErr error) {
	v.t.Helper()
	near, far := v.link()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if server, serverErr = s.Handshake(v.t.Context(), near); serverErr == nil {
			_, serverErr = io.WriteString(server, "x")
		}
	}()
	if client, clientErr = c.Handshake(v.t.Context(), far, name); clientErr == nil {
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, clientErr = io.ReadFull(client, make([]byte, 1))
		_ = client.SetReadDeadline(time.Time{})
	}
	<-done
	return server, client, serverErr, clientErr
}

// want runs a handshake that succeeds and is resumed or not.
func (v *venue) want(s *Server, c *Client, resumed bool) (server, client *Conn) {
	v.t.Helper()
	server, client, serverErr, clientErr := v.meet(s, c, "orders.test")
	if serverErr != nil || clientErr != nil {
		v.t.Fatal(serverErr, clientErr)
	}
	if server.Resumed() != resumed || client.Resumed() != resumed || server.Facts().Resumed != resumed || client.Facts().Resumed {
		v.t.Fatalf("resumed: server %v, client %v, want %v", server.Resumed(), client.Resumed(), resumed)
	}
	return server, client
}

// scene is a server and a client whose circumstances a test changes.
type scene struct {
	ca          *testkit.CA
	orders, web *source.Holder
	index       *revocation.Index // of both
	now         time.Time
	server      ServerOptions
	client      ClientOptions
	webLeaf     tls.Certificate
}

func newScene(t testing.TB) *scene {
	s := &scene{ca: testkit.NewCA(t, "example.org"), now: time.Now()}
	s.webLeaf = leafOf(t, s.ca, "/web", testkit.WithTTL(30*time.Minute))
	s.orders, s.web = holder(t, s.ca, leafOf(t, s.ca, "/orders")), holder(t, s.ca, s.webLeaf)
	index, now := func() *revocation.Index { return s.index }, func() time.Time { return s.now }
	s.server = ServerOptions{Credentials: s.orders, Mutual: true, Revocations: index, Now: now, MinVersion: tls.VersionTLS12}
	s.client = ClientOptions{Credentials: s.web, Mutual: true, Revocations: index, Now: now, Expect: anybody}
	return s
}

func TestSessionIsResumedWithThePeerAndItsEnd(t *testing.T) {
	s := newScene(t)
	v := newVenue(t)
	server, client := NewServer(s.server), NewClient(s.client)
	full, _ := v.want(server, client, false)
	for range 3 {
		resumed, back := v.want(server, client, true)
		if resumed.Peer().ID().Path() != "/web" || back.Peer().ID().Path() != "/orders" {
			t.Errorf("peers %q and %q", resumed.Peer().ID().Path(), back.Peer().ID().Path())
		}
		if !resumed.NotAfter().Equal(full.NotAfter()) || len(resumed.Subjects()) != len(full.Subjects()) || len(resumed.Peer().Chain()) != 3 {
			t.Errorf("the resumed session is not bound as the full one: %v, %v", resumed.NotAfter(), full.NotAfter())
		}
		if resumed.Group() != "X25519MLKEM768" {
			t.Errorf("the key exchange of a resumed session is %q", resumed.Group())
		}
	}
}

func TestSessionOfTLS12IsResumed(t *testing.T) {
	s := newScene(t)
	v := newVenue(t)
	server := NewServer(s.server)
	sessions := tls.NewLRUClientSessionCache(1)
	for i := range 3 {
		near, far := v.link()
		got := make(chan *Conn, 1)
		go func() {
			conn, err := server.Handshake(t.Context(), near)
			if err == nil {
				_, _ = io.WriteString(conn, "x")
			}
			got <- conn
		}()
		client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, ServerName: "a", ClientSessionCache: sessions, MaxVersion: tls.VersionTLS12,
			Certificates: []tls.Certificate{s.webLeaf}})
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conn := <-got
		if conn.Resumed() != (i > 0) || conn.Peer().ID().Path() != "/web" || conn.Version() != "1.2" {
			t.Fatalf("handshake %d: resumed %v, peer %q, version %q", i, conn.Resumed(), conn.Peer().ID(), conn.Version())
		}
	}
}

// Each change ends what was remembered: the next handshake is a full one, and what it judges by is what is true then.
func TestChangeEndsSessions(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, s *scene){
		"a new revocation": func(_ *testing.T, s *scene) {
			s.index = revocation.NewIndex([]revocation.Revocation{{ID: "1", Kind: revocation.SPIFFEID, Value: "spiffe://example.org/other"}})
		},
		"the server's credential rotates": func(t *testing.T, s *scene) {
			s.orders.Set(credentials(t, s.ca, leafOf(t, s.ca, "/orders"), 2))
		},
		"the client's credential rotates": func(t *testing.T, s *scene) {
			s.web.Set(credentials(t, s.ca, leafOf(t, s.ca, "/web"), 2))
		},
		"the server's bundle changes": func(_ *testing.T, s *scene) {
			next := *s.orders.Get()
			next.Generation++
			s.orders.Set(&next)
		},
		"the ticket key gets old": func(_ *testing.T, s *scene) { s.now = s.now.Add(epochLife) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			day := testkit.WithTTL(24 * time.Hour)
			s.orders.Set(credentials(t, s.ca, leafOf(t, s.ca, "/orders", day), 1))
			s.web.Set(credentials(t, s.ca, leafOf(t, s.ca, "/web", day), 1))
			v := newVenue(t)
			server, client := NewServer(s.server), NewClient(s.client)
			v.want(server, client, false)
			v.want(server, client, true)
			change(t, s)
			v.want(server, client, false)
			v.want(server, client, true)
		})
	}
}

// The server's change alone makes a ticket worthless: here the client knows of nothing and offers it.
func TestServerRefusesTicketsOfAnotherEpoch(t *testing.T) {
	s := newScene(t)
	v := newVenue(t)
	var index *revocation.Index
	s.server.Revocations = func() *revocation.Index { return index }
	server, client := NewServer(s.server), NewClient(s.client)
	v.want(server, client, false)
	v.want(server, client, true)
	index = revocation.NewIndex(nil)
	v.want(server, client, false)
	v.want(server, client, true)

	index = revocation.NewIndex([]revocation.Revocation{
		{ID: "1", Kind: revocation.Serial, Value: revocation.SerialString(s.webLeaf.Leaf.SerialNumber)}})
	_, _, err, _ := v.meet(server, client, "orders.test")
	wantReason(t, err, observe.PeerRevoked)
}

func TestResumedSessionIsJudgedByWhatIsTrueNow(t *testing.T) {
	t.Run("an authority left the bundle", func(t *testing.T) {
		s := newScene(t)
		v := newVenue(t)
		server, client := NewServer(s.server), NewClient(s.client)
		v.want(server, client, false)
		next := *s.orders.Get()
		next.Roots, next.Generation = testkit.NewCA(t, "example.org").Roots(), 2
		s.orders.Set(&next)
		_, _, err, _ := v.meet(server, client, "orders.test")
		wantReason(t, err, observe.PeerUntrusted)
	})
	t.Run("the client's SVID expired", func(t *testing.T) {
		s := newScene(t)
		v := newVenue(t)
		server, client := NewServer(s.server), NewClient(s.client)
		v.want(server, client, false)
		s.now = s.webLeaf.Leaf.NotAfter.Add(time.Second)
		_, _, err, _ := v.meet(server, client, "orders.test")
		wantReason(t, err, observe.PeerExpired)
	})
	t.Run("a revocation arrives while the session resumes", func(t *testing.T) {
		s := newScene(t)
		v := newVenue(t)
		var asked int
		revoked := revocation.NewIndex([]revocation.Revocation{{ID: "1", Kind: revocation.SPIFFEID, Value: "spiffe://example.org/web"}})
		late := false
		s.server.Revocations = func() *revocation.Index {
			if asked++; late && asked > 1 { // the handshake began with the index before
				return revoked
			}
			return nil
		}
		server, client := NewServer(s.server), NewClient(s.client)
		v.want(server, client, false)
		asked, late = 0, true
		_, _, err, _ := v.meet(server, client, "orders.test")
		wantReason(t, err, observe.PeerRevoked)
	})
	t.Run("the server is no longer expected", func(t *testing.T) {
		s := newScene(t)
		v := newVenue(t)
		expected := "/orders"
		s.client.Expect = func(id spiffeid.ID) bool { return id.Path() == expected }
		server, client := NewServer(s.server), NewClient(s.client)
		v.want(server, client, false)
		expected = "/billing"
		_, _, _, err := v.meet(server, client, "orders.test")
		wantReason(t, err, observe.PeerUnexpectedID)
	})
}

// A ticket is good where it was made only, whatever another listener asks of its clients: mutual TLS least of all may come from a
// session without a certificate.
func TestTicketOfOneListenerIsNoGoodOnAnother(t *testing.T) {
	s := newScene(t)
	other := map[string]func(*ServerOptions){
		"the same":       func(*ServerOptions) {},
		"no mutual TLS":  func(o *ServerOptions) { o.Mutual = false },
		"requires PQ":    func(o *ServerOptions) { o.RequirePQ = true },
		"other protocol": func(o *ServerOptions) { o.ALPN = []string{"h2"} },
	}
	for from, makeFrom := range other {
		for to, makeTo := range other {
			t.Run(from+" to "+to, func(t *testing.T) {
				v := newVenue(t)
				one, two := s.server, s.server
				makeFrom(&one)
				makeTo(&two)
				client := NewClient(s.client)
				first := NewServer(one)
				v.want(first, client, false)
				v.want(first, client, true)
				server, _ := v.want(NewServer(two), client, false)
				if (server.Peer() == nil) == two.Mutual {
					t.Errorf("mutual %v, peer %v", two.Mutual, server.Peer())
				}
			})
		}
	}
}

func TestSessionIsOfferedToItsEndpointAndNameOnly(t *testing.T) {
	s := newScene(t)
	here, there := newVenue(t), newVenue(t)
	server, client := NewServer(s.server), NewClient(s.client)
	here.want(server, client, false)
	there.want(server, client, false) // the same server and name, dialled elsewhere
	here.want(server, client, true)
	if _, conn, _, err := here.meet(server, client, "billing.test"); err != nil || conn.Resumed() {
		t.Errorf("under another name: %v", err)
	}
}

// RFC 6066, Section 3: "the server MUST NOT accept the request to resume the session if the server_name extension contains a
// different name".
func TestServerResumesUnderTheSameNameOnly(t *testing.T) {
	s := newScene(t)
	v := newVenue(t)
	server := NewServer(s.server)
	sessions := tls.NewLRUClientSessionCache(1)
	for _, step := range []struct {
		name    string
		resumed bool
	}{{"a.test", false}, {"a.test", true}, {"b.test", false}, {"b.test", true}} {
		near, far := v.link()
		go func() {
			if conn, err := server.Handshake(t.Context(), near); err == nil {
				_, _ = io.WriteString(conn, "x")
			}
		}()
		config := &tls.Config{InsecureSkipVerify: true, ServerName: step.name, Certificates: []tls.Certificate{s.webLeaf}}
		config.ClientSessionCache = endpointSessions{all: sessions, key: "whatever the name"}
		client := tls.Client(far, config)
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if client.ConnectionState().DidResume != step.resumed {
			t.Fatalf("%s: resumed %v, want %v", step.name, !step.resumed, step.resumed)
		}
	}
}

// RFC 8446, Appendix E.5: 0-RTT data may be replayed, so there is none.
func TestTicketAllowsNoEarlyData(t *testing.T) {
	s := newScene(t)
	v := newVenue(t)
	server := NewServer(s.server)
	near, far := v.link()
	go func() {
		if conn, err := server.Handshake(t.Context(), near); err == nil {
			_, _ = io.WriteString(conn, "x")
		}
	}()
	kept := &keptSession{}
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, ServerName: "a", ClientSessionCache: kept, Certificates: []tls.Certificate{s.webLeaf}})
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, state, err := kept.last.ResumptionState()
	if err != nil || state == nil || state.EarlyData {
		t.Fatalf("session %+v, %v", state, err)
	}
}

type keptSession struct{ last *tls.ClientSessionState }

func (*keptSession) Get(string) (*tls.ClientSessionState, bool)      { return nil, false }
func (k *keptSession) Put(_ string, session *tls.ClientSessionState) { k.last = session }
