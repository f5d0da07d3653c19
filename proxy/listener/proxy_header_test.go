package listener

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/proxyproto"
)

const header1 = "PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n"

// accepted returns both ends of a connection to a socket with the policy.
func accepted(t *testing.T, at Address, policy *ProxyProtocol) (near *Conn, far net.Conn) {
	t.Helper()
	s, err := testSet().Acquire(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	s.SetProxyProtocol(policy)
	conns, stop := serve(t, s, Events{})
	far = dial(t, s.Bound())
	near = receive(t, conns)
	stop()
	_ = s.Release()
	return near, far
}

func trusting(prefix string, required bool) *ProxyProtocol {
	return &ProxyProtocol{Trusted: []netip.Prefix{netip.MustParsePrefix(prefix)}, Required: required}
}

// sendAll sends and ends the direction.
func sendAll(far net.Conn, pieces ...string) {
	for _, piece := range pieces {
		_, _ = io.WriteString(far, piece)
	}
	_ = far.(interface{ CloseWrite() error }).CloseWrite()
}

func wantReason(t *testing.T, err error, want observe.Reason) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != want {
		t.Fatalf("%v, want %s", err, want)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func TestHeaderOfATrustedProxyGivesTheAddresses(t *testing.T) {
	binary := string(proxyproto.AppendHeader(nil, proxyproto.Header{Version: 2, Source: netip.MustParseAddrPort("192.0.2.1:4711"),
		Destination: netip.MustParseAddrPort("198.51.100.7:443"), TLVs: []proxyproto.TLV{{Type: proxyproto.TypeAuthority, Value: []byte("a.example")}}}))
	for _, required := range []bool{true, false} {
		for _, header := range []string{header1, binary} {
			near, far := accepted(t, loopback(), trusting("127.0.0.0/8", required))
			go sendAll(far, header[:7], header[7:]+"first bytes")
			if err := near.ReadProxyHeader(5 * time.Second); err != nil {
				t.Fatal(err)
			}
			if near.Source().String() != "192.0.2.1:4711" || near.Local().String() != "198.51.100.7:443" {
				t.Errorf("source %v, local %v", near.Source(), near.Local())
			}
			if near.Hop().String() != far.LocalAddr().String() {
				t.Errorf("hop %v, want %v", near.Hop(), far.LocalAddr())
			}
			if header == binary && (len(near.TLVs()) != 1 || string(near.TLVs()[0].Value) != "a.example") {
				t.Errorf("TLVs %v", near.TLVs())
			}
			// Nothing was read too much: what follows is on the socket, and can be spliced from there.
			if _, plain := near.Socket().(*net.TCPConn); !plain {
				t.Errorf("socket is a %T", near.Socket())
			}
			wantRead(t, near.Socket(), "first bytes")
		}
	}
}

// "The receiver must accept this connection as valid and must use the real connection endpoints."
func TestLocalAndUnknownHeadersLeaveTheAddressesOfTheSocket(t *testing.T) {
	for _, header := range []string{"PROXY UNKNOWN\r\n", string(proxyproto.AppendHeader(nil, proxyproto.Header{Version: 2, Local: true}))} {
		near, far := accepted(t, loopback(), trusting("127.0.0.1/32", true))
		go sendAll(far, header+"x")
		if err := near.ReadProxyHeader(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		if near.Source() != near.Hop() || near.Local().String() != far.RemoteAddr().String() {
			t.Errorf("source %v, local %v", near.Source(), near.Local())
		}
		wantRead(t, near, "x")
	}
}

func TestPeerOfAUnixSocketIsTrusted(t *testing.T) {
	near, far := accepted(t, Unix(filepath.Join(t.TempDir(), "s")), &ProxyProtocol{Required: true})
	go sendAll(far, header1)
	if err := near.ReadProxyHeader(5 * time.Second); err != nil || near.Source().String() != "192.0.2.1:4711" || near.Hop().IsValid() {
		t.Fatalf("source %v, hop %v, %v", near.Source(), near.Hop(), err)
	}
}

// "The receiver MUST NOT start processing the connection before it receives a complete and valid PROXY protocol header."
func TestRequiredHeaderIsRequired(t *testing.T) {
	for name, sent := range map[string][]string{"none": {"GET / HTTP/1.1\r\n\r\n"}, "a broken one": {"PROXY TCP4 192.0.2.1\r\n"}, "half of one": {header1[:20]}} {
		t.Run(name, func(t *testing.T) {
			near, far := accepted(t, loopback(), trusting("127.0.0.1/32", true))
			go sendAll(far, sent...)
			wantReason(t, near.ReadProxyHeader(5*time.Second), observe.ProxyProtocol)
		})
	}
	t.Run("nothing in time", func(t *testing.T) {
		near, _ := accepted(t, loopback(), trusting("127.0.0.1/32", true))
		wantReason(t, near.ReadProxyHeader(10*time.Millisecond), observe.ProxyProtocol)
	})
	t.Run("a check that only connects", func(t *testing.T) {
		near, far := accepted(t, loopback(), trusting("127.0.0.1/32", true))
		_ = far.Close()
		wantReason(t, near.ReadProxyHeader(5*time.Second), observe.PeerClosed)
	})
	t.Run("of a source that is not trusted", func(t *testing.T) {
		near, far := accepted(t, loopback(), trusting("192.0.2.0/24", true))
		go sendAll(far, header1)
		wantReason(t, near.ReadProxyHeader(5*time.Second), observe.ProxyProtocol)
		if near.Source() != near.Hop() {
			t.Errorf("source %v", near.Source())
		}
	})
}

func TestTrustedProxyMayComeWithoutAHeaderThatIsNotRequired(t *testing.T) {
	for name, sent := range map[string][]string{"other bytes": {"GET / HTTP/1.1\r\n"}, "few bytes": {"hi"}, "in pieces that begin alike": {"PRO", "PFIND / HTTP/1.1"}, "a beginning and the end": {"PRO"}} {
		t.Run(name, func(t *testing.T) {
			near, far := accepted(t, loopback(), trusting("127.0.0.1/32", false))
			all := ""
			for _, piece := range sent {
				all += piece
			}
			go sendAll(far, sent...)
			err := near.ReadProxyHeader(5 * time.Second)
			if name == "a beginning and the end" {
				wantReason(t, err, observe.ProxyProtocol)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if near.Source() != near.Hop() {
				t.Errorf("source %v", near.Source())
			}
			wantRead(t, near.Socket(), all) // reads first what was read ahead
		})
	}
	t.Run("silence", func(t *testing.T) {
		near, far := accepted(t, loopback(), trusting("127.0.0.1/32", false))
		if err := near.ReadProxyHeader(10 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		go sendAll(far, "later")
		wantRead(t, near, "later")
	})
}

// "The receiver SHOULD ensure proper access filtering so that only trusted proxies are allowed to use this protocol."
func TestHeaderOfASourceThatIsNotTrustedIsRefusedAndNeverBelieved(t *testing.T) {
	binary := string(proxyproto.AppendHeader(nil, proxyproto.Header{Version: 2, Local: true}))
	for _, pieces := range [][]string{{header1}, {"P", "ROXY", " ", "TCP4"}, {binary}, {binary[:1], binary[1:12]}} {
		near, far := accepted(t, loopback(), trusting("192.0.2.0/24", false))
		if err := near.ReadProxyHeader(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		go sendAll(far, pieces...)
		got, err := io.ReadAll(near.Socket()) // as a splice would
		wantReason(t, err, observe.ProxyProtocol)
		if len(got) != 0 || near.Source() != near.Hop() {
			t.Errorf("%q went through, source %v", got, near.Source())
		}
	}
	for _, sent := range []string{"", "P", "PROPFIND / HTTP/1.1", "\x16\x03\x01 and a long hello of TLS", "\r\nGET"} {
		near, far := accepted(t, loopback(), trusting("192.0.2.0/24", false))
		if err := near.ReadProxyHeader(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		go sendAll(far, sent)
		wantRead(t, near, sent)
	}
}

func TestWithoutPolicyAHeaderIsBytesLikeAnyOther(t *testing.T) {
	near, far := accepted(t, loopback(), nil)
	if err := near.ReadProxyHeader(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	go sendAll(far, header1)
	wantRead(t, near, header1)
}
