package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/canonical"
	"github.com/postern-proxy/postern/xds/translate"
)

// Status tells the operator how the process is.
func (a *App) Status(ctx context.Context) admin.Status {
	a.mu.Lock()
	st := admin.Status{
		Version: a.opts.Version, PID: os.Getpid(), Started: a.started, TrustDomain: a.config.TrustDomain.Name(), Roles: a.roleNames(),
		Config: admin.ConfigStatus{File: a.opts.File, Hash: a.config.Hash(), Generation: a.generation, Loaded: a.loaded, LastError: a.lastError},
	}
	cfg := a.config
	a.mu.Unlock()
	st.NotReady = a.notReady()
	st.Ready = len(st.NotReady) == 0
	st.Listeners, st.Clusters = a.listenerStatus(), a.clusterStatus()
	st.Identities = a.identityStatus(cfg)
	if n := a.identity.node; n != nil {
		st.Upstream = &admin.Following{Authority: n.address, Node: n.id.String(), Connected: n.client.Connected(), LastUpdate: n.client.LastUpdate(), Entries: n.entryCount()}
	}
	if a.authority != nil {
		st.Authority = a.authority.status(ctx)
	}
	return st
}

func (a *App) roleNames() []string {
	var names []string
	if a.authority != nil {
		names = append(names, "authority")
	}
	if a.identity.node != nil {
		names = append(names, "agent")
	}
	if len(a.config.Listeners) > 0 {
		names = append(names, "proxy")
	}
	return names
}

// notReady names what the process still waits for; empty when it serves in full.
func (a *App) notReady() []string {
	var waits []string
	if n := a.identity.node; n != nil {
		select {
		case <-n.client.Synced():
		default:
			waits = append(waits, "the first answer of the authority ("+n.address+")")
		}
	}
	for _, id := range presented(a.current()) {
		if a.identity.holder(id).Get() == nil {
			waits = append(waits, waitsFor(id))
		}
	}
	return waits
}

func waitsFor(id spiffeid.ID) string {
	if id.IsZero() {
		return "an identity of its own: no entry with selector " + registration.SelfSelector + " for this node"
	}
	return "an SVID of " + id.String()
}

