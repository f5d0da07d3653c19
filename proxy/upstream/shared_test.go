package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// h2service is a foreign HTTP/2 server.
type h2service struct {
	t        testing.TB
	address  Address
	streams  int
	wrap     func(net.Listener) net.Listener
	hold     chan struct{}
	accepted atomic.Int32
	under    atomic.Int32 // requests under way
	most     atomic.Int32 // at once
	server   *http.Server
	tasks    sync.WaitGroup
}

// serveH2 serves HTTP/2 over the listener that wrap makes, with so many requests at once on a connection. Each request waits for
// hold, if it is there.
func serveH2(t testing.TB, streams int, hold chan struct{}, wrap func(net.Listener) net.Listener) *h2service {
	t.Helper()
	s := &h2service{t: t, address: Address{"tcp", "127.0.0.1:0"}, streams: streams, hold: hold, wrap: wrap}
	s.begin()
	t.Cleanup(func() { _ = s.server.Close(); s.tasks.Wait() })
	return s
}

// begin starts a server on the address.
func (s *h2service) begin() {
	s.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", s.address.Target)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address.Target = l.Addr().String()
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: http.HandlerFunc(s.answer), Protocols: protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: s.streams},
		ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.accepted.Add(1)
			}
		}}
	if s.wrap != nil {
		l = s.wrap(l)
	}
	s.server = server
	s.tasks.Go(func() { _ = server.Serve(l) })
}

// again has another server take over: the first announces its end on all connections and answers what it has.
func (s *h2service) again() {
	old := s.server
	gone := make(chan struct{})
	old.RegisterOnShutdown(func() { close(gone) }) // its listener is closed by then
	s.tasks.Go(func() {
		if err := old.Shutdown(s.t.Context()); err != nil {
			_ = old.Close()
		}
	})
	<-gone
	s.begin()
}

func (s *h2service) answer(w http.ResponseWriter, r *http.Request) {
	n := s.under.Add(1)
	defer s.under.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-r.Context().Done():
			return
		}
	}
	_, _ = io.WriteString(w, r.Proto)
}

func h2c(change func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Protocol = HTTP2
		if change != nil {
			change(o)
		}
	}
}

// asks sends n requests at once and returns a function that waits for them and wants them all answered.
func (b bench) asks(t *testing.T, n int, req func() *l7.Request) (wait func()) {
	t.Helper()
	var requests sync.WaitGroup
	for range n {
		requests.Go(func() {
			if got, err := b.ask(t, req()); err != nil || got != "HTTP/2.0" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	return requests.Wait
}

func post() *l7.Request { return get("POST") }

// reaches waits until the count is there.
func reaches(t *testing.T, what string, count *atomic.Int32, want int32) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for count.Load() != want {
		if time.Now().After(deadline) {
			t.Fatalf("%d %s, want %d", count.Load(), what, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRequestsShareAnHTTP2Connection(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(nil), s.address)
	wait := c.asks(t, 100, post)
	reaches(t, "requests under way", &s.under, 100)
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections for 100 requests", n)
	}
	if n := c.endpoints[0].active.Load(); n != 100 {
		t.Errorf("the balance counts %d requests", n)
	}
	if is := c.Status()[0]; is.UnderWay != 100 || is.Connections != 1 {
		t.Errorf("status %+v", is)
	}
	close(hold)
	wait()
	if n := c.endpoints[0].active.Load(); n != 0 {
		t.Errorf("%d requests are counted as under way", n)
	}
}

func TestASecondConnectionIsOpenedWhenTheFirstIsFull(t *testing.T) {
	for name, test := range map[string]struct {
		server int
		ours   int
	}{
		"by our limit":       {250, 10},
		"by the server's":    {10, 100},
		"both let ten alone": {10, 10},
	} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			s := serveH2(t, test.server, hold, nil)
			c := cluster(t, h2c(func(o *Options) { o.MaxStreams = test.ours }), s.address)
			first := c.asks(t, 1, post) // the server's limit is known then
			reaches(t, "requests under way", &s.under, 1)
			hold <- struct{}{}
			first()
			wait := c.asks(t, 25, post)
			reaches(t, "requests under way", &s.under, 25)
			if n := s.accepted.Load(); n != 3 {
				t.Errorf("%d connections for 25 requests, 10 each", n)
			}
			close(hold)
			wait()
		})
	}
}

func TestRequestsWaitForAPlaceOnAFullConnection(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(func(o *Options) { o.MaxStreams, o.MaxConnections = 5, 1 }), s.address)
	wait := c.asks(t, 20, post)
	reaches(t, "requests under way", &s.under, 5)
	c.waits(t, 15)
	close(hold)
	wait()
	if n := s.most.Load(); n != 5 || s.accepted.Load() != 1 {
		t.Errorf("%d requests at once on %d connections", n, s.accepted.Load())
	}
}

