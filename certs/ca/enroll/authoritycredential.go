package enroll

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
)

// OwnAuthority is what an authority's credential is made of; ca.Authority is one.
type OwnAuthority interface {
	Authority
	// Changed returns a channel that is closed when Bundle says something new.
	Changed() <-chan struct{}
}

// AuthorityCredential is the SVID with which the authority serves its listeners. It issues it to itself, with a key that stays in memory, and
// renews it at half of its life and when another authority becomes the one that signs. All methods may be called concurrently.
type AuthorityCredential struct {
	authority OwnAuthority
	logger    *slog.Logger
	now       func() time.Time
	holder    source.Holder

	// Owned by the one goroutine that calls Run.
	identity *NodeIdentity
	bundle   ca.Bundle
	renewAt  time.Time
	failure  string // what was last logged, and when
	failedAt time.Time
}

// repeatFailure is how often a failure that stays the same is logged.
const repeatFailure = time.Minute

// retryOwn is how long a failed issuance waits: nobody can enrol meanwhile, and nothing but this process is asked.
const retryOwn = time.Second

// NewAuthorityCredential issues the first SVID. When the identity of the authority is revoked there is none until Run could issue it: the
// process must come up for the revocation to be lifted. A nil logger and clock have defaults.
func NewAuthorityCredential(ctx context.Context, authority OwnAuthority, logger *slog.Logger, now func() time.Time) (*AuthorityCredential, error) {
	if authority == nil {
		return nil, errors.New("make the credential of the authority: there is no authority")
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if now == nil {
		now = time.Now
	}
	c := &AuthorityCredential{authority: authority, logger: logger, now: now}
	err := c.refresh(ctx)
	if errors.Is(err, ca.ErrRevoked) {
		c.complain(err)
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Get returns the SVID with its key and the bundle of the same moment, or nil while the first one could not be issued.
func (c *AuthorityCredential) Get() *source.X509 { return c.holder.Get() }

// Changed returns a channel that is closed at the next change.
func (c *AuthorityCredential) Changed() <-chan struct{} { return c.holder.Changed() }

// Pin is the root under which the authority serves now, for a new join token. It fails while there is no SVID.
func (c *AuthorityCredential) Pin() (nodeattestor.Pin, error) {
	x := c.Get()
	if x == nil {
		return nodeattestor.Pin{}, errNoSVID
	}
	full, err := withRoot(x, &x.Certificate)
	if err != nil {
		return nodeattestor.Pin{}, err
	}
	root, err := x509.ParseCertificate(full.Certificate[len(full.Certificate)-1])
	if err != nil {
		return nodeattestor.Pin{}, fmt.Errorf("parse root: %w", err)
	}
	return nodeattestor.PinOf(root), nil
}

// Run keeps the SVID current until ctx ends, and returns nil then.
func (c *AuthorityCredential) Run(ctx context.Context) error {
	for {
		changed := c.authority.Changed()
		err := c.refresh(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an error then is that of the end that was asked for
		}
		wait := min(c.renewAt.Sub(c.now()), lookEvery)
		if err != nil {
			c.complain(err)
			wait = retryOwn
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// complain logs a failure, and one that stays the same once in a while only.
func (c *AuthorityCredential) complain(err error) {
	if now := c.now(); err.Error() != c.failure || now.Sub(c.failedAt) >= repeatFailure {
		c.failure, c.failedAt = err.Error(), now
		c.logger.Error("could not issue the SVID of the authority, which no node can connect without, trying again",
			slog.String(observe.KeyError, err.Error()))
	}
}

// refresh brings SVID and bundle up to date, and publishes them when one of them changed.
func (c *AuthorityCredential) refresh(ctx context.Context) error {
	bundle := c.authority.Bundle()
	if len(bundle.Authorities) == 0 {
		return errors.New("issue the SVID of the authority: the bundle is empty")
	}
	fresh := c.identity != nil && c.now().Before(c.renewAt) && bytes.Equal(c.identity.Chain[0].AuthorityKeyId, bundle.ActiveAuthority)
	if fresh && slices.EqualFunc(bundle.Authorities, c.bundle.Authorities, (*x509.Certificate).Equal) {
		return nil
	}
	if !fresh {
		if err := c.issue(ctx, bundle); err != nil {
			return err
		}
	}
	c.bundle = bundle
	c.publish()
	return nil
}

func (c *AuthorityCredential) issue(ctx context.Context, bundle ca.Bundle) error {
	key, _, err := newKey()
	if err != nil {
		return err
	}
	id := AuthorityID(bundle.TrustDomain)
	issued, err := c.authority.IssueX509(ctx, ca.Request{ID: id, PublicKey: key.Public(), Node: id.String()})
	if err != nil {
		return fmt.Errorf("issue the SVID of the authority: %w", err)
	}
	c.identity = &NodeIdentity{ID: id, Key: key, Chain: issued.Chain}
	c.renewAt = halfLife(issued.Chain[0], c.now())
	c.failure = ""
	return nil
}

func (c *AuthorityCredential) publish() {
	generation := uint64(1)
	if before := c.holder.Get(); before != nil {
		generation = before.Generation + 1
	}
	bundle := x509bundle.FromX509Authorities(c.bundle.TrustDomain, slices.Clone(c.bundle.Authorities))
	c.holder.Set(newX509(c.identity, bundle, generation))
}
