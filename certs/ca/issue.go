package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/observe"
)

// Kind says whose credential it is.
type Kind string

// Kinds of credentials.
const (
	Workload Kind = "workload"
	Node     Kind = "node"
)

// Request asks for one X.509-SVID. That the asker may have it was decided before.
type Request struct {
	ID spiffeid.ID
	// PublicKey is the holder's, its possession proven (svid.ValidateCSR).
	PublicKey crypto.PublicKey
	// TTL is the life asked for; 0 means the default. It is cut to that of the signing authority.
	TTL      time.Duration
	DNSNames []string
	// EntryID is the registration entry that earned it; "" when none did, as for a node.
	EntryID string
	// Node names the node that asks, for the record.
	Node string
}

// Issued is a credential that is durably recorded.
type Issued struct {
	ID spiffeid.ID
	// Chain is the leaf, then the signing authority; the root is in the bundle.
	Chain     []*x509.Certificate
	Serial    string // lower-case hex
	NotBefore time.Time
	NotAfter  time.Time
	Authority string // subject key id of the signing authority, in hex
}

// IssueX509 signs an SVID for a workload. It returns once the credential is recorded and its event appended; on any error nothing was
// handed out. What was asked and may not be matches ErrRefused.
func (a *Authority) IssueX509(ctx context.Context, req Request) (*Issued, error) {
	return a.issue(ctx, req, Workload)
}

// IssueNode is IssueX509 for a node's own SVID, whose life is Options.NodeTTL. Like any leaf it ends with its signing authority at the
// latest, so with the default lives a node has 4 to 24 hours, and renews at half of what it got.
func (a *Authority) IssueNode(ctx context.Context, req Request) (*Issued, error) {
	return a.issue(ctx, req, Node)
}

// issue is the funnel: request, checked, signed, recorded, told, returned.
func (a *Authority) issue(ctx context.Context, req Request, kind Kind) (*Issued, error) {
	issued, err := a.issueChecked(ctx, req, kind)
	a.metrics.issued(kind, err)
	if err != nil {
		return nil, fmt.Errorf("issue X.509-SVID for %q: %w", req.ID.String(), err)
	}
	return issued, nil
}

func (a *Authority) issueChecked(ctx context.Context, req Request, kind Kind) (*Issued, error) {
	c, err := a.check(req, kind)
	if err != nil {
		return nil, err
	}
	cert, err := c.sign()
	if err != nil {
		return nil, err
	}
	if err := a.record(ctx, c, cert); err != nil {
		return nil, err
	}
	if err := a.tell(ctx, issuedEvent(c, cert)); err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{cert, c.under.signing.cert}
	// A revocation may have been recorded since the check; what it names must not be handed out after it.
	if r, revoked := a.revocations.Load().Match(chain, req.ID, a.opts.Clock()); revoked {
		return nil, fmt.Errorf("%w: revocation %q", ErrRevoked, r.ID)
	}
	if a.log.Enabled(ctx, slog.LevelDebug) {
		a.log.Debug("issued X.509-SVID", slog.String(observe.KeySPIFFEID, req.ID.String()),
			slog.String(observe.KeySerial, revocation.SerialString(cert.SerialNumber)), slog.Time(observe.KeyNotAfter, cert.NotAfter))
	}
	return &Issued{
		ID:        req.ID,
		Chain:     chain,
		Serial:    revocation.SerialString(cert.SerialNumber),
		NotBefore: cert.NotBefore,
		NotAfter:  cert.NotAfter,
		Authority: c.under.signing.ID,
	}, nil
}

// checked is a request that may be signed. Only check makes one.
type checked struct {
	req      Request
	kind     Kind
	now      time.Time
	under    *current
	template *x509.Certificate
}

