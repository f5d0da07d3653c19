package translate

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/posternpb"
)

// Type URLs of the resources, as xDS names them.
const (
	BundleType     = "type.googleapis.com/postern.v1.Bundle"
	RevocationType = "type.googleapis.com/postern.v1.Revocation"
	PolicyType     = "type.googleapis.com/postern.v1.Policy"
	EntryType      = "type.googleapis.com/postern.v1.Entry"
)

// Types are the resources of a node in the order in which it must learn of them: whom to trust comes before what to use.
func Types() []string { return []string{BundleType, RevocationType, PolicyType, EntryType} }

// Bounds of what is taken in.
const (
	maxAuthorities = 64
	maxKeyID       = 64      // bytes
	maxEntryID     = 128     // bytes
	maxDeclaration = 1 << 20 // bytes
)

// Bundle is a trust domain's bundle as a node follows it.
type Bundle struct {
	TrustDomain spiffeid.TrustDomain
	Authorities []*x509.Certificate
	Sequence    uint64
	// ActiveAuthority is the subject key id of the one that issues now; empty when it is not known.
	ActiveAuthority []byte
}

// FromBundle makes the resource. Its name is the trust domain's.
func FromBundle(b Bundle) *posternpb.Bundle {
	raw := make([][]byte, 0, len(b.Authorities))
	for _, cert := range b.Authorities {
		raw = append(raw, cert.Raw)
	}
	return &posternpb.Bundle{
		TrustDomain: b.TrustDomain.Name(), X509Authorities: raw, Sequence: b.Sequence, ActiveAuthority: b.ActiveAuthority,
	}
}

// ToBundle reads the resource of this name. A bundle may be empty: then nothing of its trust domain is trusted.
func ToBundle(name string, m *posternpb.Bundle) (Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(m.GetTrustDomain())
	if err != nil {
		return Bundle{}, fmt.Errorf("trust_domain: %w", err)
	}
	if td.Name() != name {
		return Bundle{}, fmt.Errorf("trust_domain: %q does not stand under the name %q", td.Name(), name)
	}
	if len(m.GetX509Authorities()) > maxAuthorities {
		return Bundle{}, fmt.Errorf("x509_authorities: %d, the limit is %d", len(m.GetX509Authorities()), maxAuthorities)
	}
	if len(m.GetActiveAuthority()) > maxKeyID {
		return Bundle{}, fmt.Errorf("active_authority: %d bytes, the limit is %d", len(m.GetActiveAuthority()), maxKeyID)
	}
	b := Bundle{TrustDomain: td, Sequence: m.GetSequence(), ActiveAuthority: bytes.Clone(m.GetActiveAuthority())}
	for i, raw := range m.GetX509Authorities() {
		certs, err := svid.ParseChain(raw)
		if err == nil && (len(certs) != 1 || !bytes.Equal(certs[0].Raw, raw)) {
			err = errors.New("not one certificate in DER")
		}
		if err == nil && !certs[0].IsCA {
			err = errors.New("not the certificate of an authority")
		}
		if err != nil {
			return Bundle{}, fmt.Errorf("x509_authorities[%d]: %w", i, err)
		}
		b.Authorities = append(b.Authorities, certs[0])
	}
	return b, nil
}

// FromEntry makes the resource for the node of the entry. Its name is the entry's id. Which node that is stays with the authority.
func FromEntry(e registration.Entry) *posternpb.Entry {
	m := &posternpb.Entry{
		Id: e.ID, SpiffeId: e.SPIFFEID, Selectors: e.Selectors, DnsNames: e.DNSNames,
		Hint: e.Hint, Owner: e.Owner, Purpose: e.Purpose, Revision: uint64(e.Revision),
	}
	if e.TTL != 0 {
		m.Ttl = durationpb.New(e.TTL)
	}
	if !e.Created.IsZero() {
		m.Created = timestamppb.New(e.Created)
	}
	return m
}

