package enroll

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/posternpb"
)

func TestNodeHasSVIDsSignedForItsEntries(t *testing.T) {
	a := start(t, nil)
	n := a.join("web")
	entry := a.entry(registration.Entry{
		SPIFFEID: "spiffe://example.org/web", Node: n.Get().ID.String(), TTL: 20 * time.Minute, DNSNames: []string{"web.internal"},
	})
	result := issueOne(t, n.client, order(t, entry, entry.SPIFFEID))
	must(t, result.Err)
	verified, err := svid.Verify(result.Chain, n.Get().Roots, svid.VerifyOptions{Role: svid.Server})
	must(t, err)
	leaf := result.Chain[0]
	if verified.ID.String() != entry.SPIFFEID || leaf.DNSNames[0] != "web.internal" || time.Until(leaf.NotAfter) > entry.TTL {
		t.Errorf("SVID is for %q, %q, until %s", verified.ID, leaf.DNSNames, leaf.NotAfter)
	}
	credential, err := a.ca.Credential(t.Context(), leaf.SerialNumber.Text(16))
	must(t, err)
	if credential.Node != n.Get().ID.String() || credential.Entry != entry.ID {
		t.Errorf("recorded as %+v", credential)
	}
}

func TestNodeGetsNothingThatIsNotItsOwn(t *testing.T) {
	a := start(t, nil)
	n, other := a.join("web"), a.join("other")
	own := n.Get().ID.String()
	mine := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/web", Node: own})
	template := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/uid/{unix.uid}", Node: own})
	theirs := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/db", Node: other.Get().ID.String()})
	authoritys := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/self"})
	for name, row := range map[string]struct {
		entry registration.Entry
		id    string
		want  codes.Code
	}{
		"its own":                       {mine, mine.SPIFFEID, codes.OK},
		"its own, other identity":       {mine, theirs.SPIFFEID, codes.PermissionDenied},
		"its own, below the identity":   {mine, mine.SPIFFEID + "/admin", codes.PermissionDenied},
		"instance of its template":      {template, "spiffe://example.org/uid/1000", codes.OK},
		"beside its template":           {template, "spiffe://example.org/uid/root/x", codes.PermissionDenied},
		"entry of another node":         {theirs, theirs.SPIFFEID, codes.NotFound},
		"entry of the authority's node": {authoritys, authoritys.SPIFFEID, codes.NotFound},
		"entry that does not exist":     {registration.Entry{ID: "nothing"}, mine.SPIFFEID, codes.NotFound},
		"entry with an endless id":      {registration.Entry{ID: strings.Repeat("x", 5000)}, mine.SPIFFEID, codes.InvalidArgument},
		"foreign trust domain":          {mine, "spiffe://other.org/web", codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			if result := issueOne(t, n.client, order(t, row.entry, row.id)); status.Code(result.Err) != row.want {
				t.Errorf("got %v, want %s", result.Err, row.want)
			}
		})
	}
}

// An entry that reaches into the paths of the trust domain itself, however it came into the store, is not signed for.
func TestReservedIdentitiesAreNotSignedForEntries(t *testing.T) {
	entries := fixedEntries{
		"authority": {ID: "authority", SPIFFEID: "spiffe://example.org/authority"},
		"node":      {ID: "node", SPIFFEID: "spiffe://example.org/node/other"},
		"template":  {ID: "template", SPIFFEID: "spiffe://example.org/{unix.user}"},
	}
	a := start(t, func(o *ServerOptions, _ *ca.Options) { o.Entries = entries })
	client := a.localClient()
	for id, entry := range map[string]string{
		"spiffe://example.org/authority": "authority", "spiffe://example.org/node/other": "node", "spiffe://example.org/node": "template",
	} {
		if result := issueOne(t, client, order(t, entries[entry], id)); status.Code(result.Err) != codes.PermissionDenied {
			t.Errorf("%q: got %v, want PermissionDenied", id, result.Err)
		}
	}
}

type fixedEntries map[string]registration.Entry

func (f fixedEntries) Get(_ context.Context, id string) (registration.Entry, error) {
	if entry, ok := f[id]; ok {
		return entry, nil
	}
	return registration.Entry{}, registration.ErrNotFound
}

func (a *authority) localClient() *Client {
	a.t.Helper()
	conn, err := a.local.Dial()
	must(a.t, err)
	a.t.Cleanup(func() { _ = conn.Close() })
	return NewClient(conn)
}

func TestAuthoritysOwnNodeUsesTheSameServiceInsideTheProcess(t *testing.T) {
	a := start(t, nil)
	client := a.localClient()
	byDefault := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/self"})
	if result := issueOne(t, client, order(t, byDefault, byDefault.SPIFFEID)); result.Err != nil {
		t.Error(result.Err)
	}
	byName := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org/named", Node: "spiffe://example.org/node/self"})
	if result := issueOne(t, client, order(t, byName, byName.SPIFFEID)); result.Err != nil {
		t.Error(result.Err)
	}
	_, csr, err := newKey()
	must(t, err)
	if _, err := client.RenewNode(t.Context(), csr); status.Code(err) == codes.OK {
		t.Error("the local node, which has no SVID, renewed it")
	}
}

