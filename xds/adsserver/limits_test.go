package adsserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/internal/posternpb"
)

func TestStreamsAreBounded(t *testing.T) {
	h := start(t, func(o *Options) { o.Limits.Streams, o.Limits.StreamsPerNode = 3, 2 })
	for _, who := range []string{nodeA, nodeA, nodeB} {
		c := h.connect(who)
		c.subscribe("*")
		c.want()
	}
	for _, who := range []string{nodeA, nodeB} {
		if err := h.connect(who).wantEnd(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one stream too many of %s ended with %v, want ResourceExhausted", who, err)
		}
	}
}

func TestNamesOnAStreamAreBounded(t *testing.T) {
	for name, request := range map[string]*discovery.DeltaDiscoveryRequest{
		"subscribed":   {ResourceNamesSubscribe: []string{"a", "b", "c", "d", "e"}},
		"known":        {InitialResourceVersions: map[string]string{"a": "", "b": "", "c": "", "d": "", "e": ""}},
		"unsubscribed": {ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"a", "b", "c", "d", "e"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(o *Options) { o.Limits.Names = 4 })
			c := h.connect(nodeA)
			c.send(request)
			if err := c.wantEnd(); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("stream ended with %v, want ResourceExhausted", err)
			}
		})
	}
}

func TestRequestSizeIsBounded(t *testing.T) {
	h := start(t, nil)
	c := h.connect(nodeA)
	c.subscribe(strings.Repeat("x", MaxRequestBytes))
	if err := c.wantEnd(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("stream ended with %v, want ResourceExhausted", err)
	}
}

func TestClientThatDoesNotAnswerIsDropped(t *testing.T) {
	h := start(t, func(o *Options) { o.Limits.AnswerTimeout = 100 * time.Millisecond })
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want()
	if err := c.wantEnd(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("stream ended with %v, want DeadlineExceeded", err)
	}
}

