package enroll

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/posternpb"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMachineBecomesANodeWithAJoinToken(t *testing.T) {
	a := start(t, nil)
	web := spiffeid.RequireFromString("spiffe://example.org/web")
	identity, err := Attest(t.Context(), AttestOptions{Address: a.public, Token: a.token("web-1", web), TrustDomain: domain})
	must(t, err)
	if identity.ID.String() != "spiffe://example.org/node/web-1" || len(identity.Authorities) != 1 {
		t.Errorf("became %q with %d authorities", identity.ID, len(identity.Authorities))
	}
	record, err := a.nodes.Get(t.Context(), identity.ID)
	must(t, err)
	if record.Attestor != "join_token" || len(record.Keys) != 1 || !record.NotAfter.Equal(identity.Chain[0].NotAfter) {
		t.Errorf("record is %+v", record)
	}
	page, err := a.registry.List(t.Context(), registration.Query{})
	must(t, err)
	if len(page.Entries) != 1 || page.Entries[0].SPIFFEID != web.String() || page.Entries[0].Node != identity.ID.String() ||
		page.Entries[0].Selectors[0] != registration.SelfSelector {
		t.Errorf("entries are %+v, want the identity that the token promised", page.Entries)
	}
	for _, event := range []string{audit.TokenCreated, audit.TokenUsed, audit.NodeAttested} {
		if count(a.eventTypes(), event) != 1 {
			t.Errorf("events are %v, want one %q", a.eventTypes(), event)
		}
	}
}

func TestTokenIsNotShownToAServerThatIsNotPinned(t *testing.T) {
	a, other := start(t, nil), start(t, nil)
	token := a.token("web")
	_, err := Attest(t.Context(), AttestOptions{Address: other.public, Token: token})
	if !errors.Is(err, ErrPin) {
		t.Fatalf("attested at a stranger: %v", err)
	}
	if strings.Contains(err.Error(), strings.Split(token.Text(), ".")[1]) {
		t.Error("the error repeats the secret")
	}
	if _, err := Attest(t.Context(), AttestOptions{Address: a.public, Token: token}); err != nil {
		t.Errorf("the token does not work any more: %v", err)
	}
}

// impostor serves a certificate chain at an address and takes note of being asked anything.
type impostor struct {
	posternpb.UnimplementedEnrollmentServer
	asked atomic.Int32
}

func (i *impostor) AttestNode(context.Context, *posternpb.AttestNodeRequest) (*posternpb.AttestNodeResponse, error) {
	i.asked.Add(1)
	return nil, status.Error(codes.Unavailable, "thank you")
}

func TestOnlyTheAuthorityItselfUnderThePinnedRootIsTalkedTo(t *testing.T) {
	own, foreign := testkit.NewCA(t, "example.org"), testkit.NewCA(t, "other.org")
	second := testkit.NewCA(t, "example.org")
	chain := func(authority *testkit.CA, path string, root *x509.Certificate) *source.X509 {
		certificate := authority.Leaf(t, testkit.WithURIs(authority.ID(t, path).String()))
		certificate.Certificate = append(certificate.Certificate, root.Raw)
		return &source.X509{Certificate: certificate}
	}
	token := tokenFor(t, own.Root)
	for name, served := range map[string]*source.X509{
		"workload of the pinned root":       chain(own, "/workload", own.Root),
		"node of the pinned root":           chain(own, "/node/a", own.Root),
		"other root of the trust domain":    chain(second, "/authority", second.Root),
		"leaf of another root, pinned root": chain(second, "/authority", own.Root),
		"foreign trust domain":              chain(foreign, "/authority", foreign.Root),
	} {
		t.Run(name, func(t *testing.T) {
			service := &impostor{}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			config := PublicTLS(func() *source.X509 { return served })
			config.GetCertificate = nil
			config.Certificates = append(config.Certificates, served.Certificate)
			a := &authority{t: t}
			a.serve(listener, func(r grpc.ServiceRegistrar) { posternpb.RegisterEnrollmentServer(r, service) }, grpc.Creds(credentials.NewTLS(config)))
			_, err = Attest(t.Context(), AttestOptions{Address: listener.Addr().String(), Token: token, TrustDomain: domain})
			if !errors.Is(err, ErrPin) || service.asked.Load() != 0 {
				t.Errorf("error %v after %d calls, want ErrPin before any", err, service.asked.Load())
			}
		})
	}
}

// tokenFor makes a token with the pin of a root; no store has it.
func tokenFor(t *testing.T, root *x509.Certificate) nodeattestor.Token {
	t.Helper()
	a := start(t, nil)
	token, _, err := a.tokens.Create(t.Context(), nodeattestor.TokenSpec{Node: spiffeid.RequireFromString("spiffe://example.org/node/x")}, nodeattestor.PinOf(root), "uid:0")
	must(t, err)
	return token
}

func TestTokenWorksOnce(t *testing.T) {
	a := start(t, nil)
	token := a.token("web")
	var succeeded, refused atomic.Int32
	var machines sync.WaitGroup
	for range 10 {
		machines.Go(func() {
			_, err := Attest(t.Context(), AttestOptions{Address: a.public, Token: token})
			switch status.Code(errors.Unwrap(err)) {
			case codes.OK:
				succeeded.Add(1)
			case codes.PermissionDenied:
				refused.Add(1)
			default:
				t.Errorf("refused with %v", err)
			}
		})
	}
	machines.Wait()
	if succeeded.Load() != 1 || refused.Load() != 9 {
		t.Errorf("%d machines became the node and %d were refused, want 1 and 9", succeeded.Load(), refused.Load())
	}
}