func TestLocalCredentialsRefuseEveryOtherConnection(t *testing.T) {
	a := start(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	a.serve(listener, a.server.RegisterNodes, grpc.Creds(a.local.ServerCredentials()))
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	if _, err := NewClient(conn).IssueX509(t.Context(), nil); err != nil {
		t.Fatal(err) // nothing to ask for, nothing asked
	}
	_, err = posternpb.NewEnrollmentClient(conn).IssueX509(t.Context(), &posternpb.IssueX509Request{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("over a socket: %v, want no connection", err)
	}
	client, server := net.Pipe()
	defer client.Close()
	other := NewLocal(spiffeid.RequireFromString("spiffe://example.org/node/other"))
	for name, conn := range map[string]net.Conn{"pipe": server, "another Local's": localConn{Conn: server, owner: other}} {
		if _, _, err := a.local.ServerCredentials().ServerHandshake(conn); err == nil {
			t.Errorf("%s was taken for the process itself", name)
		}
	}
}

func TestServiceWithoutProofOfANodeRefuses(t *testing.T) {
	a := start(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	a.serve(listener, a.server.RegisterNodes) // a mistake in the wiring: no credentials
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	_, err = posternpb.NewEnrollmentClient(conn).IssueX509(t.Context(), &posternpb.IssueX509Request{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v, want Unauthenticated", err)
	}
}

func TestEveryRequestHasItsOwnAnswerInItsPlace(t *testing.T) {
	a := start(t, nil)
	client := a.localClient()
	var requests []source.IssueRequest
	for i := range 150 { // more than one batch
		entry := a.entry(registration.Entry{SPIFFEID: fmt.Sprintf("spiffe://example.org/w/%d", i)})
		request := order(t, entry, entry.SPIFFEID)
		if i%3 == 1 {
			request.CSR = []byte("garbage")
		}
		requests = append(requests, request)
	}
	results, err := client.IssueX509(t.Context(), requests)
	must(t, err)
	if len(results) != len(requests) {
		t.Fatalf("%d answers", len(results))
	}
	for i, result := range results {
		if i%3 == 1 {
			if status.Code(result.Err) != codes.InvalidArgument {
				t.Errorf("answer %d is %v, want InvalidArgument", i, result.Err)
			}
			continue
		}
		must(t, result.Err)
		if got := result.Chain[0].URIs[0].String(); got != requests[i].ID.String() {
			t.Errorf("answer %d is for %q", i, got)
		}
	}
}

func TestBatchIsBounded(t *testing.T) {
	a := start(t, nil)
	conn, err := a.local.Dial()
	must(t, err)
	defer conn.Close()
	_, err = posternpb.NewEnrollmentClient(conn).IssueX509(t.Context(), &posternpb.IssueX509Request{Requests: make([]*posternpb.X509Request, 65)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestOneNodeCannotHaveTheAuthorityToItself(t *testing.T) {
	a := start(t, func(o *ServerOptions, _ *ca.Options) { o.Limits.PerNode, o.Limits.PerNodeBurst = 1, 3 })
	greedy, other := a.join("greedy"), a.join("other")
	ask := func(n *node, path string, times int) (codesSeen map[codes.Code]int) {
		entry := a.entry(registration.Entry{SPIFFEID: "spiffe://example.org" + path, Node: n.Get().ID.String()})
		var requests []source.IssueRequest
		for range times {
			requests = append(requests, order(t, entry, entry.SPIFFEID))
		}
		results, err := n.client.IssueX509(t.Context(), requests)
		must(t, err)
		codesSeen = map[codes.Code]int{}
		for _, result := range results {
			codesSeen[status.Code(result.Err)]++
		}
		return codesSeen
	}
	if seen := ask(greedy, "/greedy", 10); seen[codes.OK] < 3 || seen[codes.ResourceExhausted] < 5 {
		t.Errorf("the greedy node got %v, want a burst of 3 and then no more", seen)
	}
	if seen := ask(other, "/other", 1); seen[codes.OK] != 1 {
		t.Errorf("the other node got %v", seen)
	}
}

func TestPaceForgetsIdleNodesAndRefills(t *testing.T) {
	now := time.Unix(0, 0)
	p := newPace(10, 20, func() time.Time { return now })
	if got := p.take("a", 25); got != 20 {
		t.Errorf("granted %d of a burst of 20", got)
	}
	now = now.Add(time.Second)
	if got := p.take("a", 25); got != 10 {
		t.Errorf("granted %d after a second at 10/s", got)
	}
	for i := range 1000 {
		p.take(fmt.Sprint(i), 1)
	}
	now = now.Add(time.Hour)
	p.take("b", 1)
	if len(p.buckets) != 1 {
		t.Errorf("%d nodes remembered, want the one that is active", len(p.buckets))
	}
	now = now.Add(-2 * time.Hour) // the clock jumps back
	if got := p.take("b", 1); got != 1 {
		t.Errorf("granted %d after the clock went back", got)
	}
}
