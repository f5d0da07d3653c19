package http2

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func extended(protocol string, more ...string) []string {
	return append([]string{":method: CONNECT", ":protocol: " + protocol, ":scheme: http", ":authority: a.example", ":path: /chat?x"}, more...)
}

// tunnelEcho answers an upgrade and sends back what comes, in upper case.
func tunnelEcho(t *testing.T) l7.Handler {
	return l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		req := ex.Request()
		key, _ := req.Header.Get(fieldWebSocketKey)
		version, _ := req.Header.Get(fieldWebSocketVersion)
		if req.Method != "GET" || req.Upgrade != "websocket" || req.Path != "/chat" || req.RawQuery != "x" || len(key) != 24 || version != "13" || req.Body != nil {
			t.Errorf("%+v, key %q, version %q", req, key, version)
		}
		resp := &l7.Response{Status: 101, Upgrade: "websocket"}
		resp.Header.Add(fieldWebSocketAccept, webSocketAccept(key))
		resp.Header.Add("sec-websocket-protocol", "chat")
		s, err := ex.Tunnel(resp)
		if err != nil {
			t.Error(err)
			return
		}
		buf := make([]byte, 100)
		for {
			n, err := s.Read(buf)
			if n > 0 {
				_, _ = io.WriteString(s, strings.ToUpper(string(buf[:n])))
			}
			if errors.Is(err, io.EOF) {
				_, _ = io.WriteString(s, "BYE")
				_ = s.CloseWrite()
			}
			if err != nil {
				_ = s.Close()
				return
			}
		}
	})
}

// RFC 8441, Section 5.
func TestServerTunnelsAWebSocket(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: tunnelEcho(t)})
	p := s.client()
	p.headers(1, false, extended("websocket", "sec-websocket-version: 13")...)
	head := p.wantFrame(foreign.FrameHeaders).(*foreign.MetaHeadersFrame)
	for _, f := range head.Fields {
		switch f.Name {
		case ":status":
			if f.Value != "200" {
				t.Errorf("status %s", f.Value)
			}
		case "sec-websocket-protocol", "date":
		default:
			t.Errorf("field %v", f)
		}
	}
	p.data(1, false, "one")
	p.wantData("ONE", false)
	p.data(1, true, "two")
	p.wantData("TWOBYE", true)
	p.ping()
}

// wantData reads content of stream 1 until it is that.
func (p *peer) wantData(want string, end bool) {
	p.t.Helper()
	got, ended := "", false
	for got != want || ended != end {
		f := p.wantFrame(foreign.FrameData).(*foreign.DataFrame)
		got += string(f.Data())
		ended = f.StreamEnded()
		if f.StreamID != 1 || !strings.HasPrefix(want, got) {
			p.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestServerAnnouncesExtendedConnect(t *testing.T) {
	p := echoServer(t).dial()
	p.write(preface)
	p.do(p.framer.WriteSettings())
	f := p.wantFrame(foreign.FrameSettings).(*foreign.SettingsFrame)
	for id, want := range map[foreign.SettingID]uint32{
		foreign.SettingEnableConnectProtocol: 1, foreign.SettingMaxConcurrentStreams: 100, foreign.SettingInitialWindowSize: 256 << 10, foreign.SettingMaxHeaderListSize: 64 << 10,
	} {
		if v, _ := f.Value(id); v != want {
			t.Errorf("%v is %d", id, v)
		}
	}
	_ = p.conn.Close()
}

func TestServerRefusesUpgradesLikeOtherRequests(t *testing.T) {
	upgrade := ""
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		upgrade = ex.Request().Upgrade
		_ = ex.WriteResponse(stringResponse(403, "no"))
	})})
	p := s.client()
	p.headers(1, false, extended("Connect-UDP")...)
	p.want0(1, "403", "no")
	if upgrade != "connect-udp" {
		t.Errorf("upgrade %q", upgrade)
	}
}

func TestServerOpensNoTunnelWithAnOrdinaryResponse(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		if err := ex.WriteResponse(stringResponse(200, "not a tunnel")); l7.ReasonOf(err, "") != observe.UpgradeRefused {
			t.Errorf("%v", err)
		}
	})})
	p := s.client()
	p.headers(1, false, extended("websocket")...)
	p.want0(1, "502", "")
}

func TestTunnelEndsWithItsClient(t *testing.T) {
	for name, end := range map[string]func(p *peer){
		"reset":      func(p *peer) { p.do(p.framer.WriteRSTStream(1, foreign.ErrCodeCancel)) },
		"connection": func(p *peer) { _ = p.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				tunnel, err := ex.Tunnel(&l7.Response{Status: 101})
				if err != nil {
					t.Error(err)
					return
				}
				_, err = tunnel.Read(make([]byte, 10))
				failed <- err
			})})
			p := s.client()
			p.headers(1, false, extended("websocket")...)
			p.wantFrame(foreign.FrameHeaders)
			end(p)
			if err := <-failed; err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the tunnel ended with %v", err)
			}
		})
	}
}

