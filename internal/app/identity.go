package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca/enroll"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
)

// identity is where this process's credentials come from, whatever the source.
type identity struct {
	// holder returns what has the SVID of id; of the zero ID, the process's own.
	holder func(id spiffeid.ID) *source.Holder
	run    func(ctx context.Context) error
	close  func()
	// node is set when the process follows an authority.
	node *node
}

// openIdentity makes the source that the configuration names.
func (a *App) openIdentity(ctx context.Context, cfg *config.Config) (*identity, error) {
	switch cfg.Identity.Source {
	case config.SourceFiles:
		return a.fromFiles(cfg.Identity.Files)
	case config.SourceWorkloadAPI:
		return a.fromWorkloadAPI(cfg)
	case config.SourceAuthority:
		if cfg.Identity.Authority != nil {
			return a.fromRemoteAuthority(ctx, cfg)
		}
		if a.authority != nil {
			return a.fromOwnAuthority(cfg)
		}
	}
	return &identity{holder: func(spiffeid.ID) *source.Holder { return &source.Holder{} }, run: waitFor, close: func() {}}, nil
}

// waitFor is a role that has nothing to do.
func waitFor(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (a *App) fromFiles(c *config.FileSource) (*identity, error) {
	files, err := source.NewFiles(source.FilesOptions{
		Certificate: c.Certificate, Key: c.Key, Bundle: c.Bundle, CRL: c.CRL, Logger: a.log, Registerer: a.registry,
	})
	if err != nil {
		return nil, err
	}
	if err := files.Load(); err != nil {
		return nil, fmt.Errorf("identity.files: %w", err)
	}
	a.setRevocations(revocation.NewIndex(files.Revocations()), nil)
	run := func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return files.Run(ctx) })
		group.Go(func() error { return a.followCRL(ctx, files) })
		return group.Wait()
	}
	return &identity{holder: ownOrNone(files.Holder()), run: run, close: func() {}}, nil
}