func TestSlowReaderIsDroppedAndDelaysNobody(t *testing.T) {
	h := start(t, func(o *Options) { o.Limits.AnswerTimeout = 300 * time.Millisecond })
	big := strings.Repeat("x", 512<<10)
	for i := range 8 { // 4 MiB: more than a connection buffers
		h.set(fmt.Sprintf("p%d", i), big, Everyone())
	}
	slow, err := discovery.NewAggregatedDiscoveryServiceClient(h.conn).DeltaAggregatedResources(whoContext(t, nodeB), grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: policies}); err != nil {
		t.Fatal(err)
	}
	fast := h.connect(nodeA)
	fast.subscribe("absent")
	fast.want("-absent")
	fast.ack()
	for i := range 20 {
		fast.subscribe(fmt.Sprint("absent", i))
		fast.want(fmt.Sprint("-absent", i))
		fast.ack()
	}
	// The slow one reads nothing; the server ends its stream, which shows as soon as it reads.
	deadline := time.Now().Add(patience)
	for len(h.Streams()) > 1 {
		if time.Now().After(deadline) {
			t.Fatal("the stream that takes nothing is still open")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEvictEndsTheStreamsOfThatNodeOnly(t *testing.T) {
	h := start(t, nil)
	a1, a2, b := h.connect(nodeA), h.connect(nodeA), h.connect(nodeB)
	for _, c := range []*client{a1, a2, b} {
		c.subscribe("*")
		c.want()
		c.ack()
	}
	if n := h.Evict(spiffeid.RequireFromString(nodeA)); n != 2 {
		t.Errorf("evicted %d streams, want 2", n)
	}
	for _, c := range []*client{a1, a2} {
		if err := c.wantEnd(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("stream ended with %v, want PermissionDenied", err)
		}
	}
	h.set("p", "x", Everyone())
	b.want("p=x")
}

func TestWaitAckedWaitsForEveryStreamThatSubscribes(t *testing.T) {
	h := start(t, nil)
	a, b, other := h.connect(nodeA), h.connect(nodeB), h.connect(nodeA)
	a.subscribe("*")
	a.want()
	a.ack()
	b.subscribe("*")
	b.want()
	b.ack()
	other.send(&discovery.DeltaDiscoveryRequest{TypeUrl: bundles})
	other.want()

	generation := h.set("p", "x", Everyone())
	done := make(chan error, 1)
	go func() { done <- h.WaitAcked(t.Context(), policies, generation) }()
	a.want("p=x")
	a.ack()
	b.want("p=x")
	select {
	case err := <-done:
		t.Fatalf("returned %v before the second node accepted", err)
	case <-time.After(quiet):
	}
	b.ack()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitAckedDoesNotTakeARejectionForAcceptance(t *testing.T) {
	h := start(t, nil)
	a := h.connect(nodeA)
	a.subscribe("*")
	a.want()
	a.ack()
	generation := h.set("p", "x", Everyone())
	a.want("p=x")
	a.nack("no")
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	if err := h.WaitAcked(ctx, policies, generation); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("returned %v, want the deadline", err)
	}
	done := make(chan error, 1)
	go func() { done <- h.WaitAcked(t.Context(), policies, generation) }()
	h.set("p", "y", Everyone())
	a.want("p=y")
	a.ack()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitAckedIsNotHeldUpByAStreamThatGoesAway(t *testing.T) {
	h := start(t, nil)
	a := h.connect(nodeA)
	a.subscribe("*")
	a.want()
	generation := h.set("p", "x", Everyone())
	done := make(chan error, 1)
	go func() { done <- h.WaitAcked(t.Context(), policies, generation) }()
	if err := a.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestReplaceChangesNothingOnError(t *testing.T) {
	h := start(t, nil)
	before := h.set("p", "x", Everyone())
	for name, resources := range map[string]map[string]Resource{
		"empty name": {"": {&posternpb.Policy{}, Everyone()}},
		"wildcard":   {"*": {&posternpb.Policy{}, Everyone()}},
		"long name":  {strings.Repeat("x", maxName+1): {&posternpb.Policy{}, Everyone()}},
		"other type": {"b": {&posternpb.Bundle{}, Everyone()}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := h.Table(policies).Replace(resources); err == nil {
				t.Error("no error")
			}
			if after := h.Table(policies).Generation(); after != before {
				t.Errorf("generation went from %d to %d", before, after)
			}
		})
	}
}

func TestReplaceSendsTheDifference(t *testing.T) {
	h := start(t, nil)
	h.set("same", "s", Everyone())
	h.set("changes", "old", Everyone())
	h.set("goes", "x", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("same=s", "changes=old", "goes=x")
	policy := func(name, text string) Resource {
		return Resource{&posternpb.Policy{Name: name, Declaration: []byte(text)}, Everyone()}
	}
	if _, err := h.Table(policies).Replace(map[string]Resource{
		"same": policy("same", "s"), "changes": policy("changes", "new"), "comes": policy("comes", "x"),
	}); err != nil {
		t.Fatal(err)
	}
	c.ack()
	c.want("changes=new", "comes=x", "-goes")
}

func TestAudienceOfNobodySeesNothing(t *testing.T) {
	if (Audience{}).sees("") || (Audience{}).sees(nodeA) || Only(spiffeid.ID{}).sees("") {
		t.Error("the zero audience sees something")
	}
}

func TestCoalesceWaitsForFurtherChanges(t *testing.T) {
	h := start(t, func(o *Options) { o.Coalesce = 100 * time.Millisecond })
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want()
	c.ack()
	h.until(func(s TypeStatus) bool { return !s.Pending })
	h.set("p1", "x", Everyone())
	h.set("p2", "x", Everyone())
	c.want("p1=x", "p2=x")
}

func TestMetricsCountPushesAndRejections(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	h := start(t, func(o *Options) { o.Registerer = registry })
	h.set("p", "x", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("p=x")
	c.nack("no")
	h.until(func(s TypeStatus) bool { return s.Rejected == 1 })
	want := `
# HELP postern_xds_nacks_total Responses that nodes rejected.
# TYPE postern_xds_nacks_total counter
postern_xds_nacks_total{type="type.googleapis.com/postern.v1.Bundle"} 0
postern_xds_nacks_total{type="type.googleapis.com/postern.v1.Policy"} 1
# HELP postern_xds_resources Resources in the table.
# TYPE postern_xds_resources gauge
postern_xds_resources{type="type.googleapis.com/postern.v1.Bundle"} 0
postern_xds_resources{type="type.googleapis.com/postern.v1.Policy"} 1
# HELP postern_xds_streams Open streams of nodes.
# TYPE postern_xds_streams gauge
postern_xds_streams 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"postern_xds_nacks_total", "postern_xds_resources", "postern_xds_streams"); err != nil {
		t.Error(err)
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	table := newTable(policies, func(...Audience) {})
	table.maxTombstones = 100
	for i := range 1000 {
		name := fmt.Sprint(i)
		if _, err := table.Set(name, &posternpb.Policy{}, Everyone()); err != nil {
			t.Fatal(err)
		}
		table.Delete(name)
	}
	if table.tombstones.Len() != 100 || len(table.gone) != 100 || table.changes.Len() != 0 {
		t.Errorf("%d tombstones, %d of them by name, %d live; want 100, 100, 0", table.tombstones.Len(), len(table.gone), table.changes.Len())
	}
}
