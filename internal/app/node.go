package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/posternpb"
	"github.com/postern-proxy/postern/xds/adsclient"
	"github.com/postern-proxy/postern/xds/translate"
)

// node follows an authority: it turns what the stream brings into SVIDs, bundles, revocations and policies of this machine.
type node struct {
	id      spiffeid.ID
	address string // of the authority, for the operator
	conn    *grpc.ClientConn
	client  *adsclient.Client
	manager *source.Manager
	log     *slog.Logger
	td      spiffeid.TrustDomain
	// onBundle is told the bundle of the node's own trust domain, for the connection to the authority; nil when that needs none.
	onBundle func(authorities []*x509.Certificate, active []byte) error
	// onPolicies and onRevocations are told the full state after each change.
	onPolicies    func([]config.Policy)
	onRevocations func(index *revocation.Index, added []revocation.Revocation)

	mu          sync.Mutex // guards what follows; the stream writes, the operator reads
	entries     map[string]registration.Entry
	bundles     map[spiffeid.TrustDomain]source.BundleState
	revocations map[string]revocation.Revocation
	policies    map[string]config.Policy
}

// nodeOptions are what newNode needs.
type nodeOptions struct {
	ID            spiffeid.ID
	Address       string
	Conn          *grpc.ClientConn
	Issuer        source.Issuer
	TrustDomain   spiffeid.TrustDomain
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
	OnBundle      func(authorities []*x509.Certificate, active []byte) error // may be nil
	OnPolicies    func([]config.Policy)
	OnRevocations func(*revocation.Index, []revocation.Revocation)
}

func newNode(o nodeOptions) (*node, error) {
	n := &node{
		id: o.ID, address: o.Address, conn: o.Conn, td: o.TrustDomain, onBundle: o.OnBundle, onPolicies: o.OnPolicies, onRevocations: o.OnRevocations,
		log:     o.Logger.With(slog.String(observe.KeyComponent, "agent")),
		entries: map[string]registration.Entry{}, bundles: map[spiffeid.TrustDomain]source.BundleState{},
		revocations: map[string]revocation.Revocation{}, policies: map[string]config.Policy{},
	}
	var err error
	n.manager, err = source.NewManager(source.ManagerOptions{Issuer: o.Issuer, TrustDomain: o.TrustDomain, Logger: n.log, Registerer: o.Registerer})
	if err != nil {
		return nil, err
	}
	n.client, err = adsclient.New(adsclient.Options{
		Types:   []proto.Message{(*posternpb.Bundle)(nil), (*posternpb.Revocation)(nil), (*posternpb.Policy)(nil), (*posternpb.Entry)(nil)},
		Handler: n.apply, OnConnect: n.manager.Reconnected, NodeName: o.ID.String(), Logger: n.log, Registerer: o.Registerer,
	})
	return n, err
}

// apply takes one update of the stream: what can be read is applied, what cannot is rejected by name and keeps its last good state.
func (n *node) apply(_ context.Context, u adsclient.Update) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch u.TypeURL {
	case translate.BundleType:
		return n.applyBundles(u)
	case translate.RevocationType:
		return n.applyRevocations(u)
	case translate.PolicyType:
		return n.applyPolicies(u)
	case translate.EntryType:
		return n.applyEntries(u)
	default:
		return fmt.Errorf("resource type %q is not followed", u.TypeURL)
	}
}

// decodeAll decodes each resource of an update and hands the good ones to take.
func decodeAll[M proto.Message, T any](u adsclient.Update, decode func(name string, m M) (T, error), take func(name string, value T)) error {
	var rejected adsclient.Rejections
	for _, r := range u.Upserted {
		message, ok := r.Message.(M)
		if !ok {
			rejected = append(rejected, adsclient.Rejection{Name: r.Name, Err: fmt.Errorf("is a %T", r.Message)})
			continue
		}
		value, err := decode(r.Name, message)
		if err != nil {
			rejected = append(rejected, adsclient.Rejection{Name: r.Name, Err: err})
			continue
		}
		take(r.Name, value)
	}
	if len(rejected) > 0 {
		return rejected
	}
	return nil
}

func (n *node) applyBundles(u adsclient.Update) error {
	err := decodeAll(u, translate.ToBundle, func(_ string, b translate.Bundle) {
		n.bundles[b.TrustDomain] = source.BundleState{Authorities: b.Authorities, ActiveAuthority: b.ActiveAuthority, Sequence: b.Sequence}
	})
	for _, name := range u.Removed {
		if td, tdErr := spiffeid.TrustDomainFromString(name); tdErr == nil {
			delete(n.bundles, td)
		}
	}
	n.manager.SetBundles(maps.Clone(n.bundles))
	if own, ok := n.bundles[n.td]; ok && n.onBundle != nil {
		err = errors.Join(err, n.onBundle(own.Authorities, own.ActiveAuthority))
	}
	return err
}

func (n *node) applyEntries(u adsclient.Update) error {
	decode := func(name string, m *posternpb.Entry) (registration.Entry, error) {
		return translate.ToEntry(name, n.td, m)
	}
	err := decodeAll(u, decode, func(name string, e registration.Entry) { n.entries[name] = e })
	for _, name := range u.Removed {
		delete(n.entries, name)
	}
	n.manager.SetEntries(slices.Collect(maps.Values(n.entries)))
	return err
}

func (n *node) applyPolicies(u adsclient.Update) error {
	err := decodeAll(u, translate.ToPolicy, func(name string, p config.Policy) { n.policies[name] = p })
	for _, name := range u.Removed {
		delete(n.policies, name)
	}
	list := make([]config.Policy, 0, len(n.policies))
	for _, name := range slices.Sorted(maps.Keys(n.policies)) {
		list = append(list, n.policies[name])
	}
	n.onPolicies(list)
	return err
}

func (n *node) applyRevocations(u adsclient.Update) error {
	var added []revocation.Revocation
	err := decodeAll(u, translate.ToRevocation, func(name string, r revocation.Revocation) {
		n.revocations[name] = r
		added = append(added, r)
	})
	for _, name := range u.Removed {
		delete(n.revocations, name)
	}
	index := indexOf(n.revocations)
	n.manager.SetRevocations(index)
	n.onRevocations(index, added)
	return err
}

// entryCount is how many entries the node was given.
func (n *node) entryCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.entries)
}
