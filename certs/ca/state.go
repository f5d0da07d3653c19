package ca

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-proxy/postern/certs/store"
)

// Keys of the store.
const (
	statePrefix      = "ca/"
	stateKey         = statePrefix + "state"
	credentialPrefix = "credential/"
	revocationPrefix = "revocation/"
)

// Use says what an authority signs.
type Use string

// Uses.
const (
	Root    Use = "root"    // signs signing authorities; peers trust it
	Signing Use = "signing" // signs SVIDs
)

// Stage is the place of an authority in its life.
type Stage string

// Stages.
const (
	Prepared Stage = "prepared" // trusted if a root; signs nothing yet
	Active   Stage = "active"   // the one that signs
	Replaced Stage = "replaced" // signs no more; trusted until what it signed has ended
)

// state is everything the authority knows of itself. It is one value of the store, so that each step is one compare-and-set, and it
// is never changed: a step makes the next one.
type state struct {
	TrustDomain string   `json:"trust_domain"`
	Sequence    uint64   `json:"sequence"` // of the bundle
	Authorities []record `json:"authorities"`
}

// record is one authority, in the order in which they were made.
type record struct {
	ID          string    `json:"id"` // subject key id in hex; also the id of its key
	Use         Use       `json:"use"`
	Stage       Stage     `json:"stage"`
	Issuer      string    `json:"issuer"` // id of its root; of a root, its own
	Certificate []byte    `json:"certificate"`
	PreparedAt  time.Time `json:"prepared_at"`
	ActivatedAt time.Time `json:"activated_at,omitzero"`
	ReplacedAt  time.Time `json:"replaced_at,omitzero"`
	// RequestedBy names who asked for a prepared root to be activated as soon as it may be; "" leaves that to time.
	RequestedBy string `json:"requested_by,omitempty"`
	// LongestTTL is the longest life that leaves of this signing authority could have been given.
	LongestTTL time.Duration `json:"longest_ttl,omitempty"`

	cert *x509.Certificate // parsed from Certificate
}

func decodeState(item store.Item) (*state, error) {
	var s state
	if err := json.Unmarshal(item.Value, &s); err != nil {
		return nil, fmt.Errorf("decode state of the authority: %w", err)
	}
	for i := range s.Authorities {
		r := &s.Authorities[i]
		cert, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return nil, fmt.Errorf("parse certificate of authority %q: %w", r.ID, err)
		}
		if hex.EncodeToString(cert.SubjectKeyId) != r.ID {
			return nil, fmt.Errorf("certificate of authority %q has another subject key id", r.ID)
		}
		r.cert = cert
	}
	if s.find(Root, Active) == nil || s.find(Signing, Active) == nil {
		return nil, fmt.Errorf("%w: it names no active root or no active signing authority", ErrStateLost)
	}
	return &s, nil
}

// next returns a copy to change.
func (s *state) next() *state {
	n := *s
	n.Authorities = slices.Clone(s.Authorities)
	return &n
}

// find returns the first authority of that use and stage, or nil. There is at most one prepared and one active of each use.
func (s *state) find(use Use, stage Stage) *record {
	for i := range s.Authorities {
		if r := &s.Authorities[i]; r.Use == use && r.Stage == stage {
			return r
		}
	}
	return nil
}

// byID returns the authority with that id, or nil.
func (s *state) byID(id string) *record {
	for i := range s.Authorities {
		if r := &s.Authorities[i]; r.ID == id {
			return r
		}
	}
	return nil
}

// beneath returns the signing authorities of a root.
func (s *state) beneath(root string) []*record {
	var found []*record
	for i := range s.Authorities {
		if r := &s.Authorities[i]; r.Use == Signing && r.Issuer == root {
			found = append(found, r)
		}
	}
	return found
}

// remove takes authorities out.
func (s *state) remove(ids ...string) {
	s.Authorities = slices.DeleteFunc(s.Authorities, func(r record) bool { return slices.Contains(ids, r.ID) })
}

// add puts a new authority in, with the stage at now.
func (s *state) add(r record, stage Stage, now time.Time) {
	r.Stage, r.PreparedAt = stage, now
	if stage == Active {
		r.ActivatedAt = now
	}
	s.Authorities = append(s.Authorities, r)
	if r.Use == Root {
		s.Sequence++
	}
}

// replace ends the stage in which an authority signs.
func (r *record) replace(now time.Time) { r.Stage, r.ReplacedAt = Replaced, now }

// activate begins it.
func (r *record) activate(now time.Time) { r.Stage, r.ActivatedAt, r.RequestedBy = Active, now, "" }

// at returns the time at which that part of the authority's life has passed.
func (r *record) at(numerator, denominator int64) time.Time {
	life := r.cert.NotAfter.Sub(r.cert.NotBefore)
	return r.cert.NotBefore.Add(life / time.Duration(denominator) * time.Duration(numerator))
}

// drained returns when the last leaf that a replaced signing authority can have signed has ended.
func (r *record) drained() time.Time {
	last := r.ReplacedAt.Add(r.LongestTTL)
	if last.After(r.cert.NotAfter) {
		last = r.cert.NotAfter
	}
	return last.Add(margin)
}

// bundle returns the certificates that peers trust, in the order in which they were made.
func (s *state) bundle() []*x509.Certificate {
	var roots []*x509.Certificate
	for _, r := range s.Authorities {
		if r.Use == Root {
			roots = append(roots, r.cert)
		}
	}
	return roots
}
