package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/observe"
)

// NodeCredentialOptions are what NewNodeCredential needs. State is required.
type NodeCredentialOptions struct {
	State *State
	// Revocations returns the current index, which the authority is judged by as any other peer; nil is empty.
	Revocations func() *revocation.Index
	Logger      *slog.Logger
	// Clock is the wall clock; nil means time.Now.
	Clock func() time.Time
}

// NodeCredential is this node's own SVID: what it shows to its authority, and what it recognises it by. Run renews it; a new SVID is on disk
// before it is used, and a new bundle is used at once and saved as soon as that succeeds. All methods may be called concurrently.
type NodeCredential struct {
	options NodeCredentialOptions
	logger  *slog.Logger
	holder  source.Holder
	wake    chan struct{} // capacity 1: the time of renewal may have moved

	mu       sync.Mutex
	identity *NodeIdentity
	renewAt  time.Time // by the wall clock, which goes on while the machine sleeps
	unsaved  bool      // the bundle in use is not on disk yet

	// Owned by the one goroutine that calls Run: the key of a renewal that has not succeeded yet, and its request. The next attempt uses it
	// again, so that attempts that fail leave the authority one key and not many.
	pendingKey crypto.Signer
	pendingCSR []byte
}

// lookEvery bounds every wait for a moment of the wall clock: timers stand still while the machine sleeps.
const lookEvery = time.Minute

// NewNodeCredential returns the credential for an identity that Attest made or State.Load read.
func NewNodeCredential(identity *NodeIdentity, o NodeCredentialOptions) (*NodeCredential, error) {
	if identity == nil || o.State == nil {
		return nil, errors.New("make the credential of this node: an identity and its state are required")
	}
	if o.Revocations == nil {
		o.Revocations = func() *revocation.Index { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	c := &NodeCredential{options: o, logger: o.Logger, identity: identity, wake: make(chan struct{}, 1)}
	c.renewAt = halfLife(identity.Chain[0], o.Clock())
	c.publish(identity)
	return c, nil
}

// Get returns the SVID with its key and the bundle of the same moment. It is never nil.
func (c *NodeCredential) Get() *source.X509 { return c.holder.Get() }

// Changed returns a channel that is closed at the next change.
func (c *NodeCredential) Changed() <-chan struct{} { return c.holder.Changed() }

// Dial returns a connection to the authority's listener for nodes, at host:port, that shows the current SVID and accepts the authority
// alone. It connects with the first call, and again by itself.
func (c *NodeCredential) Dial(address string) (*grpc.ClientConn, error) {
	return dial(address, c.clientTLS(), nil)
}

// clientTLS judges the server in VerifyConnection with the bundle of that moment. Sessions are never resumed.
func (c *NodeCredential) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.holder.Get().Certificate, nil
		},
		// The name in the certificate is a SPIFFE ID; VerifyConnection judges it, and the whole chain.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			own := c.holder.Get()
			verified, err := svid.Verify(state.PeerCertificates, own.Roots, svid.VerifyOptions{
				Now: c.options.Clock(), Role: svid.Server, Revocations: c.options.Revocations(),
			})
			if err != nil {
				return err
			}
			if want := AuthorityID(own.ID.TrustDomain()); verified.ID != want {
				return &svid.Error{Reason: observe.PeerUnexpectedID, Err: fmt.Errorf("%q is not %q", verified.ID.String(), want.String())}
			}
			return nil
		},
	}
}

