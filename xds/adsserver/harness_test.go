package adsserver

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/postern-proxy/postern/internal/posternpb"
	"github.com/postern-proxy/postern/internal/testkit"
)

const (
	bundles  = "type.googleapis.com/postern.v1.Bundle"
	policies = "type.googleapis.com/postern.v1.Policy"
	nodeA    = "spiffe://example.org/node/a"
	nodeB    = "spiffe://example.org/node/b"

	patience = 5 * time.Second
	// quiet is how long nothing may come for a test to believe that nothing does. The answer to a request that is sent afterwards
	// proves it where one can be sent.
	quiet = 50 * time.Millisecond
)

func TestMain(m *testing.M) { testkit.Main(m) }

// harness is a server behind an in-memory connection; who calls says so in a header, which stands for the mutual TLS of the real one.
type harness struct {
	*Server
	t    testing.TB
	conn *grpc.ClientConn
}

func start(t testing.TB, change func(*Options)) *harness {
	t.Helper()
	options := Options{Types: []string{bundles, policies}, Authenticate: func(ctx context.Context) (spiffeid.ID, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return spiffeid.FromString(strings.Join(md.Get("who"), ""))
	}}
	if change != nil {
		change(&options)
	}
	server, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	g := grpc.NewServer(GRPCOptions()...)
	server.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &harness{Server: server, t: t, conn: conn}
}

// set puts a policy whose content is text.
func (h *harness) set(name, text string, audience Audience) uint64 {
	h.t.Helper()
	generation, err := h.Table(policies).Set(name, &posternpb.Policy{Name: name, Declaration: []byte(text)}, audience)
	if err != nil {
		h.t.Fatal(err)
	}
	return generation
}

// client is a raw stream, driven by hand.
type client struct {
	t         testing.TB
	stream    discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	responses chan *discovery.DeltaDiscoveryResponse
	failed    chan error
	last      *discovery.DeltaDiscoveryResponse
}

func (h *harness) connect(who string) *client {
	h.t.Helper()
	ctx, cancel := context.WithCancel(whoContext(h.t, who))
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(h.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	c := &client{t: h.t, stream: stream, responses: make(chan *discovery.DeltaDiscoveryResponse), failed: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				c.failed <- err
				return
			}
			select {
			case c.responses <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	h.t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *client) send(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	if r.GetTypeUrl() == "" {
		r.TypeUrl = policies
	}
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(names ...string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names, Node: &corev3.Node{Id: "label"}})
}

func (c *client) ack() {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: c.last.GetTypeUrl(), ResponseNonce: c.last.GetNonce()})
}

func (c *client) nack(why string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: c.last.GetTypeUrl(), ResponseNonce: c.last.GetNonce(), ErrorDetail: &status.Status{Code: 3, Message: why},
	})
}

// next returns the next response as "name=content" of what was sent, and "-name" of what was removed, sorted.
func (c *client) next() []string {
	c.t.Helper()
	select {
	case c.last = <-c.responses:
	case err := <-c.failed:
		c.t.Fatalf("stream ended: %v", err)
	case <-time.After(patience):
		c.t.Fatal("no response")
	}
	said := map[string]string{}
	for _, r := range c.last.GetResources() {
		m, err := r.GetResource().UnmarshalNew()
		if err != nil {
			c.t.Fatal(err)
		}
		content := ""
		if p, ok := m.(*posternpb.Policy); ok {
			content = string(p.GetDeclaration())
		}
		said[r.GetName()+"="+content] = ""
	}
	for _, name := range c.last.GetRemovedResources() {
		said["-"+name] = ""
	}
	return slices.Sorted(maps.Keys(said))
}

func (c *client) want(want ...string) {
	c.t.Helper()
	if got := c.next(); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		c.t.Fatalf("response says %q, want %q", got, want)
	}
}

func (c *client) wantNothing() {
	c.t.Helper()
	select {
	case r := <-c.responses:
		c.t.Fatalf("unexpected response: %v", r)
	case err := <-c.failed:
		c.t.Fatalf("stream ended: %v", err)
	case <-time.After(quiet):
	}
}

func (c *client) wantEnd() error {
	c.t.Helper()
	select {
	case err := <-c.failed:
		return err
	case r := <-c.responses:
		c.t.Fatalf("response instead of the end: %v", r)
	case <-time.After(patience):
		c.t.Fatal("stream goes on")
	}
	return nil
}

// version is that of a resource in the last response.
func (c *client) version(name string) string {
	for _, r := range c.last.GetResources() {
		if r.GetName() == name {
			return r.GetVersion()
		}
	}
	c.t.Fatalf("no %q in the last response", name)
	return ""
}

func node(id string) Audience { return Only(spiffeid.RequireFromString(id)) }

// until waits for the server to have handled what was sent: the first type of the first stream looks as it should.
func (h *harness) until(is func(TypeStatus) bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if streams := h.Streams(); len(streams) > 0 && len(streams[0].Types) > 0 && is(streams[0].Types[0]) {
			return
		}
	}
	h.t.Fatalf("status does not become what it should: %+v", h.Streams())
}

func whoContext(t testing.TB, who string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "who", who)
}
