package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
)

// Defaults of Options, and the bounds that no option moves.
const (
	DefaultRootTTL             = 10 * 365 * 24 * time.Hour
	DefaultSigningTTL          = 24 * time.Hour
	DefaultLeafTTL             = time.Hour
	DefaultMaxTTL              = 24 * time.Hour
	DefaultNodeTTL             = 7 * 24 * time.Hour
	DefaultPropagationDeadline = 30 * time.Second

	// MinTTL is the shortest life that is signed: below it, handshakes race with renewals.
	MinTTL = 10 * time.Second
	// backdate lets a peer whose clock is behind accept a new certificate.
	backdate = time.Minute
	// margin is added before trust ends, for peers whose clock is behind and for issuance in flight.
	margin = time.Minute
)

// Events appends to the audit log, and returns when the event is durable.
type Events interface {
	Append(ctx context.Context, event audit.Event) (uint64, error)
}

// Options are what an Authority is made of.
type Options struct {
	Store       store.Store
	Keys        *keys.Manager
	TrustDomain spiffeid.TrustDomain
	Events      Events
	// Clock is the wall clock; nil means time.Now.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means that nobody reads them.
	Registerer prometheus.Registerer
	// KeyType is that of new authorities; "" means keys.ECP256.
	KeyType keys.Type

	// Lives. 0 means the default of that name. DefaultTTL is given to a Request without one, MaxTTL is the most that one may ask for;
	// NodeTTL is both, for nodes.
	RootTTL    time.Duration
	SigningTTL time.Duration
	DefaultTTL time.Duration
	MaxTTL     time.Duration
	NodeTTL    time.Duration

	// Propagated blocks until every node that is connected has acknowledged the bundle of that sequence, or a later one. Nil means
	// that there are none.
	Propagated func(ctx context.Context, sequence uint64) error
	// PropagationDeadline is how long Propagated may take before a new root is activated all the same, with a warning.
	PropagationDeadline time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Store == nil || o.Keys == nil || o.Events == nil || o.TrustDomain.IsZero() {
		return o, errors.New("open authority: store, keys, trust domain and events are required")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.RootTTL, DefaultRootTTL},
		{&o.SigningTTL, DefaultSigningTTL},
		{&o.DefaultTTL, DefaultLeafTTL},
		{&o.MaxTTL, max(DefaultMaxTTL, o.DefaultTTL)},
		{&o.NodeTTL, DefaultNodeTTL},
		{&o.PropagationDeadline, DefaultPropagationDeadline},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	return o, o.validate()
}

func (o Options) validate() error {
	switch {
	case o.DefaultTTL < MinTTL || o.NodeTTL < MinTTL:
		return fmt.Errorf("open authority: lives of SVIDs must be at least %s", MinTTL)
	case o.MaxTTL < o.DefaultTTL:
		return fmt.Errorf("open authority: longest life %s is below the default %s", o.MaxTTL, o.DefaultTTL)
	// The last sixth of a signing authority's life is the least that it has left when it signs.
	case o.SigningTTL < 6*MinTTL:
		return fmt.Errorf("open authority: life of signing authorities must be at least %s", 6*MinTTL)
	case o.RootTTL < 2*o.SigningTTL:
		return fmt.Errorf("open authority: life of roots must be at least twice that of signing authorities, %s", o.SigningTTL)
	case o.PropagationDeadline < 0:
		return errors.New("open authority: propagation deadline is negative")
	}
	if _, err := keys.ParseType(string(o.KeyType)); err != nil {
		return fmt.Errorf("open authority: %w", err)
	}
	return nil
}

// longestTTL is the longest life that a leaf can be given.
func (o Options) longestTTL() time.Duration { return max(o.MaxTTL, o.NodeTTL) }
