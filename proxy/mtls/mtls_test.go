package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// holder returns credentials that hold one SVID.
func holder(t testing.TB, ca *testkit.CA, certificate tls.Certificate) *source.Holder {
	t.Helper()
	h := &source.Holder{}
	h.Set(credentials(t, ca, certificate, 1))
	return h
}

func credentials(t testing.TB, ca *testkit.CA, certificate tls.Certificate, generation uint64) *source.X509 {
	t.Helper()
	id, err := spiffeid.FromURI(certificate.Leaf.URIs[0])
	if err != nil {
		t.Fatal(err)
	}
	return &source.X509{ID: id, Certificate: certificate, Roots: ca.Roots(), Generation: generation,
		NotBefore: certificate.Leaf.NotBefore, NotAfter: certificate.Leaf.NotAfter}
}

func leafOf(t testing.TB, ca *testkit.CA, path string, more ...testkit.LeafOption) tls.Certificate {
	t.Helper()
	return ca.Leaf(t, append([]testkit.LeafOption{testkit.WithURIs(ca.ID(t, path).String())}, more...)...)
}

func anybody(spiffeid.ID) bool { return true }

// link returns both ends of a loopback connection.
func link(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() { c, _ := l.Accept(); accepted <- c }()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	return server, client
}

// shake runs both sides of a handshake.
func shake(t testing.TB, s *Server, c *Client) (server, client *Conn, serverErr, clientErr error) {
	t.Helper()
	near, far := link(t)
	var both sync.WaitGroup
	both.Go(func() { server, serverErr = s.Handshake(t.Context(), near) })
	client, clientErr = c.Handshake(t.Context(), far, "orders.test")
	both.Wait()
	if client != nil { // the server's verdict comes with the first read
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	}
	t.Cleanup(func() {
		for _, conn := range []*Conn{server, client} {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
	return server, client, serverErr, clientErr
}

func wantReason(t *testing.T, err error, want observe.Reason) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason != want {
		t.Fatalf("error %v, want reason %q", err, want)
	}
}

func TestMutualHandshakeYieldsBothPeers(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	web, orders := leafOf(t, ca, "/web", testkit.WithTTL(10*time.Minute)), leafOf(t, ca, "/orders")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, orders), Mutual: true, ALPN: []string{"http/1.1"}, Gate: NewGate(1)})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, web), Mutual: true, ALPN: []string{"http/1.1"},
		Expect: func(id spiffeid.ID) bool { return id.Path() == "/orders" }})
	server, client, serverErr, clientErr := shake(t, s, c)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if got := server.Peer().ID().Path(); got != "/web" {
		t.Errorf("the server sees %q", got)
	}
	if got := client.Peer().ID().Path(); got != "/orders" {
		t.Errorf("the client sees %q", got)
	}
	if server.Version() != "1.3" || server.Group() != "X25519MLKEM768" || server.ALPN() != "http/1.1" || server.ServerName() != "orders.test" {
		t.Errorf("negotiated %q %q %q %q", server.Version(), server.Group(), server.ALPN(), server.ServerName())
	}
	if !server.NotAfter().Equal(web.Leaf.NotAfter) || !client.NotAfter().Equal(web.Leaf.NotAfter) {
		t.Errorf("ends %v and %v, want that of the shorter-lived SVID %v", server.NotAfter(), client.NotAfter(), web.Leaf.NotAfter)
	}
	if len(server.Peer().Chain()) != 3 || len(server.Peer().Hash()) != 64 || server.Peer().Serial() == "" || server.Peer().Issuer() == "" {
		t.Errorf("peer %+v", server.Peer())
	}
	subjects := server.Subjects()
	for _, want := range []revocation.Subject{
		{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/web"},
		{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/orders"}, // our own
		{Kind: revocation.Serial, Value: revocation.SerialString(web.Leaf.SerialNumber)},
		{Kind: revocation.Authority, Value: revocation.AuthorityString(ca.Root.SubjectKeyId)},
	} {
		if len(union([]revocation.Subject{want}, subjects)) != len(subjects) {
			t.Errorf("the connection is not found by %v", want)
		}
	}
	go func() { _, _ = io.WriteString(client, "ping"); _ = client.CloseWrite() }()
	if got, err := io.ReadAll(server); err != nil || string(got) != "ping" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestEachBadCertificateIsRefusedWithItsReason(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	good := holder(t, ca, leafOf(t, ca, "/good"))
	for _, bad := range ca.BadLeaves(t) {
		presents := &source.Holder{}
		presents.Set(&source.X509{ID: ca.ID(t, "/bad"), Certificate: bad.Certificate, Roots: ca.Roots(), Generation: 1})
		t.Run("client: "+bad.Name, func(t *testing.T) {
			s := NewServer(ServerOptions{Credentials: good, Mutual: true})
			c := NewClient(ClientOptions{Credentials: presents, Mutual: true, Expect: anybody})
			server, client, err, _ := shake(t, s, c)
			wantReason(t, err, bad.Reason)
			if server != nil {
				t.Fatal("a connection came of it")
			}
			if client != nil { // TLS 1.3: the client learns of it when it reads
				if _, err := client.Read(make([]byte, 1)); !IsAlert(err) {
					t.Errorf("the client read %v, want an alert", err)
				}
			}
		})
		t.Run("server: "+bad.Name, func(t *testing.T) {
			s := NewServer(ServerOptions{Credentials: presents, Mutual: true})
			c := NewClient(ClientOptions{Credentials: good, Mutual: true, Expect: anybody})
			_, client, _, err := shake(t, s, c)
			wantReason(t, err, bad.Reason)
			if client != nil {
				t.Fatal("a connection came of it")
			}
		})
	}
}

func TestClientWithoutCertificateIsRefusedByMutualOnly(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	own := holder(t, ca, leafOf(t, ca, "/orders"))
	c := NewClient(ClientOptions{Credentials: own, Expect: anybody}) // presents nothing
	_, _, err, _ := shake(t, NewServer(ServerOptions{Credentials: own, Mutual: true}), c)
	wantReason(t, err, observe.PeerNoCertificate)

	old := NewServer(ServerOptions{Credentials: own, Mutual: true, MinVersion: tls.VersionTLS12})
	near, far := link(t)
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
	}()
	_, err = old.Handshake(t.Context(), near)
	wantReason(t, err, observe.PeerNoCertificate)

	server, _, err, clientErr := shake(t, NewServer(ServerOptions{Credentials: own}), c)
	if err != nil || clientErr != nil {
		t.Fatal(err, clientErr)
	}
	if server.Peer() != nil || !server.Peer().ID().IsZero() {
		t.Error("a peer that presented nothing is somebody")
	}
}

func TestServerThatIsNotExpectedIsRefused(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/impostor")), Mutual: true})
	for name, expect := range map[string]func(spiffeid.ID) bool{
		"another":                   func(id spiffeid.ID) bool { return id.Path() == "/orders" },
		"nil expects nobody at all": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c := NewClient(ClientOptions{Credentials: holder(t, ca, leafOf(t, ca, "/web")), Mutual: true, Expect: expect})
			_, _, _, err := shake(t, s, c)
			wantReason(t, err, observe.PeerUnexpectedID)
		})
	}
}