// SetBundle replaces the authorities of the trust domain. active is the subject key id of the one that issues now; when another one issued this
// node's SVID, that is renewed soon, at a random moment so that not all nodes come at once. Nil says nothing. The new authorities are used even
// if they cannot be saved; Run tries that again then.
func (c *NodeCredential) SetBundle(authorities []*x509.Certificate, active []byte) error {
	if len(authorities) == 0 {
		return errors.New("replace the bundle of this node: it would be empty")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	leaf := c.identity.Chain[0]
	if len(active) > 0 && !bytes.Equal(leaf.AuthorityKeyId, active) {
		soon := c.options.Clock().Round(0).Add(rand.N(min(30*time.Second, leaf.NotAfter.Sub(leaf.NotBefore)/20) + 1)) //nolint:gosec // spreads load
		if soon.Before(c.renewAt) {
			c.renewAt = soon
			c.poke()
		}
	}
	if slices.EqualFunc(authorities, c.identity.Authorities, (*x509.Certificate).Equal) {
		return nil
	}
	c.identity, c.unsaved = c.identity.with(nil, nil, authorities), true
	c.publish(c.identity)
	c.save()
	return nil
}

// save writes what is in use to disk unless it is there. The lock is held.
func (c *NodeCredential) save() {
	if !c.unsaved {
		return
	}
	if err := c.options.State.Save(c.identity); err != nil {
		c.logger.Error("could not save the bundle of this node, which is in use, trying again", slog.String(observe.KeyError, err.Error()))
		return
	}
	c.unsaved = false
}

func (c *NodeCredential) publish(identity *NodeIdentity) {
	generation := uint64(1)
	if before := c.holder.Get(); before != nil {
		generation = before.Generation + 1
	}
	td := identity.ID.TrustDomain()
	c.holder.Set(newX509(identity, x509bundle.FromX509Authorities(td, slices.Clone(identity.Authorities)), generation))
}

func newX509(identity *NodeIdentity, bundle *x509bundle.Bundle, generation uint64) *source.X509 {
	leaf := identity.Chain[0]
	return &source.X509{
		ID:          identity.ID,
		Certificate: tls.Certificate{Certificate: rawOf(identity.Chain), PrivateKey: identity.Key, Leaf: leaf},
		Bundles:     x509bundle.NewSet(bundle),
		Roots:       rootsOf(identity.ID.TrustDomain(), bundle.X509Authorities()),
		Generation:  generation,
		NotBefore:   leaf.NotBefore,
		NotAfter:    leaf.NotAfter,
	}
}

// Run renews the SVID at about half of its life, over a connection that Dial made, until ctx ends; it returns nil then. A renewal that
// fails is tried again, at most a minute later, while the SVID that is there goes on serving.
func (c *NodeCredential) Run(ctx context.Context, conn grpc.ClientConnInterface) error {
	client := NewClient(conn)
	retry := time.Duration(0)
	for {
		if !c.wait(ctx, retry) {
			return nil
		}
		err := c.renew(ctx, client)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // an error then is that of the end that was asked for
		case err != nil:
			retry = c.nextRetry(retry)
			c.logger.Warn("could not renew the SVID of this node, trying again", slog.String(observe.KeyError, err.Error()),
				slog.Time(observe.KeyNotAfter, c.Get().NotAfter))
		default:
			retry = 0
			c.logger.Info("renewed the SVID of this node", slog.Time(observe.KeyNotAfter, c.Get().NotAfter))
		}
	}
}

// wait blocks until the next renewal is due, or until a failed one is to be tried again.
func (c *NodeCredential) wait(ctx context.Context, retry time.Duration) bool {
	for {
		due := c.untilRenewal()
		if retry > 0 {
			due = retry/2 + rand.N(retry/2+1) //nolint:gosec // spreads load
		}
		timer := time.NewTimer(min(due, lookEvery))
		select {
		case <-timer.C:
			c.mu.Lock()
			c.save()
			c.mu.Unlock()
			if due <= lookEvery {
				return true
			}
		case <-c.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

func (c *NodeCredential) untilRenewal() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewAt.Sub(c.options.Clock())
}

func (c *NodeCredential) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// nextRetry doubles from one second to one minute, and is never more than a twentieth of the SVID's life.
func (c *NodeCredential) nextRetry(last time.Duration) time.Duration {
	x := c.Get()
	most := max(100*time.Millisecond, min(time.Minute, x.NotAfter.Sub(x.NotBefore)/20))
	return min(most, max(time.Second, 2*last))
}

// renew makes a new key, or takes that of the attempt before, has it signed, and replaces the identity. The lock is not held while the authority answers.
func (c *NodeCredential) renew(ctx context.Context, client *Client) error {
	if c.pendingKey == nil {
		key, csr, err := newKey()
		if err != nil {
			return err
		}
		c.pendingKey, c.pendingCSR = key, csr
	}
	chain, err := client.RenewNode(ctx, c.pendingCSR)
	if err != nil {
		if status.Code(err) == codes.PermissionDenied {
			c.pendingKey, c.pendingCSR = nil, nil // nothing was signed, and it may be the key that is refused
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.identity.with(c.pendingKey, chain, nil)
	if err := next.check(); err != nil {
		return fmt.Errorf("the renewed SVID: %w", err)
	}
	if err := verifyOwn(chain, next.Authorities, c.identity.ID, c.options.Clock()); err != nil {
		return err
	}
	if err := c.options.State.Save(next); err != nil {
		return err
	}
	c.identity, c.unsaved = next, false
	c.publish(next)
	c.pendingKey, c.pendingCSR = nil, nil
	c.renewAt = halfLife(chain[0], c.options.Clock())
	return nil
}

// halfLife is when to renew: half of the life that is left, give or take a tenth, so that what was issued together is not renewed together. What
// is left counts from now and not from NotBefore, which lies before the moment of issuance. The result has no monotonic reading: that clock
// stands still while the machine sleeps.
func halfLife(leaf *x509.Certificate, now time.Time) time.Time {
	now = now.Round(0)
	left := max(0, leaf.NotAfter.Sub(now))
	return now.Add(left*2/5 + rand.N(left/5+1)) //nolint:gosec // spreads load
}
