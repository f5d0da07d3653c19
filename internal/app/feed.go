package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/ca/enroll"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/xds/adsserver"
	"github.com/postern-proxy/postern/xds/translate"
)

// publishBundle makes the bundle of the CA the one that nodes follow, and returns the generation of its table.
func (a *authority) publishBundle() (uint64, error) {
	b := a.ca.Bundle()
	message := translate.FromBundle(translate.Bundle{
		TrustDomain: b.TrustDomain, Authorities: b.Authorities, Sequence: b.Sequence, ActiveAuthority: b.ActiveAuthority,
	})
	return a.ads.Table(translate.BundleType).Set(a.td.Name(), message, adsserver.Everyone())
}

func (a *authority) feedBundle(ctx context.Context) error {
	filled := sync.OnceFunc(func() { close(a.filled.bundle) })
	for {
		changed := a.ca.Changed()
		if _, err := a.publishBundle(); err != nil {
			return fmt.Errorf("publish the bundle: %w", err)
		}
		filled()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// propagated waits until every node that follows has accepted the bundle of that sequence: only then may a new root sign.
func (a *authority) propagated(ctx context.Context, sequence uint64) error {
	generation, err := a.publishBundle()
	if err != nil {
		return err
	}
	a.log.Info("waiting for nodes to take the new bundle", slog.Uint64(observe.KeyRevision, sequence))
	return a.ads.WaitAcked(ctx, translate.BundleType, generation)
}

// feedEntries keeps the table of entries equal to the registry; a node sees its own.
func (a *authority) feedEntries(ctx context.Context) error {
	table := a.ads.Table(translate.EntryType)
	filled := sync.OnceFunc(func() { close(a.filled.entries) })
	for change, err := range a.entries.Watch(ctx, 0) {
		if err != nil {
			return fmt.Errorf("follow entries: %w", err)
		}
		if change.Reset {
			if _, err := table.Replace(a.entryResources(change.Entries)); err != nil {
				return fmt.Errorf("publish entries: %w", err)
			}
			filled()
			continue
		}
		for _, id := range change.Deleted {
			table.Delete(id)
		}
		for _, e := range change.Entries {
			if _, err := table.Set(e.ID, translate.FromEntry(e), a.audience(e)); err != nil {
				return fmt.Errorf("publish entry %q: %w", e.ID, err)
			}
		}
	}
	return nil
}

func (a *authority) entryResources(entries []registration.Entry) map[string]adsserver.Resource {
	resources := make(map[string]adsserver.Resource, len(entries))
	for _, e := range entries {
		resources[e.ID] = adsserver.Resource{Message: translate.FromEntry(e), Audience: a.audience(e)}
	}
	return resources
}

func (a *authority) audience(e registration.Entry) adsserver.Audience {
	node, err := spiffeid.FromString(e.Node)
	if err != nil { // empty: the authority's own node
		node, _ = enroll.NodeID(a.td, localNode)
	}
	return adsserver.Only(node)
}

// feedRevocations keeps the index and the table of revocations equal to the CA's, and cuts the nodes they concern. The index comes
// first: who is cut must not come back.
func (a *authority) feedRevocations(ctx context.Context) error {
	table := a.ads.Table(translate.RevocationType)
	filled := sync.OnceFunc(func() { close(a.filled.revocations) })
	known := map[string]revocation.Revocation{}
	for update, err := range a.ca.WatchRevocations(ctx) {
		if err != nil {
			return fmt.Errorf("follow revocations: %w", err)
		}
		if update.Full {
			clear(known)
		}
		for _, r := range update.Set {
			known[r.ID] = r
		}
		for _, id := range update.Removed {
			delete(known, id)
		}
		a.revocations.Store(indexOf(known))
		if err := publishRevocations(table, update); err != nil {
			return err
		}
		filled()
		a.transport.CloseConcerned(update.Set...)
	}
	return nil
}

func publishRevocations(table *adsserver.Table, update ca.RevocationUpdate) error {
	if update.Full {
		resources := make(map[string]adsserver.Resource, len(update.Set))
		for _, r := range update.Set {
			resources[r.ID] = adsserver.Resource{Message: translate.FromRevocation(r), Audience: adsserver.Everyone()}
		}
		if _, err := table.Replace(resources); err != nil {
			return fmt.Errorf("publish revocations: %w", err)
		}
		return nil
	}
	for _, r := range update.Set {
		if _, err := table.Set(r.ID, translate.FromRevocation(r), adsserver.Everyone()); err != nil {
			return fmt.Errorf("publish revocation %q: %w", r.ID, err)
		}
	}
	for _, id := range update.Removed {
		table.Delete(id)
	}
	return nil
}

func indexOf(known map[string]revocation.Revocation) *revocation.Index {
	list := make([]revocation.Revocation, 0, len(known))
	for _, r := range known {
		list = append(list, r)
	}
	return revocation.NewIndex(list)
}

// publishPolicies makes the declared policies those that every node enforces.
func (a *authority) publishPolicies(policies []config.Policy) error {
	resources := make(map[string]adsserver.Resource, len(policies))
	for i := range policies {
		p := &policies[i]
		resources[p.Name] = adsserver.Resource{Message: translate.FromPolicy(*p), Audience: adsserver.Everyone()}
	}
	if _, err := a.ads.Table(translate.PolicyType).Replace(resources); err != nil {
		return fmt.Errorf("publish policies: %w", err)
	}
	return nil
}