// presented are the SPIFFE IDs without which listeners and clusters cannot serve; the zero ID is the process's own.
func presented(cfg *config.Config) []spiffeid.ID {
	seen := map[spiffeid.ID]bool{}
	var ids []spiffeid.ID
	add := func(mode config.TLSMode, id spiffeid.ID) {
		if mode != config.TLSNone && !seen[id] {
			seen[id] = true
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

func (a *App) listenerStatus() []admin.ListenerStatus {
	var list []admin.ListenerStatus
	for _, l := range a.proxy.Listeners() {
		st := admin.ListenerStatus{Name: l.Name, Address: l.Address, Protocol: l.Protocol, TLS: l.TLS, Service: l.Service, Connections: l.Connections}
		if !l.Identity.IsZero() {
			st.Identity = l.Identity.String()
		}
		list = append(list, st)
	}
	return list
}

func (a *App) clusterStatus() []admin.ClusterStatus {
	var list []admin.ClusterStatus
	for _, c := range a.proxy.Clusters() {
		st := admin.ClusterStatus{Name: c.Name, Protocol: c.Protocol}
		for _, e := range c.Endpoints {
			st.Endpoints = append(st.Endpoints, admin.EndpointStatus{Address: e.Address, State: string(e.State), Reason: string(e.Reason),
				Until: e.Until, UnderWay: e.UnderWay, Waiting: e.Waiting, Connections: e.Connections})
		}
		list = append(list, st)
	}
	return list
}

func (a *App) identityStatus(cfg *config.Config) []admin.Identity {
	var list []admin.Identity
	for _, id := range presented(cfg) {
		if x := a.identity.holder(id).Get(); x != nil {
			list = append(list, describe(x))
		}
	}
	return list
}

func describe(x *source.X509) admin.Identity {
	return admin.Identity{SPIFFEID: x.ID.String(), Serial: revocation.SerialString(x.Certificate.Leaf.SerialNumber), NotBefore: x.NotBefore,
		NotAfter: x.NotAfter, Generation: x.Generation}
}

func (a *authority) status(ctx context.Context) *admin.AuthorityStatus {
	st := &admin.AuthorityStatus{Sealing: a.sealing, Entries: a.ads.Table(translate.EntryType).Len(), Revocations: a.revocations.Load().Len()}
	for _, err := range a.ca.Credentials(ctx, ca.CredentialFilter{}) {
		if err == nil {
			st.Credentials++
		}
	}
	for _, s := range a.ads.Streams() {
		n := admin.Node{SPIFFEID: s.Node, Connected: s.Connected}
		for _, t := range s.Types {
			if t.LastNACK != "" {
				n.LastNACK = t.LastNACK
			}
		}
		st.Nodes = append(st.Nodes, n)
	}
	return st
}

// Bundle returns the bundle of the process's own trust domain.
func (a *App) Bundle(context.Context) (admin.Bundle, error) {
	td := a.current().TrustDomain
	out := admin.Bundle{TrustDomain: td.Name()}
	bundle := spiffebundle.New(td)
	if a.authority != nil {
		own := a.authority.ca.Bundle()
		bundle.SetX509Authorities(own.Authorities)
		bundle.SetSequenceNumber(own.Sequence)
		out.Sequence = own.Sequence
	} else {
		x := a.identity.holder(spiffeid.ID{}).Get()
		if x == nil {
			return out, &admin.Error{Code: admin.CodeUnavailable, Err: errors.New("this process has no bundle yet")}
		}
		own, err := x.Bundles.GetX509BundleForTrustDomain(td)
		if err != nil {
			return out, &admin.Error{Code: admin.CodeUnavailable, Err: err}
		}
		bundle.SetX509Authorities(own.X509Authorities())
	}
	document, err := bundle.Marshal()
	if err != nil {
		return out, fmt.Errorf("encode the bundle: %w", err)
	}
	out.PEM, out.SPIFFE = string(svid.MarshalPEM(bundle.X509Authorities())), document
	return out, nil
}

// SetLogLevel changes what is logged from now on.
func (a *App) SetLogLevel(ctx context.Context, level slog.Level, actor string) {
	a.opts.Level.Set(level)
	a.event(ctx, audit.LogLevelChanged, actor, map[string]string{"level": level.String()})
}

// Drain ends the process as SIGTERM does.
func (a *App) Drain(ctx context.Context, actor string) {
	a.event(ctx, audit.DrainAsked, actor, nil)
	a.drain(errDrained)
}

// Explain judges a described request by the policies that serve, after the same canonicalisation as a real one.
func (a *App) Explain(_ context.Context, in admin.ExplainRequest) (admin.Explanation, error) {
	req, err := describedRequest(in, a.proxy.Relaxed(in.Service))
	if err != nil {
		return admin.Explanation{}, &admin.Error{Code: admin.CodeInvalid, Err: err}
	}
	return explanation(req, a.proxy.Policies().Explain(req)), nil
}

// ExplainDecision tells why a decision was made: as it was, and what each rule says of the same request now.
func (a *App) ExplainDecision(_ context.Context, id string) (admin.Explanation, error) {
	parsed, err := authz.ParseID(id)
	if err != nil {
		return admin.Explanation{}, &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("decision %q: %w", id, err)}
	}
	made, ok := a.proxy.Decision(parsed)
	if !ok {
		return admin.Explanation{}, &admin.Error{Code: admin.CodeNotFound, Err: fmt.Errorf("decision %s is not among the latest of this process: look in its access log, or ask the process that made it", id)}
	}
	now := a.proxy.Policies().Explain(&made.Request)
	if made.Decision.Generation != now.Decision.Generation {
		now.Advice = fmt.Sprintf("the policies are at generation %d now; the rules below are those, and would answer %s", now.Decision.Generation, now.Decision.Effect)
	}
	if made.Clipped {
		now.Advice = strings.TrimSpace(now.Advice + " (the record keeps only the beginning of a very long path or header, so the rules below may answer otherwise)")
	}
	now.Decision = made.Decision
	out := explanation(&made.Request, now)
	out.Decision, out.Time = id, made.Request.Time
	return out, nil
}

func explanation(req *authz.Request, x policy.Explanation) admin.Explanation {
	out := admin.Explanation{
		Service: req.Service, Principal: req.Principal.String(), Method: req.Method, Host: req.Host, Path: req.Path,
		Effect: x.Decision.Effect.String(), Reason: string(x.Decision.Reason), Policy: x.Decision.Policy, Rule: x.Decision.Rule,
		Generation: x.Decision.Generation, Advice: x.Advice,
	}
	for _, r := range x.Rules {
		mode := config.PolicyEnforce
		if r.Shadow {
			mode = config.PolicyShadow
		}
		out.Rules = append(out.Rules, admin.RuleVerdict{Policy: r.Policy, Rule: r.Rule, Mode: string(mode), Effect: r.Effect.String(), Matched: r.Matched, Why: r.Why})
	}
	return out
}

// describedRequest turns an operator's description into the request that a listener would judge.
func describedRequest(in admin.ExplainRequest, relaxed canonical.Profile) (*authz.Request, error) {
	req := &authz.Request{Service: in.Service, Time: time.Now()}
	if in.Principal != "" && in.Principal != config.Anonymous {
		id, err := spiffeid.FromString(in.Principal)
		if err != nil {
			return nil, fmt.Errorf("caller %q: %w", in.Principal, err)
		}
		req.Principal.ID = id
	}
	if in.TCP {
		return req, nil
	}
	return req, canonicalRequest(req, in, relaxed)
}

// refusal is the text of an engine's error without the side it came from, which means nothing here.
func refusal(err error) string {
	if e, ok := errors.AsType[*l7.Error](err); ok {
		return fmt.Sprintf("%s: %s", e.Reason, e.Err)
	}
	return err.Error()
}

// canonicalRequest brings a described HTTP request into the one form in which requests are judged.
func canonicalRequest(req *authz.Request, in admin.ExplainRequest, relaxed canonical.Profile) error {
	message := l7.Request{Protocol: l7.HTTP11, Method: in.Method, Scheme: "https", Authority: in.Host}
	message.Path, message.RawQuery, _ = strings.Cut(in.Target, "?")
	if message.Authority == "" {
		message.Authority = in.Service
	}
	if _, err := canonical.Request(&message, relaxed); err != nil {
		return fmt.Errorf("such a request is refused before it is judged: %s", refusal(err))
	}
	req.Protocol, req.Method, req.Host, req.Path = authz.HTTP, message.Method, message.Host, message.Path
	req.Header = func(name string) iter.Seq[string] { return slices.Values(in.Header[name]) }
	return nil
}
