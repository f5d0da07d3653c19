package mtls

import (
	"container/list"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
)

const (
	// maxChains bounds the verified chains that an epoch remembers: about 10 KiB each, certificates included.
	maxChains = 1024
	// chainLife is how long a verified chain counts at most before it is verified again, whatever its certificates say.
	chainLife = 10 * time.Minute
)

// chainKey is the hash of all certificates that a peer presented, in their order.
type chainKey [sha256.Size]byte

func keyOf(presented []*x509.Certificate) chainKey {
	h := sha256.New()
	for _, cert := range presented {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(cert.Raw))) //nolint:gosec // crypto/tls bounds a certificate to 16 MiB
		_, _ = h.Write(length[:])
		_, _ = h.Write(cert.Raw)
	}
	var key chainKey
	h.Sum(key[:0])
	return key
}

// verifiedChain is what svid.Verify found good, and what was made of it. It is immutable, and shared by the connections of the peer.
type verifiedChain struct {
	key       chainKey
	presented []*x509.Certificate
	peer      *Peer
	subjects  []revocation.Subject // of the peer and of our own credential
	verified  time.Time
}

// holds reports that verification would say the same again, as far as the clock and the index go: every certificate that was
// presented or is on a verified path is valid, and none is revoked. False says nothing: then it has to be verified again.
func (c *verifiedChain) holds(index *revocation.Index, now time.Time) bool {
	if age := now.Sub(c.verified); age < 0 || age >= chainLife || !allValid(c.presented, now) {
		return false
	}
	for _, path := range c.peer.chains {
		if !allValid(path, now) {
			return false
		}
	}
	_, revoked := c.peer.revoked(index, now)
	return !revoked
}

func allValid(certs []*x509.Certificate, now time.Time) bool {
	for _, cert := range certs {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return false
		}
	}
	return true
}

// chains are the verified ones of an epoch, the last used ones if there are too many. Only what was verified gets in, so that
// strangers drive nobody out. Safe for concurrent use.
type chains struct {
	most int

	mu     sync.Mutex
	known  map[chainKey]*list.Element // guarded by mu
	recent *list.List                 // guarded by mu: of *verifiedChain, the last used first
}

func newChains(most int) *chains {
	return &chains{most: most, known: map[chainKey]*list.Element{}, recent: list.New()}
}

// get returns nil when the chain is not known.
func (c *chains) get(key chainKey) *verifiedChain {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.known[key]
	if element == nil {
		return nil
	}
	c.recent.MoveToFront(element)
	chain, _ := element.Value.(*verifiedChain)
	return chain
}

// put remembers a chain, in the place of an older verdict on the same.
func (c *chains) put(chain *verifiedChain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.known[chain.key]; element != nil {
		element.Value = chain
		c.recent.MoveToFront(element)
		return
	}
	c.known[chain.key] = c.recent.PushFront(chain)
	if len(c.known) > c.most {
		oldest, _ := c.recent.Remove(c.recent.Back()).(*verifiedChain)
		delete(c.known, oldest.key)
	}
}

// remove forgets a chain.
func (c *chains) remove(key chainKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.known[key]; element != nil {
		c.recent.Remove(element)
		delete(c.known, key)
	}
}
