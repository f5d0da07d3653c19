package ca

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
)

// Credential is the record of an SVID that has not ended. It goes away by itself when the SVID does; the audit log keeps the history.
type Credential struct {
	Serial    string    `json:"serial"` // lower-case hex, as in a revocation
	SPIFFEID  string    `json:"spiffe_id"`
	Kind      Kind      `json:"kind"`
	Entry     string    `json:"entry,omitempty"`
	Node      string    `json:"node,omitempty"`
	DNSNames  []string  `json:"dns_names,omitempty"`
	Key       string    `json:"key"`       // hash of the public key, as in a revocation
	Authority string    `json:"authority"` // subject key id of the signing authority, in hex
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// CredentialFilter selects credentials; a zero field selects all.
type CredentialFilter struct {
	SPIFFEID  string
	Entry     string
	Node      string
	Key       string
	Authority string
	Kind      Kind
}

func (f CredentialFilter) selects(c Credential) bool {
	return (f.SPIFFEID == "" || f.SPIFFEID == c.SPIFFEID) &&
		(f.Entry == "" || f.Entry == c.Entry) &&
		(f.Node == "" || f.Node == c.Node) &&
		(f.Key == "" || f.Key == c.Key) &&
		(f.Authority == "" || f.Authority == c.Authority) &&
		(f.Kind == "" || f.Kind == c.Kind)
}

// record makes the credential durable.
func (a *Authority) record(ctx context.Context, c *checked, cert *x509.Certificate) error {
	serial := revocation.SerialString(cert.SerialNumber)
	value, err := json.Marshal(Credential{
		Serial:    serial,
		SPIFFEID:  c.req.ID.String(),
		Kind:      c.kind,
		Entry:     c.req.EntryID,
		Node:      c.req.Node,
		DNSNames:  c.req.DNSNames,
		Key:       revocation.KeyString(cert),
		Authority: c.under.signing.ID,
		NotBefore: cert.NotBefore,
		NotAfter:  cert.NotAfter,
	})
	if err != nil {
		return fmt.Errorf("encode credential: %w", err)
	}
	key := credentialPrefix + serial
	_, err = a.opts.Store.Commit(ctx, store.Txn{
		If:   []store.Condition{{Key: key}}, // two certificates never share a serial number
		Then: []store.Op{{Key: key, Value: value, TTL: cert.NotAfter.Sub(c.now)}},
	})
	if err != nil {
		return fmt.Errorf("record credential: %w", err)
	}
	return nil
}

// Credential returns the live credential with that serial number (lower-case hex), or ErrNotFound.
func (a *Authority) Credential(ctx context.Context, serial string) (Credential, error) {
	item, err := a.opts.Store.Get(ctx, credentialPrefix+serial)
	if errors.Is(err, store.ErrNotFound) {
		return Credential{}, fmt.Errorf("credential with serial %q: %w", serial, ErrNotFound)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("read credential: %w", err)
	}
	return decodeCredential(item)
}

// Credentials yields the live credentials that the filter selects, by serial number. Credentials issued meanwhile may be among them or
// not. An error is the last thing yielded.
func (a *Authority) Credentials(ctx context.Context, filter CredentialFilter) iter.Seq2[Credential, error] {
	return func(yield func(Credential, error) bool) {
		for item, err := range items(ctx, a.opts.Store, credentialPrefix) {
			if err != nil {
				yield(Credential{}, fmt.Errorf("list credentials: %w", err))
				return
			}
			c, err := decodeCredential(item)
			if err == nil && !filter.selects(c) {
				continue
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func decodeCredential(item store.Item) (Credential, error) {
	var c Credential
	if err := json.Unmarshal(item.Value, &c); err != nil {
		return Credential{}, fmt.Errorf("decode %q: %w", item.Key, err)
	}
	return c, nil
}

// items yields everything under a prefix, page by page.
func items(ctx context.Context, s store.Store, prefix string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		for after, more := "", true; more; {
			page, err := s.List(ctx, prefix, after, 0)
			if err != nil {
				yield(store.Item{}, err)
				return
			}
			for _, item := range page.Items {
				after = item.Key
				if !yield(item, nil) {
					return
				}
			}
			more = page.More && len(page.Items) > 0
		}
	}
}