func TestLoadGathersOnFewConnections(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(func(o *Options) { o.MaxStreams, o.IdleTimeout = 10, 100*time.Millisecond }), s.address)
	wait := c.asks(t, 20, post)
	reaches(t, "requests under way", &s.under, 20)
	close(hold)
	wait()
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 1 { // one is used again and again, the other ends unused
		if time.Now().After(deadline) {
			t.Fatalf("%d connections for one request at a time", c.registry.Count(registry.Dialled))
		}
		c.asks(t, 1, post)()
	}
	for c.registry.Count(registry.Dialled) != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the unused connection stays")
		}
		time.Sleep(time.Millisecond)
	}
}

// RFC 9113, Section 6.8: a server announces its end, and what it has begun goes on.
func TestServerThatLeavesLosesNoRequest(t *testing.T) {
	s := serveH2(t, 250, nil, nil)
	c := cluster(t, h2c(nil), s.address)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		deadline := time.Now().Add(5 * time.Second)
		for n := range int32(5) {
			for s.accepted.Load() <= n && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			s.again()
		}
	}()
	answered, failures := c.load(t, stop, 8, post)
	if answered == 0 || len(failures) > 0 {
		t.Errorf("%d answered, failures %v", answered, failures)
	}
	if n := s.accepted.Load(); n < 5 {
		t.Errorf("%d connections to 6 servers one after the other", n)
	}
}

// RFC 9113, Section 8.7: "requests that have not been processed" are those above the last stream of a GOAWAY.
func TestRequestsThatAServerDidNotTakeAreSentElsewhere(t *testing.T) {
	const requests = 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var dropped atomic.Int32
	leaves := make(chan struct{})
	go func() {
		defer close(leaves)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		dropped.Store(int32(leaveAfter(t, conn, requests)))
	}()
	s := serveH2(t, 250, nil, nil)
	var dials atomic.Int32
	c := cluster(t, h2c(func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				address = l.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}), s.address)
	c.asks(t, requests, post)()
	<-leaves
	if n := dropped.Load(); n != requests {
		t.Errorf("%d requests were dropped", n)
	}
}

// leaveAfter reads so many requests and leaves without having taken one.
func leaveAfter(t *testing.T, conn net.Conn, requests int) int {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		t.Error(err)
		return 0
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	seen := 0
	for seen < requests {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Error(err)
			return seen
		}
		if _, ok := frame.(*http2.HeadersFrame); ok {
			seen++
		}
	}
	_ = framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, conn) // until the client is gone
	return seen
}

// secureH2 is a server that speaks mutual TLS and chooses among protocols, and the client side of it.
func secureH2(t *testing.T, chooses []string, hold chan struct{}) (*h2service, *source.Holder, *mtls.Client) {
	t.Helper()
	ca := testkit.NewCA(t, "example.org")
	leaf := func(path string) tls.Certificate { return ca.Leaf(t, testkit.WithURIs(ca.ID(t, path).String())) }
	s := serveH2(t, 250, hold, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{leaf("/orders")}, ClientAuth: tls.RequireAnyClientCert, NextProtos: chooses})
	})
	own := &source.Holder{}
	own.Set(&source.X509{ID: ca.ID(t, "/web"), Certificate: leaf("/web"), Roots: ca.Roots(), Generation: 1})
	client := mtls.NewClient(mtls.ClientOptions{Credentials: own, Mutual: true, ALPN: []string{"h2", "http/1.1"},
		Expect: func(id spiffeid.ID) bool { return id.Path() == "/orders" }})
	return s, own, client
}

func TestAutoSpeaksWhatTheServerChooses(t *testing.T) {
	s, _, client := secureH2(t, []string{"h2"}, nil)
	auto := func(o *Options) { o.TLS, o.Protocol = client, Auto }
	c := cluster(t, auto, s.address)
	c.asks(t, 20, post)()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections, want one that is shared", n)
	}

	ca := testkit.NewCA(t, "example.org")
	old, _, client := secure(t, ca, "/orders", answers("one")) // chooses nothing
	c = cluster(t, func(o *Options) { o.TLS, o.Protocol = client, Auto }, old.address())
	if got, err := c.ask(t, get("GET")); err != nil || got != "one" {
		t.Errorf("%q, %v", got, err)
	}
	plain := serve(t, answers("plain"))
	c = cluster(t, func(o *Options) { o.Protocol = Auto }, plain.address())
	if got, err := c.ask(t, get("GET")); err != nil || got != "plain" {
		t.Errorf("%q, %v", got, err)
	}
}

