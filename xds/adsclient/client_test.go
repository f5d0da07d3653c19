package adsclient_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern-proxy/postern/internal/posternpb"
	"github.com/postern-proxy/postern/internal/testkit"
	"github.com/postern-proxy/postern/xds/adsclient"
	"github.com/postern-proxy/postern/xds/adsserver"
)

const patience = 5 * time.Second

var (
	policies = adsclient.TypeURL(&posternpb.Policy{})
	bundles  = adsclient.TypeURL(&posternpb.Bundle{})
	types    = []proto.Message{(*posternpb.Bundle)(nil), (*posternpb.Policy)(nil)}
)

func TestMain(m *testing.M) { testkit.Main(m) }

// authority is an ADS server on a loopback socket that can be killed and started anew, empty, at the same address.
type authority struct {
	*adsserver.Server
	t       *testing.T
	address string
	grpc    *grpc.Server
	done    chan error
}

func startAuthority(t *testing.T) *authority {
	a := &authority{t: t, address: "127.0.0.1:0"}
	a.start()
	t.Cleanup(a.kill)
	return a
}

func (a *authority) start() {
	a.t.Helper()
	listener, err := net.Listen("tcp", a.address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.address = listener.Addr().String()
	a.Server, err = adsserver.New(adsserver.Options{
		Types: []string{bundles, policies},
		Authenticate: func(context.Context) (spiffeid.ID, error) {
			return spiffeid.FromString("spiffe://example.org/node/a")
		},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.serve(listener, a.Register)
}

func (a *authority) serve(listener net.Listener, register func(grpc.ServiceRegistrar)) {
	a.grpc, a.done = grpc.NewServer(adsserver.GRPCOptions()...), make(chan error, 1)
	register(a.grpc)
	go func(g *grpc.Server, done chan<- error) { done <- g.Serve(listener) }(a.grpc, a.done)
}

func (a *authority) kill() {
	if a.grpc != nil {
		a.grpc.Stop()
		if err := <-a.done; err != nil {
			a.t.Error(err)
		}
		a.grpc = nil
	}
}

func (a *authority) set(name, text string) uint64 {
	a.t.Helper()
	generation, err := a.Table(policies).Set(name, &posternpb.Policy{Name: name, Declaration: []byte(text)}, adsserver.Everyone())
	if err != nil {
		a.t.Fatal(err)
	}
	return generation
}

// follower applies what a client is told: policies by name. A policy of "bad..." it rejects.
type follower struct {
	*adsclient.Client
	t       *testing.T
	changed chan struct{}

	mu    sync.Mutex
	state map[string]string
	fail  error
}

func (a *authority) follow(change func(*adsclient.Options)) *follower {
	a.t.Helper()
	f := &follower{t: a.t, state: map[string]string{}, changed: make(chan struct{}, 1000)}
	options := adsclient.Options{Types: types, Handler: f.apply, NodeName: "a"}
	if change != nil {
		change(&options)
	}
	var err error
	if f.Client, err = adsclient.New(options); err != nil {
		a.t.Fatal(err)
	}
	conn, err := grpc.NewClient(a.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond}, MinConnectTimeout: patience,
		}))
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, conn) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Errorf("Run returned %v", err)
		}
		_ = conn.Close()
	})
	return f
}

func (f *follower) apply(_ context.Context, u adsclient.Update) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.changed <- struct{}{} }()
	if f.fail != nil {
		return f.fail
	}
	var rejections adsclient.Rejections
	for _, r := range u.Upserted {
		p, ok := r.Message.(*posternpb.Policy)
		switch {
		case !ok:
		case strings.HasPrefix(string(p.GetDeclaration()), "bad"):
			rejections = append(rejections, adsclient.Rejection{Name: r.Name, Err: errors.New("no such verb")})
		default:
			f.state[r.Name] = string(p.GetDeclaration())
		}
	}
	for _, name := range u.Removed {
		delete(f.state, name)
	}
	if len(rejections) > 0 {
		return fmt.Errorf("apply: %w", rejections)
	}
	return nil
}

func (f *follower) want(want map[string]string) {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		got := maps.Clone(f.state)
		f.mu.Unlock()
		if maps.Equal(got, want) {
			return
		}
		select {
		case <-f.changed:
		case <-timeout:
			f.t.Fatalf("state is %v, want %v", got, want)
		}
	}
}

func (f *follower) wantSynced() {
	f.t.Helper()
	select {
	case <-f.Synced():
	case <-time.After(patience):
		f.t.Fatal("not synced")
	}
}

func waitAcked(t *testing.T, a *authority, generation uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.WaitAcked(ctx, policies, generation); err != nil {
		t.Fatal(err)
	}
}

func TestClientFollowsChanges(t *testing.T) {
	a := startAuthority(t)
	a.set("p1", "one")
	f := a.follow(nil)
	f.wantSynced()
	f.want(map[string]string{"p1": "one"})
	a.set("p1", "two")
	a.set("p2", "x")
	f.want(map[string]string{"p1": "two", "p2": "x"})
	waitAcked(t, a, a.Table(policies).Delete("p1"))
	f.want(map[string]string{"p2": "x"})
	if !f.Connected() || f.LastUpdate().IsZero() {
		t.Error("a client that follows says that it does not")
	}
}

