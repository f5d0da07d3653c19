package adsserver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern-proxy/postern/internal/posternpb"
)

func TestWildcardGetsEverythingAndThenOnlyWhatChanged(t *testing.T) {
	for _, name := range []string{"legacy empty subscription", "star"} {
		t.Run(name, func(t *testing.T) {
			h := start(t, nil)
			h.set("p1", "one", Everyone())
			h.set("p2", "two", Everyone())
			c := h.connect(nodeA)
			if name == "star" {
				c.subscribe("*")
			} else {
				c.subscribe()
			}
			c.want("p1=one", "p2=two")
			c.ack()
			h.set("p2", "two", Everyone()) // as it is
			h.set("p2", "changed", Everyone())
			c.want("p2=changed")
			c.ack()
			h.Table(policies).Delete("p1")
			c.want("-p1")
			c.ack()
			c.wantNothing()
		})
	}
}

func TestFirstRequestIsAnsweredEvenWhenThereIsNothing(t *testing.T) {
	h := start(t, nil)
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want()
	if got := c.last.GetSystemVersionInfo(); got != "0" {
		t.Errorf("system version %q, want the table's generation 0", got)
	}
}

func TestChangesWhileAResponseIsUnansweredAreSentAsOne(t *testing.T) {
	h := start(t, nil)
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want()
	for i := range 100 {
		h.set("p", fmt.Sprint(i), Everyone())
	}
	h.set("gone", "x", Everyone())
	h.Table(policies).Delete("gone")
	c.wantNothing()
	c.ack()
	c.want("p=99", "-gone")
}

func TestStaleNonceIsIgnored(t *testing.T) {
	h := start(t, nil)
	h.set("p", "one", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("p=one")
	h.set("p", "two", Everyone())
	c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: "stale"})
	c.wantNothing()
	// A change of subscription beside a stale nonce counts all the same: there is no second chance to learn of it.
	c.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: "stale", ResourceNamesSubscribe: []string{"absent"}})
	c.ack()
	c.want("p=two", "-absent")
}

func TestRejectedVersionIsNotSentAgainUntilTheContentChanges(t *testing.T) {
	h := start(t, nil)
	h.set("bad", "v1", Everyone())
	h.set("good", "v1", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("bad=v1", "good=v1")
	c.nack("bad: no such verb")
	c.wantNothing()
	h.set("other", "v1", Everyone())
	c.want("other=v1")
	c.ack()
	h.set("bad", "v2", Everyone())
	c.want("bad=v2")
	c.ack()
	h.set("bad", "v1", Everyone()) // what was rejected once was superseded by something accepted
	c.want("bad=v1")

	status := h.Streams()[0].Types[0]
	if status.LastNACK != "bad: no such verb" || status.Rejected != 1 {
		t.Errorf("status says NACK %q with %d rejected, want the client's words and the other resource of that response", status.LastNACK, status.Rejected)
	}
}

func TestRejectedVersionIsNotSentAgainForAnotherSubscription(t *testing.T) {
	h := start(t, nil)
	h.set("bad", "v1", Everyone())
	h.set("good", "v1", Everyone())
	c := h.connect(nodeA)
	c.subscribe("bad")
	c.want("bad=v1")
	c.nack("no")
	c.subscribe("bad") // again
	c.wantNothing()
	c.subscribe("*")
	c.want("good=v1")
	c.ack()
	h.set("bad", "v2", Everyone())
	c.want("bad=v2")
}

func TestNACKThatNamesResourcesRejectsOnlyThose(t *testing.T) {
	h := start(t, nil)
	h.set("bad", "v1", Everyone())
	generation := h.set("good", "v1", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("bad=v1", "good=v1")
	detail, err := anypb.New(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "bad"}, {Field: "not in it"}}})
	if err != nil {
		t.Fatal(err)
	}
	c.send(&discovery.DeltaDiscoveryRequest{
		ResponseNonce: c.last.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: "bad: no", Details: []*anypb.Any{detail}},
	})
	h.until(func(s TypeStatus) bool { return s.Rejected == 1 && s.Seen == generation && s.Accepted == 0 })
	generation = h.set("bad", "v2", Everyone())
	c.want("bad=v2")
	c.ack()
	if err := h.WaitAcked(t.Context(), policies, generation); err != nil {
		t.Fatal(err)
	}
}