// RFC 9113, Section 8.3.1: the scheme is that of the request's target; a strict server compares it with the connection.
func TestSchemeIsThatOfTheConnectionToTheServer(t *testing.T) {
	schemes := make(chan string, 1)
	tell := func(conn net.Conn, r *bufio.Reader) {
		_, _ = r.Discard(len(http2.ClientPreface))
		framer := http2.NewFramer(conn, r)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				schemes <- head.PseudoValue("scheme")
				return
			}
		}
	}
	ca := testkit.NewCA(t, "example.org")
	secured, _, client := secureALPN(t, ca, "/orders", []string{"h2"}, tell)
	plain := serve(t, tell)
	for want, c := range map[string]bench{
		"http":  cluster(t, h2c(nil), plain.address()),
		"https": cluster(t, func(o *Options) { o.TLS, o.Protocol = client, HTTP2 }, secured.address()),
	} {
		req := post()
		req.Scheme = "came"
		_, _ = c.ask(t, req)
		if got := <-schemes; got != want || req.Scheme != "came" {
			t.Errorf("the scheme is %q, want %q; the request's became %q", got, want, req.Scheme)
		}
	}
}

func TestServerThatDoesNotSpeakWhatIsDemandedIsToldSo(t *testing.T) {
	ca := testkit.NewCA(t, "example.org")
	old, _, client := secure(t, ca, "/orders", answers("one"))
	c := cluster(t, func(o *Options) { o.TLS, o.Protocol = client, HTTP2 }, old.address())
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamProtocol)

	s, _, client := secureH2(t, []string{"h2"}, nil)
	c = cluster(t, func(o *Options) { o.TLS, o.Protocol = client, HTTP1 }, s.address)
	_, err = c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamProtocol)
}

func TestRotationRetiresSharedConnectionsWithoutAFailure(t *testing.T) {
	hold := make(chan struct{})
	s, own, client := secureH2(t, []string{"h2"}, hold)
	c := cluster(t, func(o *Options) { o.TLS, o.Protocol = client, HTTP2 }, s.address)
	wait := c.asks(t, 10, post)
	reaches(t, "requests under way", &s.under, 10)
	next := *own.Get()
	next.Generation = 2
	own.Set(&next)
	later := c.asks(t, 10, post)
	reaches(t, "requests under way", &s.under, 20)
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections, want a new one for what came after the rotation", n)
	}
	close(hold)
	wait()
	later()
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left, want the new one", c.registry.Count(registry.Dialled))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRevocationCutsAllRequestsOfAConnection(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	s, _, client := secureH2(t, []string{"h2"}, hold)
	c := cluster(t, func(o *Options) { o.TLS, o.Protocol = client, HTTP2 }, s.address)
	failed := make(chan error, 10)
	for range cap(failed) {
		go func() { _, err := c.ask(t, get("GET")); failed <- err }()
	}
	reaches(t, "requests under way", &s.under, 10)
	subject := revocation.Subject{Kind: revocation.SPIFFEID, Value: "spiffe://example.org/orders"}
	if n := c.registry.CloseSubjects([]revocation.Subject{subject}, observe.Revoked); n != 1 {
		t.Fatalf("closed %d", n)
	}
	for range cap(failed) {
		select {
		case err := <-failed:
			if l7.ReasonOf(err, "") != observe.Revoked {
				t.Errorf("%v", err)
			}
		case <-time.After(time.Second):
			t.Fatal("a request outlives the revocation by a second")
		}
	}
}

func TestDrainedConnectionEndsWithItsLastRequest(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(nil), s.address)
	wait := c.asks(t, 3, post)
	reaches(t, "requests under way", &s.under, 3)
	c.registry.DrainOwner(c.Cluster, observe.Drained)
	later := c.asks(t, 1, post)
	reaches(t, "connections", &s.accepted, 2)
	reaches(t, "requests under way", &s.under, 4)
	close(hold)
	wait()
	later()
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left", c.registry.Count(registry.Dialled))
		}
		time.Sleep(time.Millisecond)
	}
}