// followCRL hands on what the CRL revokes whenever the files change.
func (a *App) followCRL(ctx context.Context, files *source.Files) error {
	for {
		changed := files.Holder().Changed()
		list := files.Revocations()
		a.setRevocations(revocation.NewIndex(list), list)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// ownOrNone is for sources that have one identity: another one is never there.
func ownOrNone(own *source.Holder) func(spiffeid.ID) *source.Holder {
	return func(id spiffeid.ID) *source.Holder {
		if x := own.Get(); id.IsZero() || x == nil || x.ID == id {
			return own
		}
		return &source.Holder{}
	}
}

func (a *App) fromWorkloadAPI(cfg *config.Config) (*identity, error) {
	api, err := source.NewWorkloadAPI(source.WorkloadAPIOptions{Socket: "unix://" + string(cfg.Identity.WorkloadAPI.Socket), Logger: a.log, Registerer: a.registry})
	if err != nil {
		return nil, err
	}
	holder := func(id spiffeid.ID) *source.Holder {
		if id.IsZero() {
			return api.Default()
		}
		return api.Identity(id)
	}
	return &identity{holder: holder, run: api.Run, close: func() {}}, nil
}

// fromOwnAuthority follows the authority in this process, over gRPC inside it.
func (a *App) fromOwnAuthority(cfg *config.Config) (*identity, error) {
	id, err := enroll.NodeID(cfg.TrustDomain, localNode)
	if err != nil {
		return nil, err
	}
	conn, err := a.authority.local.Dial()
	if err != nil {
		return nil, err
	}
	n, err := newNode(nodeOptions{
		ID: id, Address: "this process", Conn: conn, Issuer: enroll.NewClient(conn), TrustDomain: cfg.TrustDomain, Logger: a.log, Registerer: a.registry,
		OnPolicies: a.setPolicies, OnRevocations: a.setRevocations,
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return a.following(n, nil), nil
}

// fromRemoteAuthority joins with the token, or with what is on disk from an earlier start.
func (a *App) fromRemoteAuthority(ctx context.Context, cfg *config.Config) (*identity, error) {
	c := cfg.Identity.Authority
	state, err := enroll.OpenState(c.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open the node's state: %w", err)
	}
	own, err := state.Load()
	switch {
	case enroll.IsNotAttested(err):
		own, err = a.join(ctx, cfg, state)
	case err == nil && time.Now().After(own.Chain[0].NotAfter):
		own, err = a.joinAgain(ctx, cfg, state, own)
	}
	if err != nil {
		return nil, err
	}
	credential, err := enroll.NewNodeCredential(own, enroll.NodeCredentialOptions{State: state, Revocations: a.revocations.Load, Logger: a.log})
	if err != nil {
		return nil, err
	}
	conn, err := credential.Dial(c.Address.Target())
	if err != nil {
		return nil, err
	}
	n, err := newNode(nodeOptions{
		ID: own.ID, Address: c.Address.String(), Conn: conn, Issuer: enroll.NewClient(conn), TrustDomain: cfg.TrustDomain, Logger: a.log, Registerer: a.registry,
		OnBundle: credential.SetBundle, OnPolicies: a.setPolicies, OnRevocations: a.setRevocations,
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return a.following(n, credential), nil
}

// following is the identity of a node; credential renews the node's own SVID and is nil inside the authority's process.
func (a *App) following(n *node, credential *enroll.NodeCredential) *identity {
	run := func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return n.manager.Run(ctx) })
		group.Go(func() error { return n.client.Run(ctx, n.conn) })
		if credential != nil {
			group.Go(func() error { return credential.Run(ctx, n.conn) })
		}
		return group.Wait()
	}
	holder := func(id spiffeid.ID) *source.Holder {
		if id.IsZero() {
			return n.manager.Default()
		}
		return n.manager.Identity(id)
	}
	return &identity{holder: holder, run: run, close: func() { _ = n.conn.Close() }, node: n}
}

// join attests this machine with its join token. An authority that does not answer yet is waited for; a token it refuses is final.
func (a *App) join(ctx context.Context, cfg *config.Config, state *enroll.State) (*enroll.NodeIdentity, error) {
	c := cfg.Identity.Authority
	token, err := joinToken(c)
	if err != nil {
		return nil, err
	}
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		identity, err := enroll.Attest(ctx, enroll.AttestOptions{Address: c.Public.Target(), Token: token, TrustDomain: cfg.TrustDomain})
		if err == nil {
			a.log.Info("joined", slog.String(observe.KeyNode, identity.ID.String()))
			return identity, state.Save(identity)
		}
		if ctx.Err() != nil || !isUnavailable(err) {
			return nil, fmt.Errorf("join the authority at %s: %w", c.Public, err)
		}
		a.log.Warn("authority does not answer, trying again", slog.String(observe.KeyAddress, c.Public.String()), slog.String(observe.KeyError, err.Error()))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// joinAgain replaces an identity that ended while the node was away: only a new token proves the machine then.
func (a *App) joinAgain(ctx context.Context, cfg *config.Config, state *enroll.State, ended *enroll.NodeIdentity) (*enroll.NodeIdentity, error) {
	identity, err := a.join(ctx, cfg, state)
	if err != nil {
		name, _ := enroll.NodeName(ended.ID)
		return nil, fmt.Errorf("the SVID of this node ended at %s, and it cannot join again (make a token with: postern token create --node %s): %w",
			ended.Chain[0].NotAfter.Format(time.RFC3339), name, err)
	}
	return identity, nil
}

// isUnavailable reports that nobody answered, as opposed to an answer that says no.
func isUnavailable(err error) bool {
	return status.Code(err) == codes.Unavailable && !errors.Is(err, enroll.ErrPin)
}

func joinToken(c *config.RemoteAuthority) (nodeattestor.Token, error) {
	text := c.JoinToken.Reveal()
	if c.JoinTokenFile != "" {
		data, err := os.ReadFile(c.JoinTokenFile)
		if err != nil {
			return nodeattestor.Token{}, fmt.Errorf("read the join token (make one with: postern token create --node NAME): %w", err)
		}
		text = string(data)
	}
	if text == "" {
		return nodeattestor.Token{}, errors.New("this machine has not joined yet, and no join token is configured: set identity.authority.join_token_file to one made with 'postern token create'")
	}
	return nodeattestor.ParseToken(text)
}