func TestRejectedResourceIsStillRemoved(t *testing.T) {
	h := start(t, nil)
	h.set("bad", "v1", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("bad=v1")
	c.nack("no")
	h.Table(policies).Delete("bad")
	c.want("-bad")
}

func TestNamesAreAnsweredOneByOne(t *testing.T) {
	h := start(t, nil)
	h.set("p1", "one", Everyone())
	h.set("p2", "two", Everyone())
	c := h.connect(nodeA)
	c.subscribe("p1", "absent")
	c.want("p1=one", "-absent")
	c.ack()
	h.set("p2", "changed", Everyone())
	c.wantNothing()
	h.set("absent", "here", Everyone())
	c.want("absent=here")
	c.ack()
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"p1"}})
	h.until(func(s TypeStatus) bool { return s.Names == 1 })
	h.set("p1", "changed", Everyone())
	c.wantNothing()
	// Asking again for what one has is answered again.
	c.subscribe("absent")
	c.want("absent=here")
}

func TestWildcardCanBeSwitchedOnAndOff(t *testing.T) {
	h := start(t, nil)
	h.set("p1", "one", Everyone())
	h.set("p2", "two", Everyone())
	c := h.connect(nodeA)
	c.subscribe("p1")
	c.want("p1=one")
	c.ack()
	c.subscribe("*")
	c.want("p1=one", "p2=two")
	c.ack()
	// xDS: unsubscribing a name that the wildcard covers is answered with the resource.
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"p1"}})
	c.want("p1=one")
	c.ack()
	c.subscribe("p2")
	c.want("p2=two")
	c.ack()
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"*"}})
	h.until(func(s TypeStatus) bool { return !s.Wildcard })
	h.set("p1", "changed", Everyone())
	c.wantNothing()
	h.set("p2", "changed", Everyone())
	c.want("p2=changed")
}

func TestReconnectWithVersionsGetsTheDifferenceOnly(t *testing.T) {
	h := start(t, nil)
	h.set("same", "s", Everyone())
	h.set("changes", "old", Everyone())
	h.set("goes", "g", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("same=s", "changes=old", "goes=g")
	versions := map[string]string{"same": c.version("same"), "changes": c.version("changes"), "goes": c.version("goes"), "of a former life": "1"}
	h.set("changes", "new", Everyone())
	h.Table(policies).Delete("goes")

	again := h.connect(nodeA)
	again.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: versions})
	again.want("changes=new", "-goes", "-of a former life")
	again.ack()
	h.set("same", "s2", Everyone())
	again.want("same=s2")
}

func TestReconnectWithCurrentVersionsGetsAnEmptyAnswer(t *testing.T) {
	h := start(t, nil)
	h.set("p", "x", Everyone())
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want("p=x")
	again := h.connect(nodeA)
	again.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"p": c.version("p")}})
	again.want()
}

func TestEqualContentHasEqualVersionsOnTwoServers(t *testing.T) {
	versions := map[string]bool{}
	for range 2 {
		h := start(t, nil)
		h.set("noise", fmt.Sprint(len(versions)), Everyone())
		h.set("p", "x", Everyone())
		c := h.connect(nodeA)
		c.subscribe("p")
		c.want("p=x")
		versions[c.version("p")] = true
	}
	if len(versions) != 1 {
		t.Errorf("versions %v, want one: a failover must not send everything again", versions)
	}
}

func TestResourcesOfAnotherNodeAreInvisibleByAnyName(t *testing.T) {
	h := start(t, nil)
	h.set("secret", "of a", node(nodeA))
	h.set("public", "x", Everyone())
	for _, names := range [][]string{{"*"}, {}, {"secret"}} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			c := h.connect(nodeB)
			c.subscribe(names...)
			if len(names) == 1 && names[0] == "secret" {
				c.want("-secret") // as an absent name is answered
			} else {
				c.want("public=x")
			}
			c.ack()
			h.set("secret", "changed for a "+t.Name(), node(nodeA))
			c.wantNothing()
		})
	}
	t.Run("known from elsewhere", func(t *testing.T) {
		c := h.connect(nodeB)
		c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"secret": "x"}})
		c.want("public=x", "-secret")
	})
	t.Run("deleted", func(t *testing.T) {
		c := h.connect(nodeB)
		c.subscribe("*")
		c.want("public=x")
		c.ack()
		h.Table(policies).Delete("secret")
		c.wantNothing()
	})
}

func TestResourceThatMovesToAnotherNodeLeavesTheFirst(t *testing.T) {
	h := start(t, nil)
	h.set("entry", "x", node(nodeA))
	a, b, other := h.connect(nodeA), h.connect(nodeB), h.connect("spiffe://example.org/node/c")
	a.subscribe("*")
	b.subscribe("*")
	other.subscribe("*")
	a.want("entry=x")
	a.ack()
	b.want()
	b.ack()
	other.want()
	other.ack()
	h.set("entry", "x", node(nodeB))
	a.want("-entry")
	a.ack()
	b.want("entry=x")
	b.ack()
	h.set("entry", "x", Everyone())
	a.want("entry=x")
	other.want("entry=x")
	other.wantNothing()
}