// Who took the cluster before a reload replaced it has to be answered, whether it waits then or comes later.
func TestAClosedClusterServesWhoStillComesOnSharedConnections(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(func(o *Options) { o.MaxStreams, o.MaxConnections = 1, 1 }), s.address)
	first := c.asks(t, 1, post)
	reaches(t, "requests under way", &s.under, 1)
	second := c.asks(t, 1, post)
	c.waits(t, 1)
	c.Close()
	third := c.asks(t, 1, post)
	c.waits(t, 2)
	close(hold)
	first()
	second()
	third()
	c.asks(t, 1, post)()
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are kept", c.registry.Count(registry.Dialled))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHealthCheckSpeaksHTTP2(t *testing.T) {
	s := serveH2(t, 250, nil, nil)
	c := cluster(t, h2c(func(o *Options) { o.Health = Health{Path: "/", Interval: 5 * time.Millisecond, Unhealthy: 1} }), s.address)
	c.run(t)
	deadline := time.Now().Add(5 * time.Second)
	for s.accepted.Load() < 3 {
		if time.Now().After(deadline) {
			t.Fatal("no checks")
		}
		time.Sleep(time.Millisecond)
	}
	if is := c.Status()[0]; is.State != Available {
		t.Errorf("status %+v", is)
	}
}

func TestAClientThatLeavesEndsItsRequestOnly(t *testing.T) {
	hold := make(chan struct{})
	s := serveH2(t, 250, hold, nil)
	c := cluster(t, h2c(nil), s.address)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := c.RoundTrip(ctx, permit(t), post(), Call{}); gone <- err }()
	reaches(t, "requests under way", &s.under, 1)
	wait := c.asks(t, 5, post)
	reaches(t, "requests under way", &s.under, 6)
	cancel()
	if err := <-gone; err == nil {
		t.Error("a request that was given up was answered")
	}
	reaches(t, "requests under way", &s.under, 5)
	close(hold)
	wait()
	if s.accepted.Load() != 1 || c.endpoints[0].health.gateway.Load() != 0 {
		t.Errorf("%d connections, %d failures of the endpoint", s.accepted.Load(), c.endpoints[0].health.gateway.Load())
	}
}

func TestServerThatTakesConnectionsAndEndsThemIsNotStormed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int32
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_ = conn.Close()
		}
	})
	defer loop.Wait()
	defer func() { _ = l.Close() }()
	c := cluster(t, h2c(func(o *Options) { o.ConnectTimeout = 200 * time.Millisecond }), Address{"tcp", l.Addr().String()})
	began := time.Now()
	if _, err := c.ask(t, post()); err == nil {
		t.Fatal("an answer")
	}
	if n := accepted.Load(); n > 40 || time.Since(began) > 3*time.Second {
		t.Errorf("%d connections in %v", n, time.Since(began))
	}
}

func TestTheFullestConnectionThatHasRoomIsTaken(t *testing.T) {
	c := cluster(t, h2c(func(o *Options) { o.MaxStreams = 10 }), nowhere(1)...)
	e := c.endpoints[0]
	fullest := &Conn{places: 7}
	e.shared = []*Conn{{places: 3}, fullest, {places: 10}, {places: 8, full: true}, {places: 0}}
	if got := e.fullest(); got != fullest {
		t.Errorf("the one with %d requests is taken", got.places)
	}
	e.shared = nil
}

// RFC 9113, Section 5.1.2: a server that allows no streams, and more later, is waited for on the connection that is there.
func TestServerThatTakesNoRequestYetIsWaitedFor(t *testing.T) {
	allow := make(chan struct{})
	s := serve(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = r.Discard(len(http2.ClientPreface))
		framer := http2.NewFramer(conn, r)
		_ = framer.WriteSettings()
		var writing sync.Mutex
		go func() {
			<-allow
			writing.Lock()
			defer writing.Unlock()
			_ = framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		}()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if head, ok := frame.(*http2.HeadersFrame); ok {
				writing.Lock()
				if head.StreamID == 1 {
					_ = framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
				}
				_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: head.StreamID, BlockFragment: []byte{0x89}, EndHeaders: true, EndStream: true}) // 204
				writing.Unlock()
			}
		}
	})
	c := cluster(t, h2c(nil), s.address())
	if _, err := c.ask(t, post()); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { _, err := c.ask(t, post()); answered <- err }()
	c.waits(t, 1)
	time.Sleep(50 * time.Millisecond) // long enough for more connections than one
	close(allow)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections to a server that takes no request", n)
	}
}