func TestClientKeepsItsStateWhileTheAuthorityIsAwayAndLearnsOfRemovalsAfterwards(t *testing.T) {
	a := startAuthority(t)
	a.set("stays", "x")
	a.set("goes", "x")
	a.set("changes", "old")
	f := a.follow(nil)
	f.want(map[string]string{"stays": "x", "goes": "x", "changes": "old"})
	waitAcked(t, a, a.Table(policies).Generation())
	a.kill()
	for deadline := time.Now().Add(patience); f.Connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still connected to an authority that is gone")
		}
	}
	f.want(map[string]string{"stays": "x", "goes": "x", "changes": "old"})

	// The new process knows nothing of what the old one sent.
	a.start()
	a.set("stays", "x")
	a.set("changes", "new")
	f.want(map[string]string{"stays": "x", "changes": "new"})
}

func TestClientAppliesTheGoodAndNamesTheBad(t *testing.T) {
	a := startAuthority(t)
	a.set("good", "x")
	a.set("wrong", "bad verb")
	f := a.follow(nil)
	f.want(map[string]string{"good": "x"})
	deadline := time.Now().Add(patience)
	for !strings.Contains(lastNACK(a), "wrong: no such verb") {
		if time.Now().After(deadline) {
			t.Fatalf("the authority was told %q", lastNACK(a))
		}
		time.Sleep(time.Millisecond)
	}
	f.wantSynced() // what is rejected does not keep the rest waiting
	waitAcked(t, a, a.set("wrong", "right"))
	f.want(map[string]string{"good": "x", "wrong": "right"})
}

func lastNACK(a *authority) string {
	for _, s := range a.Streams() {
		for _, typ := range s.Types {
			if typ.LastNACK != "" {
				return typ.LastNACK
			}
		}
	}
	return ""
}

func TestClientAppliesNothingAboveItsLimit(t *testing.T) {
	a := startAuthority(t)
	a.set("p1", "x")
	f := a.follow(func(o *adsclient.Options) { o.MaxResources = 2 })
	f.want(map[string]string{"p1": "x"})
	waitAcked(t, a, a.Table(policies).Generation())
	all := map[string]adsserver.Resource{}
	for _, name := range []string{"p1", "p2", "p3"} {
		all[name] = adsserver.Resource{Message: &posternpb.Policy{Name: name, Declaration: []byte("y")}, Audience: adsserver.Everyone()}
	}
	if _, err := a.Table(policies).Replace(all); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); lastNACK(a) != "3 resources, the limit is 2"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the authority was told %q", lastNACK(a))
		}
	}
	f.want(map[string]string{"p1": "x"})
}

func TestRejectedResourceIsOfferedAgainAfterReconnecting(t *testing.T) {
	a := startAuthority(t)
	a.set("p", "bad")
	f := a.follow(nil)
	f.wantSynced()
	f.want(map[string]string{})
	a.kill()
	a.start()
	a.set("p", "good now")
	f.want(map[string]string{"p": "good now"})
}

// scripted is a server that sends given responses and keeps what it is told.
type scripted struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	responses []*discovery.DeltaDiscoveryResponse
	requests  chan *discovery.DeltaDiscoveryRequest
}

func (s *scripted) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for _, r := range s.responses {
		if err := g.Send(r); err != nil {
			return err
		}
	}
	for {
		r, err := g.Recv()
		if err != nil {
			return err
		}
		s.requests <- r
	}
}

func TestClientBearsAStrangeServer(t *testing.T) {
	good, err := anypb.New(&posternpb.Policy{Declaration: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	other, err := anypb.New(&posternpb.Entry{})
	if err != nil {
		t.Fatal(err)
	}
	server := &scripted{requests: make(chan *discovery.DeltaDiscoveryRequest, 100), responses: []*discovery.DeltaDiscoveryResponse{
		{TypeUrl: "type.googleapis.com/not.asked.For", Nonce: "1"},
		{TypeUrl: policies, Nonce: "2", RemovedResources: []string{"never heard of", "p", "never heard of"}, Resources: []*discovery.Resource{
			{Name: "p", Resource: good}, {Name: "p", Resource: good}, {Name: "other type", Resource: other}, {Name: "no content"},
			{Name: "damaged", Resource: &anypb.Any{TypeUrl: policies, Value: []byte{0xff}}},
		}},
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, address: listener.Addr().String()}
	a.serve(listener, func(r grpc.ServiceRegistrar) { discovery.RegisterAggregatedDiscoveryServiceServer(r, server) })
	t.Cleanup(a.kill)
	f := a.follow(nil)
	f.want(map[string]string{"p": "x"})
	for {
		select {
		case r := <-server.requests:
			if r.GetResponseNonce() == "" {
				if !slices.Equal(r.GetResourceNamesSubscribe(), []string{"*"}) {
					t.Errorf("subscribed to %q", r.GetResourceNamesSubscribe())
				}
				continue
			}
			message := r.GetErrorDetail().GetMessage()
			for _, name := range []string{"other type: ", "no content: ", "damaged: "} {
				if !strings.Contains(message, name) {
					t.Errorf("NACK %q does not name %q", message, name)
				}
			}
			return
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	}
}

func TestRejectionsNameTenAtMost(t *testing.T) {
	var r adsclient.Rejections
	for i := range 13 {
		r = append(r, adsclient.Rejection{Name: fmt.Sprintf("p%d", i), Err: errors.New("no")})
	}
	if got := r.Error(); !strings.HasPrefix(got, "p0: no; p1: no; ") || !strings.HasSuffix(got, "p9: no; and 3 more") {
		t.Errorf("error is %q", got)
	}
}

func TestClientMetricsSayWhetherItFollows(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	a := startAuthority(t)
	f := a.follow(func(o *adsclient.Options) { o.Registerer = registry })
	f.wantSynced()
	want := "# HELP postern_xds_client_connected 1 while the authority is followed.\n# TYPE postern_xds_client_connected gauge\npostern_xds_client_connected 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "postern_xds_client_connected"); err != nil {
		t.Error(err)
	}
}
