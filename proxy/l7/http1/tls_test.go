package http1

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

var _ l7.Stream = (*tls.Conn)(nil)

// cutIsNoEnd is what has to stand beneath TLS: crypto/tls takes the end of the connection between two records for close_notify.
type cutIsNoEnd struct{ net.Conn }

func (c cutIsNoEnd) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("cut: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

// tlsPair returns both ends of a TLS connection over a real socket, the handshake done.
func tlsPair(t *testing.T) (client, server *tls.Conn) {
	t.Helper()
	material := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(material.Close)
	roots := x509.NewCertPool()
	roots.AddCert(material.Certificate())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client = tls.Client(cutIsNoEnd{raw}, &tls.Config{RootCAs: roots, ServerName: "example.com"})
	server = tls.Server(cutIsNoEnd{accepted}, &tls.Config{Certificates: material.TLS.Certificates})
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(t.Context()) }()
	if err := errors.Join(client.HandshakeContext(t.Context()), <-shaken); err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func TestConnectionOverTLSSurvivesItsOwnDeadlines(t *testing.T) {
	client, server := tlsPair(t)
	done := make(chan observe.Reason, 1)
	options := ServerOptions{Handler: l7.HandlerFunc(echo), Scheme: "https"}
	go func() { done <- NewServer(options).NewConn(server).Serve(t.Context()) }()
	answer := make([]byte, 4096)
	for range 2 {
		_, _ = io.WriteString(client, head("GET https://a/ HTTP/1.1", "Host: a"))
		n, err := client.Read(answer)
		if err != nil || !strings.HasSuffix(string(answer[:n]), "GET a /") {
			t.Fatalf("%q, %v", answer[:n], err)
		}
		<-time.After(grace + 20*time.Millisecond) // a deadline passes in the middle of a record's wait
	}
	_ = client.CloseWrite()
	if reason := <-done; reason != observe.PeerClosed {
		t.Errorf("ended for %q", reason)
	}
}

// A close-delimited body is whole only if TLS ended with close_notify (RFC 8446, Section 6.1).
func TestTruncationUnderTLSIsNotAnEnd(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		near, far := tlsPair(t)
		go func() {
			_, _ = far.Read(make([]byte, 4096))
			_, _ = io.WriteString(far, head("HTTP/1.1 200 OK")+"half")
			if orderly {
				_ = far.Close()
				return
			}
			_ = far.NetConn().Close()
		}()
		_, body, err := roundTrip(t, NewClient(ClientOptions{}).NewConn(near), get("/"))
		if (err == nil) != orderly || body != "half" {
			t.Errorf("orderly %v: %q, %v", orderly, body, err)
		}
		if !orderly && l7.ReasonOf(err, "") != observe.UpstreamReset {
			t.Errorf("%v", err)
		}
	}
}

// Clients that end an unused connection without close_notify are ordinary.
func TestUnusedConnectionCutUnderTLSHasEndedInOrder(t *testing.T) {
	for name, begun := range map[string]string{"peer_closed": "", "io_error": "GET / HT"} {
		client, server := tlsPair(t)
		done := make(chan observe.Reason, 1)
		go func() {
			done <- NewServer(ServerOptions{Handler: l7.HandlerFunc(echo)}).NewConn(server).Serve(t.Context())
		}()
		answer := make([]byte, 4096)
		_, _ = io.WriteString(client, head("GET / HTTP/1.1", "Host: a"))
		if n, err := client.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), "GET a /") {
			t.Fatalf("%q, %v", answer[:n], err)
		}
		_, _ = io.WriteString(client, begun)
		_ = client.NetConn().Close()
		if reason := <-done; reason.String() != name {
			t.Errorf("after %q: ended for %q, want %q", begun, reason, name)
		}
	}
}

func TestAbortUnderTLSIsNotAnEnd(t *testing.T) {
	client, server := tlsPair(t)
	_, _ = io.WriteString(server, "half")
	_, _ = io.ReadFull(client, make([]byte, 4))
	_ = l7.Abort(server)
	if rest, err := io.ReadAll(client); err == nil {
		t.Errorf("client takes %q for the end", rest)
	}
}