func TestRevokedPeerIsRefused(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	web := leafOf(t, ca, "/web")
	index := revocation.NewIndex([]revocation.Revocation{
		{ID: "1", Kind: revocation.Serial, Value: revocation.SerialString(web.Leaf.SerialNumber)}})
	revoked := func() *revocation.Index { return index }
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Mutual: true, Revocations: revoked})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, web), Mutual: true, Expect: anybody})
	_, _, err, _ := shake(t, s, c)
	wantReason(t, err, observe.PeerRevoked)

	// One that arrives during the handshake is found by looking again.
	late := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Mutual: true})
	server, _, err, _ := shake(t, late, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Recheck(nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantReason(t, server.Recheck(index, time.Now()), observe.Revoked)
	own := revocation.NewIndex([]revocation.Revocation{{ID: "2", Kind: revocation.SPIFFEID, Value: "spiffe://example.org/orders"}})
	wantReason(t, server.Recheck(own, time.Now()), observe.Revoked)
}

func TestRotationIsUsedByTheNextHandshake(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	h := holder(t, ca, leafOf(t, ca, "/first"))
	s := NewServer(ServerOptions{Credentials: h})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, leafOf(t, ca, "/web")), Expect: anybody})
	for _, want := range []string{"/first", "/second"} {
		_, client, _, err := shake(t, s, c)
		if err != nil {
			t.Fatal(err)
		}
		if got := client.Peer().ID().Path(); got != want {
			t.Errorf("the server presented %q, want %q", got, want)
		}
		h.Set(credentials(t, ca, leafOf(t, ca, "/second"), 2))
	}
	h.Set(nil)
	_, _, err, _ := shake(t, s, c)
	wantReason(t, err, observe.NoCredential)
}