func TestTunnelReadsWhatCameBeforeAReset(t *testing.T) {
	check := func(t *testing.T, tunnel l7.Stream, reason observe.Reason) {
		t.Helper()
		got, err := io.ReadAll(tunnel)
		if string(got) != "last words" || l7.ReasonOf(err, "") != reason {
			t.Errorf("%q, %v", got, err)
		}
	}
	t.Run("of a client", func(t *testing.T) {
		done := make(chan struct{})
		s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
			defer close(done)
			tunnel, err := ex.Tunnel(&l7.Response{Status: 101})
			if err != nil {
				t.Error(err)
				return
			}
			<-ctx.Done()
			check(t, tunnel, observe.IOError)
		})})
		p := s.client()
		p.headers(1, false, extended("websocket")...)
		p.wantFrame(foreign.FrameHeaders)
		p.data(1, false, "last words")
		p.do(p.framer.WriteRSTStream(1, foreign.ErrCodeCancel))
		<-done
	})
	t.Run("of an upstream", func(t *testing.T) {
		u := dialUpstream(t, ClientOptions{}, foreign.Setting{ID: foreign.SettingEnableConnectProtocol, Val: 1})
		done := u.start(t.Context(), upgradeRequest())
		u.head()
		u.headers(1, false, ":status: 200")
		tunnel, err := l7.Tunnel(u.wait(done).resp)
		if err != nil {
			t.Fatal(err)
		}
		u.data(1, false, "last words")
		u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeInternal))
		u.ping()
		check(t, tunnel, observe.UpstreamReset)
		_ = tunnel.Close()
		if u.conn.Streams() > 0 {
			t.Error("the place is not free")
		}
	})
}

func TestTunnelHonoursItsDeadlines(t *testing.T) {
	done := make(chan struct{})
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		defer close(done)
		tunnel, err := ex.Tunnel(&l7.Response{Status: 101})
		if err != nil {
			t.Error(err)
			return
		}
		buf := make([]byte, 10)
		_ = tunnel.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := tunnel.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		_ = tunnel.SetReadDeadline(time.Time{})
		time.AfterFunc(20*time.Millisecond, func() { _ = tunnel.SetReadDeadline(longAgo) })
		if _, err := tunnel.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read with a deadline that is set meanwhile: %v", err)
		}
		_ = tunnel.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := io.WriteString(tunnel, fill(1000)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
		_ = l7.Abort(tunnel)
	})})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0})
	p.headers(1, false, extended("websocket")...)
	p.wantFrame(foreign.FrameHeaders)
	p.wantReset(1, foreign.ErrCodeCancel)
	<-done
}

func TestTunnelGoesThroughBothEngines(t *testing.T) {
	up := startServer(t, ServerOptions{Handler: tunnelEcho(t)})
	s := startServer(t, ServerOptions{Handler: newProxy(t, up.address, ClientOptions{})})
	p := s.client()
	p.headers(1, false, extended("websocket", "sec-websocket-version: 13")...)
	p.wantFrame(foreign.FrameHeaders)
	p.data(1, false, "hello")
	p.wantData("HELLO", false)
	p.data(1, true, "")
	p.wantData("BYE", true)
	p.ping()
}

func upgradeRequest() *l7.Request {
	req := get("/chat")
	req.Upgrade = "websocket"
	req.Header.Add(fieldWebSocketKey, "dGhlIHNhbXBsZSBub25jZQ==")
	req.Header.Add(fieldWebSocketVersion, "13")
	return req
}

func TestClientUpgradesByExtendedConnect(t *testing.T) {
	u := rawUpstream(t, ClientOptions{})
	done := u.start(t.Context(), upgradeRequest()) // waits for the settings
	u.handshake(foreign.Setting{ID: foreign.SettingEnableConnectProtocol, Val: 1})
	head := u.head()
	if head.PseudoValue("method") != "CONNECT" || head.PseudoValue("protocol") != "websocket" || head.StreamEnded() {
		t.Errorf("%v", head)
	}
	for _, f := range head.RegularFields() {
		if f.Name != fieldWebSocketVersion {
			t.Errorf("field %v", f)
		}
	}
	u.headers(1, false, ":status: 200")
	o := u.wait(done)
	// The key and its answer are those of RFC 6455, Section 1.3.
	if accept, _ := o.resp.Header.Get(fieldWebSocketAccept); o.resp.Status != 101 || o.resp.Upgrade != "websocket" || accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("%+v, accept %q", o.resp, accept)
	}
	tunnel, err := l7.Tunnel(o.resp)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(tunnel, "up")
	u.wantData("up", false)
	u.data(1, true, "down")
	got, err := io.ReadAll(tunnel)
	if string(got) != "down" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = tunnel.CloseWrite()
	u.wantData("", true)
	_ = tunnel.Close()
	if u.conn.Streams() > 0 {
		t.Error("the place is not free")
	}
	u.ping()
}

func TestClientSaysWhenThereIsNoExtendedConnect(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	err := u.wantFailure(u.start(t.Context(), upgradeRequest()), observe.UpgradeRefused, false, false)
	if err.Status != 502 || err.Side != l7.Upstream {
		t.Errorf("%+v", err)
	}
}

func TestClientReturnsTheRefusalOfAnUpgrade(t *testing.T) {
	u := dialUpstream(t, ClientOptions{}, foreign.Setting{ID: foreign.SettingEnableConnectProtocol, Val: 1})
	done := u.start(t.Context(), upgradeRequest())
	u.head()
	u.headers(1, false, ":status: 403")
	u.data(1, true, "no")
	o := u.wait(done)
	if o.resp.Status != 403 || read(t, o.resp) != "no" {
		t.Errorf("%+v", o.resp)
	}
	if _, err := l7.Tunnel(o.resp); err == nil {
		t.Error("a tunnel behind a refusal")
	}
	_ = o.resp.Body.Close()
	u.wantReset(1, foreign.ErrCodeCancel)
}
