package nodeattestor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
)

// Durations of a token's life.
const (
	DefaultTTL = 10 * time.Minute
	MaxTTL     = 7 * 24 * time.Hour
)

// ErrToken refuses a token that is unknown, used, or past its time. It does not say which: that is nobody's business who holds
// a wrong one.
var ErrToken = errors.New("join token is unknown, used or expired")

// ErrInvalid is matched by the errors of Create that stand for what was asked, as opposed to a failure here.
var ErrInvalid = errors.New("invalid request")

// maxIdentities bounds what one token promises.
const maxIdentities = 64

// keyPrefix stands before the hash of the secret in the store.
const keyPrefix = "token/"

// TokenSpec says what a new token is for.
type TokenSpec struct {
	// Node is the SPIFFE ID of the node to be.
	Node spiffeid.ID
	// TTL is how long the token may be redeemed; 0 means DefaultTTL.
	TTL time.Duration
	// Identities are those that the postern process on the node gets when the token is redeemed.
	Identities []spiffeid.ID
}

// Info is what is known of a token. It is no secret.
type Info struct {
	// ID tells tokens apart: the beginning of the hash of the secret.
	ID         string        `json:"id"`
	Node       spiffeid.ID   `json:"node"`
	Identities []spiffeid.ID `json:"identities,omitempty"`
	CreatedBy  string        `json:"created_by"`
	Created    time.Time     `json:"created"`
	Expires    time.Time     `json:"expires"`
}

// Events appends to the audit log, and returns when the event is durable.
type Events interface {
	Append(ctx context.Context, event audit.Event) (uint64, error)
}

// Tokens are the join tokens that can be redeemed, kept in a store. All methods may be called concurrently, also on several
// Tokens over one store.
type Tokens struct {
	store       store.Store
	events      Events
	trustDomain spiffeid.TrustDomain
	now         func() time.Time
}

// NewTokens returns the tokens of a trust domain. A nil clock means time.Now.
func NewTokens(s store.Store, events Events, td spiffeid.TrustDomain, now func() time.Time) *Tokens {
	if now == nil {
		now = time.Now
	}
	return &Tokens{store: s, events: events, trustDomain: td, now: now}
}

// Create makes a token that may be shown to a server under the root authority of pin. The token is valid, and its event appended,
// when Create returns; nothing can recover its text afterwards. A spec that cannot be met matches ErrInvalid.
func (t *Tokens) Create(ctx context.Context, spec TokenSpec, pin Pin, actor string) (Token, Info, error) {
	if spec.TTL == 0 {
		spec.TTL = DefaultTTL
	}
	if err := t.check(spec, pin); err != nil {
		return Token{}, Info{}, fmt.Errorf("create join token: %w", err)
	}
	token := newToken(pin)
	created := t.now().UTC()
	info := Info{
		ID: token.hash()[:12], Node: spec.Node, Identities: spec.Identities,
		CreatedBy: actor, Created: created, Expires: created.Add(spec.TTL),
	}
	value, err := json.Marshal(info)
	if err != nil {
		return Token{}, Info{}, fmt.Errorf("create join token: %w", err)
	}
	key := keyPrefix + token.hash()
	_, err = t.store.Commit(ctx, store.Txn{
		If:   []store.Condition{{Key: key}},
		Then: []store.Op{{Key: key, Value: value, TTL: spec.TTL}},
	})
	if err != nil {
		return Token{}, Info{}, fmt.Errorf("create join token: %w", err)
	}
	if err := t.tellCreated(ctx, info); err != nil {
		_, undo := t.store.Commit(ctx, store.Txn{Then: []store.Op{{Key: key, Delete: true}}})
		return Token{}, Info{}, fmt.Errorf("create join token: %w", errors.Join(err, undo))
	}
	return token, info, nil
}

func (t *Tokens) tellCreated(ctx context.Context, info Info) error {
	_, err := t.events.Append(ctx, audit.Event{
		Type: audit.TokenCreated, Actor: info.CreatedBy, Target: info.Node.String(),
		Detail: map[string]string{"token": info.ID, "expires": info.Expires.Format(time.RFC3339)},
	})
	return err
}

func (t *Tokens) check(spec TokenSpec, pin Pin) error {
	if !spec.Node.MemberOf(t.trustDomain) || spec.Node.Path() == "" {
		return fmt.Errorf("%w: node %q is no member of trust domain %q", ErrInvalid, spec.Node.String(), t.trustDomain.Name())
	}
	if spec.TTL < 0 || spec.TTL > MaxTTL {
		return fmt.Errorf("%w: life of %s is not between 0 and %s", ErrInvalid, spec.TTL, MaxTTL)
	}
	if len(spec.Identities) > maxIdentities {
		return fmt.Errorf("%w: %d identities, the limit is %d", ErrInvalid, len(spec.Identities), maxIdentities)
	}
	for _, id := range spec.Identities {
		if !id.MemberOf(t.trustDomain) || id.Path() == "" {
			return fmt.Errorf("%w: identity %q is no member of trust domain %q", ErrInvalid, id.String(), t.trustDomain.Name())
		}
	}
	if pin == (Pin{}) {
		return errors.New("no root authority to pin")
	}
	return nil
}

// Lookup returns what is known of a token without using it up, or ErrToken.
func (t *Tokens) Lookup(ctx context.Context, token Token) (Info, error) {
	info, _, err := t.find(ctx, token)
	return info, err
}

// Redeem uses the token up. Of any number of calls with one token, one gets its Info; all others get ErrToken. An error of the store
// leaves open whether the token can still be used.
func (t *Tokens) Redeem(ctx context.Context, token Token) (Info, error) {
	info, item, err := t.find(ctx, token)
	if err != nil {
		return Info{}, err
	}
	_, err = t.store.Commit(ctx, store.Txn{
		If:   []store.Condition{{Key: item.Key, Modified: item.Modified}},
		Then: []store.Op{{Key: item.Key, Delete: true}},
	})
	if errors.Is(err, store.ErrConflict) {
		return Info{}, ErrToken
	}
	if err != nil {
		return Info{}, fmt.Errorf("redeem join token: %w", err)
	}
	return info, nil
}

// find reads the token's record. The record's own time counts besides the store's expiry, which may come late.
func (t *Tokens) find(ctx context.Context, token Token) (Info, store.Item, error) {
	item, err := t.store.Get(ctx, keyPrefix+token.hash())
	if errors.Is(err, store.ErrNotFound) {
		return Info{}, store.Item{}, ErrToken
	}
	if err != nil {
		return Info{}, store.Item{}, fmt.Errorf("look up join token: %w", err)
	}
	info, err := decodeInfo(item.Value)
	if err != nil {
		return Info{}, store.Item{}, err
	}
	if !t.now().Before(info.Expires) {
		return Info{}, store.Item{}, ErrToken
	}
	return info, item, nil
}

func decodeInfo(value []byte) (Info, error) {
	var info Info
	if err := json.Unmarshal(value, &info); err != nil {
		return Info{}, fmt.Errorf("decode record of join token: %w", err)
	}
	return info, nil
}