// ToEntry reads the resource of this name. Node is empty: the entry is for who follows it.
func ToEntry(name string, td spiffeid.TrustDomain, m *posternpb.Entry) (registration.Entry, error) {
	if m.GetId() != name || name == "" || len(name) > maxEntryID {
		return registration.Entry{}, fmt.Errorf("id: %q does not stand under its own name", clip(m.GetId()))
	}
	e := registration.Entry{
		ID: m.GetId(), SPIFFEID: m.GetSpiffeId(), Selectors: m.GetSelectors(), DNSNames: m.GetDnsNames(),
		Hint: m.GetHint(), Owner: m.GetOwner(), Purpose: m.GetPurpose(), Revision: store.Revision(m.GetRevision()),
	}
	if m.GetTtl() != nil {
		if err := m.GetTtl().CheckValid(); err != nil {
			return registration.Entry{}, fmt.Errorf("ttl: %w", err)
		}
		e.TTL = m.GetTtl().AsDuration()
	}
	var err error
	if e.Created, err = timeOf(m.GetCreated()); err != nil {
		return registration.Entry{}, fmt.Errorf("created: %w", err)
	}
	if err := e.Validate(td); err != nil {
		return registration.Entry{}, err
	}
	return e, nil
}

// FromRevocation makes the resource. Its name is the revocation's id.
func FromRevocation(r revocation.Revocation) *posternpb.Revocation {
	m := &posternpb.Revocation{
		Id: r.ID, Kind: string(r.Kind), Value: r.Value, Reason: r.Reason, By: r.By, At: timestamppb.New(r.At),
	}
	if !r.Until.IsZero() {
		m.Until = timestamppb.New(r.Until)
	}
	return m
}

// ToRevocation reads the resource of this name.
func ToRevocation(name string, m *posternpb.Revocation) (revocation.Revocation, error) {
	if m.GetId() != name || name == "" {
		return revocation.Revocation{}, fmt.Errorf("id: %q does not stand under its own name", clip(m.GetId()))
	}
	r := revocation.Revocation{
		ID: m.GetId(), Kind: revocation.Kind(m.GetKind()), Value: m.GetValue(), Reason: m.GetReason(), By: m.GetBy(),
	}
	var err error
	if r.At, err = timeOf(m.GetAt()); err != nil {
		return revocation.Revocation{}, fmt.Errorf("at: %w", err)
	}
	if r.Until, err = timeOf(m.GetUntil()); err != nil {
		return revocation.Revocation{}, fmt.Errorf("until: %w", err)
	}
	if err := r.Validate(); err != nil {
		return revocation.Revocation{}, err
	}
	return r, nil
}

// timeOf reads a time; unset is the zero time.
func timeOf(m *timestamppb.Timestamp) (time.Time, error) {
	if m == nil {
		return time.Time{}, nil
	}
	if err := m.CheckValid(); err != nil {
		return time.Time{}, err
	}
	return m.AsTime(), nil
}

// FromPolicy makes the resource. Its name is the policy's.
func FromPolicy(p config.Policy) *posternpb.Policy {
	return &posternpb.Policy{Name: p.Name, Declaration: p.Declaration()}
}

// ToPolicy reads the resource of this name.
func ToPolicy(name string, m *posternpb.Policy) (config.Policy, error) {
	if len(m.GetDeclaration()) > maxDeclaration {
		return config.Policy{}, fmt.Errorf("declaration: %d bytes, the limit is %d", len(m.GetDeclaration()), maxDeclaration)
	}
	p, err := config.ParsePolicy(m.GetDeclaration())
	if err != nil {
		return config.Policy{}, fmt.Errorf("declaration: %w", err)
	}
	if p.Name != name || m.GetName() != name {
		return config.Policy{}, fmt.Errorf("name: %q does not stand under its own name", clip(p.Name))
	}
	return p, nil
}

// clip bounds what an error repeats, in bytes.
func clip(text string) string {
	const limit = 128
	return text[:min(limit, len(text))]
}
