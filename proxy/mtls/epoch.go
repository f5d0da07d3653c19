package mtls

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
)

// epoch is the time in which neither our credential, nor the bundles, nor the revocations change. All that a Server or Client
// remembers of peers belongs to one and ends with it: verified chains, sessions, and the keys under which tickets are sealed.
type epoch struct {
	*credential
	index  *revocation.Index
	began  time.Time
	config *tls.Config // copied for each handshake
	chains *chains
}

// epochLife ends an epoch in which nothing changes, so that no ticket key is used for longer: who steals one reads the sessions of
// TLS 1.2 that were resumed with it.
const epochLife = 12 * time.Hour

// epochs has the current one. Safe for concurrent use.
type epochs struct {
	from      Credentials
	presented bool // we present the credential
	index     func() *revocation.Index
	now       func() time.Time
	configure func(*source.X509) *tls.Config

	current atomic.Pointer[epoch]
	mu      sync.Mutex // held while an epoch is made, so that a change costs one and not one for each handshake under way
}

// get returns nil and no error when there is no X.509-SVID.
func (l *epochs) get() (*epoch, error) {
	x, index, now := l.from.Get(), l.index(), l.now()
	if x == nil {
		return nil, nil //nolint:nilnil // none is an answer, which the caller turns into its reason
	}
	if e := l.current.Load(); e.is(x, index, now) {
		return e, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.current.Load()
	if last.is(x, index, now) {
		return last, nil
	}
	next, err := l.begin(last, x, index, now)
	if err != nil {
		return nil, err
	}
	l.current.Store(next)
	return next, nil
}

// is reports that nothing has changed.
func (e *epoch) is(x *source.X509, index *revocation.Index, now time.Time) bool {
	if e == nil || e.x509 != x || e.index != index {
		return false
	}
	age := now.Sub(e.began)
	return age >= 0 && age < epochLife
}

// begin makes the epoch that follows the last one, which may be nil.
func (l *epochs) begin(last *epoch, x *source.X509, index *revocation.Index, now time.Time) (*epoch, error) {
	next := &epoch{index: index, began: now, chains: newChains(maxChains)}
	if last != nil && last.x509 == x {
		next.credential = last.credential
	} else {
		own, err := newCredential(x, l.presented)
		if err != nil {
			return nil, err
		}
		next.credential = own
	}
	next.config = l.configure(x)
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("make a key for session tickets: %w", err)
	}
	// Set, not left to crypto/tls: a configuration without keys of its own makes them, and passes them on to its copies.
	next.config.SetSessionTicketKeys([][32]byte{key})
	return next, nil
}