// check holds every rule that a request must meet, and builds what will be signed.
func (a *Authority) check(req Request, kind Kind) (*checked, error) {
	now, under := a.opts.Clock(), a.current.Load()
	if err := checkClock(now, under); err != nil {
		return nil, err
	}
	if err := a.checkName(req); err != nil {
		return nil, err
	}
	if err := svid.CheckKey(req.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWeakKey, err)
	}
	if err := a.checkRevoked(req, now); err != nil {
		return nil, err
	}
	ttl, err := a.life(req, kind)
	if err != nil {
		return nil, err
	}
	template, err := svid.Template(svid.Leaf{
		ID:        req.ID,
		PublicKey: req.PublicKey,
		Serial:    newSerial(),
		NotBefore: later(now.Add(-backdate), under.signing.cert.NotBefore).UTC().Truncate(time.Second),
		NotAfter:  earlier(now.Add(ttl), under.signing.cert.NotAfter).UTC().Truncate(time.Second),
		DNSNames:  req.DNSNames,
		Authority: under.signing.cert,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	return &checked{req: req, kind: kind, now: now, under: under, template: template}, nil
}

// checkClock refuses to sign with a clock that cannot be right, or in the last moments of the signing authority.
func checkClock(now time.Time, under *current) error {
	cert := under.signing.cert
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("%w: it shows %s, and the signing authority begins at %s: set it, or wait", ErrClock,
			now.UTC().Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.Add(MinTTL).After(cert.NotAfter) {
		return fmt.Errorf("%w at %s: it is replaced while the authority runs; is the clock right?", ErrExpired, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (a *Authority) checkName(req Request) error {
	if req.ID.IsZero() {
		return fmt.Errorf("%w: no SPIFFE ID", ErrInvalidRequest)
	}
	if req.ID.TrustDomain() != a.opts.TrustDomain {
		return fmt.Errorf("%w: this is the authority of %q", ErrForeignTrustDomain, a.opts.TrustDomain.Name())
	}
	if req.ID.Path() == "" { // SPIFFE X509-SVID, Section 3.1: leaves "MUST have a non-root path component"
		return fmt.Errorf("%w: SPIFFE ID has no path", ErrInvalidRequest)
	}
	return nil
}

func (a *Authority) checkRevoked(req Request, now time.Time) error {
	index := a.revocations.Load()
	if r, revoked := index.Match(nil, req.ID, now); revoked {
		return fmt.Errorf("%w: revocation %q", ErrRevoked, r.ID)
	}
	spki, err := x509.MarshalPKIXPublicKey(req.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: encode public key: %w", ErrInvalidRequest, err)
	}
	if r, revoked := index.MatchKey(spki, now); revoked {
		return fmt.Errorf("%w: revocation %q", ErrRevoked, r.ID)
	}
	return nil
}

// life returns how long the credential may live.
func (a *Authority) life(req Request, kind Kind) (time.Duration, error) {
	fallback, most := a.opts.DefaultTTL, a.opts.MaxTTL
	if kind == Node {
		fallback, most = a.opts.NodeTTL, a.opts.NodeTTL
	}
	if req.TTL == 0 {
		return fallback, nil
	}
	if req.TTL < MinTTL || req.TTL > most {
		return 0, fmt.Errorf("%w: %s is not from %s to %s", ErrTTL, req.TTL, MinTTL, most)
	}
	return req.TTL, nil
}

// sign uses the authority's key, and verifies what came of it.
func (c *checked) sign() (*x509.Certificate, error) {
	authority := c.under.signing.cert
	der, err := x509.CreateCertificate(rand.Reader, c.template, authority, c.req.PublicKey, c.under.signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse what was signed: %w", err)
	}
	if err := svid.CheckIssued(cert, authority); err != nil {
		return nil, err
	}
	return cert, nil
}

func issuedEvent(c *checked, cert *x509.Certificate) audit.Event {
	actor := c.req.Node
	if actor == "" {
		actor = actorAuthority
	}
	return audit.Event{
		Type:   audit.SVIDIssued,
		Actor:  actor,
		Target: c.req.ID.String(),
		Detail: map[string]string{
			"kind":      string(c.kind),
			"serial":    revocation.SerialString(cert.SerialNumber),
			"not_after": cert.NotAfter.UTC().Format(time.RFC3339),
			"entry":     c.req.EntryID,
			"key":       revocation.KeyString(cert),
			"authority": c.under.signing.ID,
		},
	}
}

// result is the metric label of an error.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrRefused):
		return "refused"
	default:
		return "error"
	}
}
