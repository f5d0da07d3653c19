package upstream

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// secure returns a service that speaks mutual TLS as path, and the client side as /web.
func secure(t testing.TB, ca *testkit.CA, path string, scripts ...script) (*service, *source.Holder, *mtls.Client) {
	t.Helper()
	return secureALPN(t, ca, path, nil, scripts...)
}

// secureALPN is secure with a service that chooses among protocols, and a client that offers them.
func secureALPN(t testing.TB, ca *testkit.CA, path string, protocols []string, scripts ...script) (*service, *source.Holder, *mtls.Client) {
	t.Helper()
	leaf := func(path string, generation uint64) *source.X509 {
		certificate := ca.Leaf(t, testkit.WithURIs(ca.ID(t, path).String()))
		return &source.X509{ID: ca.ID(t, path), Certificate: certificate, Roots: ca.Roots(), Generation: generation}
	}
	s := serveOn(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{leaf(path, 1).Certificate}, ClientAuth: tls.RequireAnyClientCert, NextProtos: protocols})
	}, scripts...)
	own := &source.Holder{}
	own.Set(leaf("/web", 1))
	client := mtls.NewClient(mtls.ClientOptions{Credentials: own, Mutual: true, ALPN: protocols,
		Expect: func(id spiffeid.ID) bool { return id.Path() == "/orders" }})
	return s, own, client
}

func TestRenewedCredentialRetiresPooledConnections(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s, own, client := secure(t, ca, "/orders", answers("x"))
	c := cluster(t, func(o *Options) { o.TLS = client }, s.address())
	ask := func(want int32) {
		t.Helper()
		if _, err := c.ask(t, get("POST")); err != nil {
			t.Fatal(err)
		}
		if n := s.accepted.Load(); n != want {
			t.Fatalf("%d connections, want %d", n, want)
		}
	}
	ask(1)
	ask(1)
	next := *own.Get()
	next.Generation = 2
	own.Set(&next)
	ask(2)
	ask(2)
}

func TestConnectionRetiresAtHalfOfWhatItsCredentialsHaveLeft(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s, own, client := secure(t, ca, "/orders", answers("x"))
	short := *own.Get()
	short.Certificate = ca.Leaf(t, testkit.WithURIs(short.ID.String()), testkit.WithTTL(3*time.Second))
	own.Set(&short)
	c := cluster(t, func(o *Options) { o.TLS = client }, s.address())
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	conn := c.endpoints[0].pop()
	defer conn.close(observe.Drained)
	if left := time.Until(conn.retireAt); left > 1600*time.Millisecond || left <= 0 {
		t.Fatalf("the connection may be used for %v more, want about half of 3 s", left)
	}
}

func TestUnexpectedServerIsATLSFailure(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s, _, client := secure(t, ca, "/impostor", answers("x"))
	c := cluster(t, func(o *Options) { o.TLS = client }, s.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamTLS)
	if reason, ok := handshakeReason(err); !ok || reason != observe.PeerUnexpectedID {
		t.Fatalf("the cause is %v", err)
	}
}

func TestRevocationClosesDialledConnections(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	started := make(chan struct{})
	s, _, client := secure(t, ca, "/orders", func(_ net.Conn, r *bufio.Reader) {
		if _, err := readHead(r); err == nil {
			close(started)
			_, _ = r.ReadByte()
		}
	})
	c := cluster(t, func(o *Options) { o.TLS = client }, s.address())
	failed := make(chan error, 1)
	go func() { _, err := c.ask(t, get("GET")); failed <- err }()
	<-started
	subject := revocation.Subject{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/orders"}
	if n := c.registry.CloseSubjects([]revocation.Subject{subject}, observe.Revoked); n != 1 {
		t.Fatalf("closed %d", n)
	}
	select {
	case err := <-failed:
		if l7.ReasonOf(err, "") != observe.Revoked {
			t.Fatalf("%v", err)
		}
	case <-time.After(time.Second):
		t.Fatal("the request outlives the revocation by a second")
	}
}

func TestRefusalOfOurCertificateIsATLSFailure(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	s := serveOn(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{
			Certificates:     []tls.Certificate{ca.Leaf(t, testkit.WithURIs(ca.ID(t, "/orders").String()))},
			ClientAuth:       tls.RequireAnyClientCert,
			VerifyConnection: func(tls.ConnectionState) error { return errors.New("unwanted") },
		})
	}, answers("x"))
	_, _, client := secure(t, ca, "/unused", answers("x"))
	c := cluster(t, func(o *Options) { o.TLS = client }, s.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamTLS)
}
