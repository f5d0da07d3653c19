package mtls

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
)

func TestHybridKeyExchangeIsTheDefault(t *testing.T) {
	s := newScene(t)
	server, client := newVenue(t).want(NewServer(s.server), NewClient(s.client), false)
	if server.Group() != "X25519MLKEM768" || client.Group() != "X25519MLKEM768" {
		t.Errorf("groups %q and %q", server.Group(), client.Group())
	}
}

func TestRequiredHybridIsKeptOnBothSides(t *testing.T) {
	s := newScene(t)
	s.server.RequirePQ, s.client.RequirePQ = true, true
	v := newVenue(t)
	server, client := NewServer(s.server), NewClient(s.client)
	v.want(server, client, false)
	if conn, _ := v.want(server, client, true); conn.Group() != "X25519MLKEM768" {
		t.Errorf("a resumed session has the group %q", conn.Group())
	}
	if hello := clientGroups(t, NewClient(s.client)); len(hello.groups) != len(hybridGroups) || !hello.offersHybrid() {
		t.Errorf("the client offers the groups %v", hello.groups)
	}
}

// clientGroups is what a client offers.
func clientGroups(t *testing.T, c *Client) *clientHello {
	t.Helper()
	near, far := newVenue(t).link()
	seen := make(chan *clientHello, 1)
	go func() {
		tap := &transport{Conn: near, hello: &helloTap{}}
		buf := make([]byte, 4096)
		for tap.hello.seen == nil {
			if _, err := tap.Read(buf); err != nil {
				break
			}
		}
		seen <- tap.hello.seen
		_ = near.Close()
	}()
	_, _ = c.Handshake(t.Context(), far, "orders.test")
	hello := <-seen
	if hello == nil {
		t.Fatal("no ClientHello")
	}
	return hello
}

func TestClientWithoutHybridIsRefused(t *testing.T) {
	s := newScene(t)
	s.server.RequirePQ = true
	for name, config := range map[string]*tls.Config{
		"TLS 1.3 with X25519": {CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}},
		"TLS 1.2":             {MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := newVenue(t).link()
			config.InsecureSkipVerify, config.Certificates = true, []tls.Certificate{s.webLeaf}
			go func() { _ = tls.Client(far, config).HandshakeContext(t.Context()) }()
			_, err := NewServer(s.server).Handshake(t.Context(), near)
			wantReason(t, err, observe.PeerNoPQ)
			if !strings.Contains(err.Error(), "the client offers no post-quantum hybrid") {
				t.Error(err)
			}
		})
	}
	t.Run("another failure of a client that has one", func(t *testing.T) {
		_, _, err, _ := newVenue(t).meet(NewServer(s.server), NewClient(ClientOptions{Credentials: s.web, Expect: anybody}), "orders.test")
		wantReason(t, err, observe.PeerNoCertificate)
	})
}

func TestServerWithoutHybridIsRefused(t *testing.T) {
	s := newScene(t)
	s.client.RequirePQ = true
	for name, config := range map[string]*tls.Config{
		"TLS 1.3 with X25519": {CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}},
		"TLS 1.2":             {MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := newVenue(t).link()
			config.Certificates = []tls.Certificate{s.orders.Get().Certificate}
			go func() { _ = tls.Server(near, config).HandshakeContext(t.Context()) }()
			_, err := NewClient(s.client).Handshake(t.Context(), far, "orders.test")
			wantReason(t, err, observe.PeerNoPQ)
			if !strings.Contains(err.Error(), "the server takes no post-quantum hybrid") {
				t.Error(err)
			}
		})
	}
	t.Run("a server that is not expected", func(t *testing.T) {
		s.client.Expect = nil
		_, _, _, err := newVenue(t).meet(NewServer(s.server), NewClient(s.client), "orders.test")
		wantReason(t, err, observe.PeerUnexpectedID)
	})
}
