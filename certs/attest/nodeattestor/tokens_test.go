package nodeattestor

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var (
	trustDomain = spiffeid.RequireTrustDomainFromString("example.org")
	web         = spiffeid.RequireFromString("spiffe://example.org/node/web")
	pin         = Pin{1}
)

// events keeps what is appended, or fails.
type events struct {
	fail error
	seen []audit.Event
}

func (e *events) Append(_ context.Context, event audit.Event) (uint64, error) {
	e.seen = append(e.seen, event)
	return uint64(len(e.seen)), e.fail
}

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "data", "store.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestTokenIsRedeemedOnce(t *testing.T) {
	log := &events{}
	tokens := NewTokens(open(t), log, trustDomain, nil)
	token, info, err := tokens.Create(t.Context(), TokenSpec{Node: web, Identities: []spiffeid.ID{spiffeid.RequireFromString("spiffe://example.org/web")}}, pin, "uid:0")
	if err != nil {
		t.Fatal(err)
	}
	if token.Pin() != pin || info.Node != web || info.Expires.Sub(info.Created) != DefaultTTL {
		t.Errorf("created %+v with pin %s", info, token.Pin())
	}
	if len(log.seen) != 1 || log.seen[0].Type != audit.TokenCreated || log.seen[0].Actor != "uid:0" {
		t.Errorf("events %+v, want one of the creation by its actor", log.seen)
	}
	if _, err := tokens.Lookup(t.Context(), token); err != nil {
		t.Errorf("looking it up: %v", err)
	}
	got, err := tokens.Redeem(t.Context(), token)
	if err != nil || got.Node != web || len(got.Identities) != 1 || got.CreatedBy != "uid:0" {
		t.Errorf("redeemed %+v, %v", got, err)
	}
	if _, err := tokens.Redeem(t.Context(), token); !errors.Is(err, ErrToken) {
		t.Errorf("redeemed twice: %v", err)
	}
	if _, err := tokens.Lookup(t.Context(), token); !errors.Is(err, ErrToken) {
		t.Errorf("used and still there: %v", err)
	}
}

// SPIRE 1.14.6 fixed a race between the check and the use of a token.
func TestOneOfAHundredConcurrentRedeemersSucceeds(t *testing.T) {
	s := open(t)
	token, _, err := NewTokens(s, &events{}, trustDomain, nil).Create(t.Context(), TokenSpec{Node: web}, pin, "uid:0")
	if err != nil {
		t.Fatal(err)
	}
	var succeeded, refused atomic.Int32
	var redeemers sync.WaitGroup
	begin := make(chan struct{})
	for range 100 {
		redeemers.Go(func() {
			tokens := NewTokens(s, &events{}, trustDomain, nil) // each as a replica of its own
			<-begin
			switch _, err := tokens.Redeem(t.Context(), token); {
			case err == nil:
				succeeded.Add(1)
			case errors.Is(err, ErrToken):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	close(begin)
	redeemers.Wait()
	if succeeded.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d succeeded and %d were refused, want 1 and 99", succeeded.Load(), refused.Load())
	}
}

func TestExpiredTokenIsRefusedEvenIfTheStoreStillHasIt(t *testing.T) {
	var late atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	tokens := NewTokens(open(t), &events{}, trustDomain, now)
	token, _, err := tokens.Create(t.Context(), TokenSpec{Node: web, TTL: time.Hour}, pin, "uid:0")
	if err != nil {
		t.Fatal(err)
	}
	late.Store(int64(time.Hour))
	if _, err := tokens.Redeem(t.Context(), token); !errors.Is(err, ErrToken) {
		t.Errorf("redeemed at its end: %v", err)
	}
}

func TestUnknownTokenIsRefused(t *testing.T) {
	tokens := NewTokens(open(t), &events{}, trustDomain, nil)
	if _, err := tokens.Redeem(t.Context(), newToken(pin)); !errors.Is(err, ErrToken) {
		t.Errorf("got %v", err)
	}
}

func TestTokenForSomethingImpossibleIsNotCreated(t *testing.T) {
	tokens := NewTokens(open(t), &events{}, trustDomain, nil)
	foreign := spiffeid.RequireFromString("spiffe://other.org/node/web")
	for name, spec := range map[string]TokenSpec{
		"no node":          {},
		"foreign node":     {Node: foreign},
		"root path":        {Node: trustDomain.ID()},
		"negative life":    {Node: web, TTL: -time.Second},
		"endless life":     {Node: web, TTL: MaxTTL + 1},
		"foreign identity": {Node: web, Identities: []spiffeid.ID{foreign}},
		"many identities":  {Node: web, Identities: make([]spiffeid.ID, maxIdentities+1)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := tokens.Create(t.Context(), spec, pin, "uid:0"); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v, want ErrInvalid", err)
			}
		})
	}
	if _, _, err := tokens.Create(t.Context(), TokenSpec{Node: web}, Pin{}, "uid:0"); err == nil {
		t.Error("created without a pin")
	}
}

func TestTokenThatCannotBeRecordedDoesNotExist(t *testing.T) {
	s := open(t)
	tokens := NewTokens(s, &events{fail: errors.New("disk is full")}, trustDomain, nil)
	if _, _, err := tokens.Create(t.Context(), TokenSpec{Node: web}, pin, "uid:0"); err == nil {
		t.Fatal("no error")
	}
	if page, err := s.List(t.Context(), keyPrefix, "", 0); err != nil || len(page.Items) != 0 {
		t.Errorf("the store has %v, %v", page.Items, err)
	}
}

func TestStoreDoesNotHaveTheSecret(t *testing.T) {
	s := open(t)
	token, _, err := NewTokens(s, &events{}, trustDomain, nil).Create(t.Context(), TokenSpec{Node: web}, pin, "uid:0")
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.List(t.Context(), "", "", 0)
	if err != nil || len(page.Items) == 0 {
		t.Fatalf("listing %v, %v", page, err)
	}
	secret := strings.Split(token.Text(), ".")[1]
	for _, item := range page.Items {
		if strings.Contains(item.Key, secret) || strings.Contains(string(item.Value), secret) {
			t.Errorf("the store has the secret under %q", item.Key)
		}
	}
}
