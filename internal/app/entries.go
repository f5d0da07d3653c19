package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/internal/config"
)

// configActor stands in events for what the configuration file declares.
const configActor = "config"

// declareEntries makes the entries that come from the configuration equal to what it declares now: those it lists, and one for each
// identity that its own listeners and clusters present. Entries made over the admin socket are left alone.
func (a *authority) declareEntries(ctx context.Context, cfg *config.Config) error {
	wanted := declaredEntries(cfg)
	for _, e := range wanted {
		if err := a.permitted(e); err != nil {
			return fmt.Errorf("entry of %q: %w", e.SPIFFEID, err)
		}
	}
	have, err := a.allEntries(ctx, registration.Query{Origin: registration.OriginConfig})
	if err != nil {
		return fmt.Errorf("read declared entries: %w", err)
	}
	var gone []registration.Entry
	for _, e := range have {
		i := slices.IndexFunc(wanted, func(w registration.Entry) bool { return sameSubject(w, e) })
		if i < 0 {
			gone = append(gone, e)
			continue
		}
		if err := a.redeclare(ctx, e, wanted[i]); err != nil {
			return err
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	for _, e := range wanted {
		if _, err := a.entries.Create(ctx, e, configActor); err != nil && !errors.Is(err, registration.ErrExists) {
			return fmt.Errorf("declare entry of %q: %w", e.SPIFFEID, err)
		}
	}
	for _, e := range gone { // last, so that who has another entry now is never without one
		if _, err := a.entries.Delete(ctx, e.ID, configActor); err != nil && !errors.Is(err, registration.ErrNotFound) {
			return fmt.Errorf("remove entry %q, which is no longer declared: %w", e.ID, err)
		}
	}
	return nil
}

// redeclare brings an entry to what is declared of the same subject now. Its SVIDs go on.
func (a *authority) redeclare(ctx context.Context, have, wanted registration.Entry) error {
	if have.TTL == wanted.TTL && slices.Equal(have.DNSNames, wanted.DNSNames) && have.Hint == wanted.Hint && have.Owner == wanted.Owner && have.Purpose == wanted.Purpose {
		return nil
	}
	have.TTL, have.DNSNames, have.Hint, have.Owner, have.Purpose = wanted.TTL, wanted.DNSNames, wanted.Hint, wanted.Owner, wanted.Purpose
	if _, err := a.entries.Update(ctx, have, configActor); err != nil {
		return fmt.Errorf("change declared entry %q: %w", have.ID, err)
	}
	return nil
}

func declaredEntries(cfg *config.Config) []registration.Entry {
	var list []registration.Entry
	for _, e := range cfg.Entries {
		entry := registration.Entry{SPIFFEID: e.SPIFFEID, Selectors: slices.Sorted(slices.Values(e.Selectors)), TTL: e.TTL, DNSNames: e.DNSNames,
			Hint: e.Hint, Owner: e.Owner, Purpose: e.Purpose, Origin: registration.OriginConfig}
		if !e.Node.IsZero() {
			entry.Node = e.Node.String()
		}
		list = append(list, entry)
	}
	for _, id := range ownIdentities(cfg) {
		list = append(list, registration.Entry{SPIFFEID: id.String(), Selectors: []string{registration.SelfSelector},
			Purpose: "presented by this process", Origin: registration.OriginConfig})
	}
	return list
}

// ownIdentities are the SPIFFE IDs that the listeners and clusters present. One that names none presents the process's own, which in
// the authority's process is defaultIdentity.
func ownIdentities(cfg *config.Config) []spiffeid.ID {
	var ids []spiffeid.ID
	add := func(mode config.TLSMode, id spiffeid.ID) {
		if mode == config.TLSNone {
			return
		}
		if id.IsZero() {
			id = defaultIdentity(cfg.TrustDomain)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, l := range cfg.Listeners {
		add(l.TLS.Mode, l.TLS.Identity)
	}
	for _, c := range cfg.Clusters {
		add(c.TLS.Mode, c.TLS.Identity)
	}
	return ids
}

// defaultIdentity is what the authority's own process presents where its configuration names nothing else.
func defaultIdentity(td spiffeid.TrustDomain) spiffeid.ID {
	id, _ := spiffeid.FromPath(td, "/postern") // a valid path: no error
	return id
}

// sameSubject reports that two entries speak of the same workload and identity.
func sameSubject(a, b registration.Entry) bool {
	return a.SPIFFEID == b.SPIFFEID && a.Node == b.Node && slices.Equal(a.Selectors, b.Selectors)
}

// allEntries reads every page.
func (a *authority) allEntries(ctx context.Context, q registration.Query) ([]registration.Entry, error) {
	list := []registration.Entry{}
	for {
		page, err := a.entries.List(ctx, q)
		if err != nil {
			return nil, err
		}
		list = append(list, page.Entries...)
		if page.Next == "" {
			return list, nil
		}
		q.After = page.Next
	}
}

// registerNode gives the postern process on a node the identities that its join token promised.
func (a *authority) registerNode(ctx context.Context, node spiffeid.ID, identities []spiffeid.ID, actor string) error {
	for _, id := range identities {
		e := registration.Entry{SPIFFEID: id.String(), Node: node.String(), Selectors: []string{registration.SelfSelector}, Purpose: "promised by a join token"}
		if _, err := a.entries.Create(ctx, e, actor); err != nil && !errors.Is(err, registration.ErrExists) {
			return fmt.Errorf("register %s on %s: %w", id, node, err)
		}
	}
	return nil
}