func TestBadRequestDoesNotUseTheTokenUp(t *testing.T) {
	a := start(t, nil)
	token := a.token("web")
	conn := a.publicConn(token)
	for name, csr := range map[string][]byte{"none": nil, "garbage": []byte("x"), "huge": make([]byte, maxCSR+1)} {
		_, err := posternpb.NewEnrollmentClient(conn).AttestNode(t.Context(), &posternpb.AttestNodeRequest{
			Evidence: &posternpb.AttestNodeRequest_JoinToken{JoinToken: token.Text()}, Csr: csr,
		})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	if _, err := Attest(t.Context(), AttestOptions{Address: a.public, Token: token}); err != nil {
		t.Errorf("the token does not work any more: %v", err)
	}
}

func (a *authority) publicConn(token nodeattestor.Token) *grpc.ClientConn {
	a.t.Helper()
	pinned := &pinnedServer{options: AttestOptions{Token: token, Clock: nowFunc}}
	conn, err := dial(a.public, pinned.config(), nil)
	must(a.t, err)
	a.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestPublicListenerServesAttestationOnly(t *testing.T) {
	a := start(t, nil)
	client := posternpb.NewEnrollmentClient(a.publicConn(a.token("web")))
	_, renewal := client.RenewNode(t.Context(), &posternpb.RenewNodeRequest{})
	_, issuance := client.IssueX509(t.Context(), &posternpb.IssueX509Request{})
	if status.Code(renewal) != codes.Unimplemented || status.Code(issuance) != codes.Unimplemented {
		t.Errorf("renewal: %v, issuance: %v; want both unimplemented", renewal, issuance)
	}
	n := a.join("web")
	_, err := posternpb.NewEnrollmentClient(n.conn).AttestNode(t.Context(), &posternpb.AttestNodeRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("attestation on the listener for nodes: %v, want unimplemented", err)
	}
}

func TestOversizeEvidenceIsRefused(t *testing.T) {
	a := start(t, nil)
	_, err := posternpb.NewEnrollmentClient(a.publicConn(a.token("web"))).AttestNode(t.Context(), &posternpb.AttestNodeRequest{
		Evidence: &posternpb.AttestNodeRequest_JoinToken{JoinToken: strings.Repeat("x", 65<<10)},
	})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
}

func TestTokenStaysGoodThroughARotationOfTheSigningAuthority(t *testing.T) {
	a := start(t, nil)
	token := a.token("web")
	changed := a.credential.Changed()
	must(t, a.ca.Rotate(t.Context(), ca.Signing, "uid:0"))
	<-changed
	if _, err := Attest(t.Context(), AttestOptions{Address: a.public, Token: token}); err != nil {
		t.Error(err)
	}
}

func TestAnswerOfTheAuthorityIsNotTakenOnTrust(t *testing.T) {
	own, other := testkit.NewCA(t, "example.org"), testkit.NewCA(t, "example.org")
	key := testkit.NewKey(t)
	leaf := func(authority *testkit.CA, uri string, options ...testkit.LeafOption) [][]byte {
		return authority.Leaf(t, append([]testkit.LeafOption{testkit.WithURIs(uri), testkit.WithKey(key)}, options...)...).Certificate
	}
	node := "spiffe://example.org/node/a"
	response := func(chain [][]byte, roots ...*x509.Certificate) *posternpb.AttestNodeResponse {
		return &posternpb.AttestNodeResponse{Svid: &posternpb.X509SVID{Certificates: chain}, X509Authorities: rawOf(roots)}
	}
	options := AttestOptions{Token: tokenFor(t, own.Root), Clock: nowFunc, TrustDomain: domain}
	if _, err := accept(response(leaf(own, node), own.Root), key, options); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, bad := range map[string]*posternpb.AttestNodeResponse{
		"nothing":                   {},
		"no bundle":                 response(leaf(own, node)),
		"bundle without the pinned": response(leaf(other, node), other.Root),
		"not under the bundle":      response(leaf(other, node), own.Root),
		"other key":                 response(own.Leaf(t, testkit.WithURIs(node)).Certificate, own.Root),
		"workload":                  response(leaf(own, "spiffe://example.org/web"), own.Root),
		"two identities":            response(leaf(own, node, testkit.WithURIs(node, node+"b")), own.Root),
		"garbage":                   response([][]byte{{1, 2, 3}}, own.Root),
		"two in one element":        response([][]byte{append(leaf(own, node)[0], leaf(own, node)[1]...)}, own.Root),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := accept(bad, key, options); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestReservedPathsAreRecognised(t *testing.T) {
	for id, want := range map[string]bool{
		"spiffe://example.org/node/a": true, "spiffe://example.org/node": true, "spiffe://example.org/authority": true,
		"spiffe://example.org/authority/x": true, "spiffe://example.org/nodes/a": false, "spiffe://example.org/web/node": false,
	} {
		if got := Reserved(spiffeid.RequireFromString(id)); got != want {
			t.Errorf("Reserved(%q) = %v", id, got)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", strings.Repeat("x", maxNodeName+1), "a b", "ä"} {
		if id, err := NodeID(domain, name); err == nil {
			t.Errorf("node name %q makes %q", name, id)
		}
	}
}