func TestVersionsBelowTheMinimumAreRefused(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders"))})
	near, far := link(t)
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
	}()
	_, err := s.Handshake(t.Context(), near)
	wantReason(t, err, observe.HandshakeFailed)
}

func TestSilentClientsTimeOutAndKeepNobodyOut(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	gate := NewGate(1)
	slow := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Mutual: true, Gate: gate, Timeout: 300 * time.Millisecond})
	var silent sync.WaitGroup
	for range 8 {
		near, _ := link(t)
		silent.Go(func() {
			_, err := slow.Handshake(t.Context(), near)
			wantReason(t, err, observe.HandshakeTimeout)
		})
	}
	quick := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Mutual: true, Gate: gate})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, leafOf(t, ca, "/web")), Mutual: true, Expect: anybody})
	if _, _, serverErr, clientErr := shake(t, quick, c); serverErr != nil || clientErr != nil {
		t.Errorf("a good client among silent ones: %v, %v", serverErr, clientErr)
	}
	silent.Wait()
	if len(gate.places) != 0 {
		t.Errorf("%d places are still taken", len(gate.places))
	}
}

func TestAbortIsNoOrderlyEnd(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Gate: NewGate(4)})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, leafOf(t, ca, "/web")), Expect: anybody})
	server, client, _, err := shake(t, s, c)
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Abort()
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("the client read %v, want an error that is no end", err)
	}
}

// RFC 8446, Section 6.1: each party MUST send a close_notify alert before closing its write side. What ends without it may have
// been cut by anybody on the way.
func TestOnlyCloseNotifyIsAnEnd(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders")), Gate: NewGate(4)})
	c := NewClient(ClientOptions{Credentials: holder(t, ca, leafOf(t, ca, "/web")), Expect: anybody})
	for _, orderly := range []bool{true, false} {
		for _, fromServer := range []bool{true, false} {
			reader, writer, serverErr, clientErr := shake(t, s, c)
			if serverErr != nil || clientErr != nil {
				t.Fatal(serverErr, clientErr)
			}
			if fromServer {
				reader, writer = writer, reader
			}
			_, _ = io.WriteString(writer, "half")
			if orderly {
				_ = writer.CloseWrite()
			} else if err := writer.NetConn().(*transport).Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = reader.SetReadDeadline(time.Now().Add(5 * time.Second))
			got, err := io.ReadAll(reader)
			if string(got) != "half" || (err == nil) != orderly || !orderly && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("orderly %v, from the server %v: %q, %v", orderly, fromServer, got, err)
			}
		}
	}
}

func TestTextOfAPeerCannotForgeALogLine(t *testing.T) {
	forged := &Error{Reason: observe.HandshakeFailed, Err: errors.New("bad name \"x\nlevel=INFO msg=granted\x1b[2J" + strings.Repeat("y", 5000))}
	text := forged.Error()
	if strings.ContainsAny(text, "\n\x1b") || len(text) > 1200 {
		t.Fatalf("%q", text)
	}
}

func TestCancelledContextEndsAHandshake(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := NewServer(ServerOptions{Credentials: holder(t, ca, leafOf(t, ca, "/orders"))})
	near, _ := link(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Handshake(ctx, near)
	wantReason(t, err, observe.HandshakeFailed)
}
