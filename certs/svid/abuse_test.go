package svid

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
)

// abuse is a presentation that some verifier somewhere took, or should have, and what ours says.
type abuse struct {
	name    string
	verdict verdict
	why     string // the rule
	present func(t testing.TB) presentation
}

// verdict is the reason of the refusal in each role, "" if accepted.
type verdict struct{ asClient, asServer observe.Reason }

// unparsable is what crypto/x509 does not even read: the handshake fails before there is anything to verify.
const unparsable observe.Reason = "unparsable"

var accepted = verdict{}

func refused(reason observe.Reason) verdict { return verdict{reason, reason} }

// judge does what a handshake does: parse, then Verify.
func (p presentation) judge(t testing.TB, role Role) (Verified, observe.Reason, error) {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range p.chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return Verified{}, unparsable, err
		}
		chain = append(chain, cert)
	}
	pool := x509.NewCertPool()
	for _, der := range p.roots {
		if cert, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(cert)
		}
	}
	options := p.options
	options.Role, options.Now, options.Revocations = role, p.now, revocation.NewIndex(p.revoked)
	verified, err := Verify(chain, map[spiffeid.TrustDomain]*x509.CertPool{mintDomain: pool}, options)
	if err == nil {
		return verified, "", nil
	}
	refusal, ok := err.(*Error) //nolint:errorlint // every error is one, unwrapped
	if !ok {
		t.Errorf("error %v is no *Error", err)
		return Verified{}, "", err
	}
	return Verified{}, refusal.Reason, err
}

// abuses is the whole table.
func abuses() []abuse {
	var all []abuse
	for _, part := range [][]abuse{
		sanAbuses(), idAbuses(), usageAbuses(), nameConstraintAbuses(),
		keyAbuses(), signatureAbuses(), timeAbuses(), serialAbuses(), identifierAbuses(), extensionAbuses(), encodingAbuses(),
		chainAbuses(), authorityAbuses(), loopAbuses(), costAbuses(), revocationAbuses(),
	} {
		all = append(all, part...)
	}
	return all
}

func TestVerifyJudgesEachAbusivePresentation(t *testing.T) {
	t.Parallel()
	for _, a := range abuses() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			p := a.present(t)
			for role, want := range map[Role]observe.Reason{Client: a.verdict.asClient, Server: a.verdict.asServer} {
				verified, got, err := p.judge(t, role)
				if got != want {
					t.Errorf("as %s: verdict %q (%v), want %q: %s", role, got, err, want, a.why)
				}
				if got == "" && verified.ID.TrustDomain() != mintDomain {
					t.Errorf("as %s: accepted as %q", role, verified.ID)
				}
				if err != nil && got != unparsable {
					wantHarmlessText(t, err)
				}
			}
		})
	}
}

func TestAbusesAreManyAndNamed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range abuses() {
		if a.name == "" || a.why == "" || seen[a.name] {
			t.Errorf("abuse %q: name twice or empty, or no reason", a.name)
		}
		seen[a.name] = true
	}
	if len(seen) < 110 {
		t.Errorf("%d abuses", len(seen))
	}
}

// wantHarmlessText: what a peer wrote into its certificates must not reach a log as it is, nor at any length.
func wantHarmlessText(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > 2048 {
		t.Errorf("error has %d bytes", len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("error has more than printable ASCII: %q", text)
	}
}