func TestForgedNodeIDIsRefused(t *testing.T) {
	h := start(t, nil)
	h.set("secret", "of a", node(nodeA))
	for _, claim := range []string{nodeA, "SPIFFE://example.org/node/a", "spiffe://"} {
		c := h.connect(nodeB)
		c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, Node: &corev3.Node{Id: claim}})
		if err := c.wantEnd(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("claim %q: stream ended with %v, want PermissionDenied", claim, err)
		}
	}
	c := h.connect(nodeB)
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, Node: &corev3.Node{Id: nodeB}})
	c.want()
}

func TestStreamWithoutIdentityIsRefused(t *testing.T) {
	h := start(t, func(o *Options) {
		o.Authenticate = func(context.Context) (spiffeid.ID, error) { return spiffeid.ID{}, errors.New("secret detail") }
	})
	c := h.connect("")
	err := c.wantEnd()
	if status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "not authenticated" {
		t.Errorf("stream ended with %v, want Unauthenticated without the cause", err)
	}
}

func TestTrustIsSentBeforeWhatNeedsIt(t *testing.T) {
	h := start(t, nil)
	h.set("p", "1", Everyone())
	bundle := func(sequence uint64) {
		if _, err := h.Table(bundles).Set("td", &posternpb.Bundle{Sequence: sequence}, Everyone()); err != nil {
			t.Fatal(err)
		}
	}
	bundle(1)
	c := h.connect(nodeA)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: bundles})
	c.want("td=")
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: policies})
	c.want("p=1") // nothing new of the first type: no need to wait for its answer
	policyAnswer := c.last
	bundle(2)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: policies, ResponseNonce: policyAnswer.GetNonce()})
	h.set("p", "2", Everyone())
	c.wantNothing() // the second bundle waits for the answer to the first, and the policy for the bundle
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: bundles, ResponseNonce: "1"})
	if c.next(); c.last.GetTypeUrl() != bundles {
		t.Fatalf("type %q came first", c.last.GetTypeUrl())
	}
	c.want("p=2")
}

func TestUnknownTypeIsIgnored(t *testing.T) {
	h := start(t, nil)
	c := h.connect(nodeA)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	c.subscribe("*")
	c.want()
}

func TestLargeStateIsCutAndGoesOnAfterTheAnswer(t *testing.T) {
	h := start(t, func(o *Options) { o.Limits.ResponseBytes = 100 })
	for i := range 10 {
		h.set(fmt.Sprintf("p%d", i), "0123456789", Everyone())
	}
	h.set("gone", "x", Everyone())
	h.Table(policies).Delete("gone")
	c := h.connect(nodeA)
	c.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"gone": "1"}})
	seen := map[string]int{}
	for i := range 11 {
		for _, what := range c.next() {
			seen[what]++
		}
		if got, last := c.last.GetSystemVersionInfo(), i == 9; (got == "12") != last && i <= 9 {
			t.Errorf("response %d has system version %q", i, got)
		}
		c.ack()
		if i == 9 {
			break
		}
	}
	c.wantNothing()
	if len(seen) != 11 || seen["-gone"] != 1 || seen["p9=0123456789"] != 1 {
		t.Errorf("seen %v, want each of ten resources, and the removal, once", seen)
	}
}

func TestStreamTooFarBehindStartsOver(t *testing.T) {
	h := start(t, nil)
	h.Table(policies).maxTombstones = 20
	c := h.connect(nodeA)
	c.subscribe("*")
	c.want()
	for i := range 30 { // while its answer is awaited
		h.set(fmt.Sprintf("p%d", i), "x", Everyone())
		h.Table(policies).Delete(fmt.Sprintf("p%d", i))
	}
	c.ack()
	if err := c.wantEnd(); status.Code(err) != codes.Aborted {
		t.Errorf("stream ended with %v, want Aborted", err)
	}
}

func TestStreamWithNothingToSeeDoesNotFallBehind(t *testing.T) {
	h := start(t, nil)
	h.Table(policies).maxTombstones = 200
	c := h.connect(nodeB)
	c.subscribe("*")
	c.want()
	c.ack()
	for i := range 1000 {
		h.set(fmt.Sprintf("p%d", i), "x", node(nodeA))
		h.Table(policies).Delete(fmt.Sprintf("p%d", i))
		if i%40 == 39 { // as much time as real changes leave it
			h.until(func(s TypeStatus) bool { return s.Seen+60 > s.Generation })
		}
	}
	h.set("mine", "x", node(nodeB))
	c.want("mine=x")
}
