package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-proxy/postern/certs/attest/nodeattestor"
	"github.com/postern-proxy/postern/certs/ca"
	"github.com/postern-proxy/postern/certs/ca/enroll"
	"github.com/postern-proxy/postern/certs/ca/keys"
	"github.com/postern-proxy/postern/certs/registration"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/store"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/xds/adsserver"
	"github.com/postern-proxy/postern/xds/translate"
)

// authority is the identity plane of the trust domain, in this process.
type authority struct {
	cfg    *config.Authority
	td     spiffeid.TrustDomain
	log    *slog.Logger
	events *audit.Log

	store   *store.Bolt
	sealing string
	ca      *ca.Authority
	entries *registration.Registry
	tokens  *nodeattestor.Tokens
	ads     *adsserver.Server

	local     *enroll.Local
	transport *enroll.NodeTransport
	enroll    *enroll.Server

	credential  *enroll.AuthorityCredential // the authority's own SVID, for its listeners
	revocations atomic.Pointer[revocation.Index]

	listen, public net.Listener // nil when not configured

	// filled are closed when the first full state has been published.
	filled struct{ bundle, entries, revocations chan struct{} }
}

// localNode is the name of the authority's own node.
const localNode = "local"

// openAuthority opens everything that can fail; nothing runs yet.
func openAuthority(ctx context.Context, cfg *config.Config, events *audit.Log, reg prometheus.Registerer, log *slog.Logger) (_ *authority, err error) {
	a := &authority{cfg: cfg.Authority, td: cfg.TrustDomain, events: events, log: log.With(slog.String(observe.KeyComponent, "authority"))}
	a.filled.bundle, a.filled.entries, a.filled.revocations = make(chan struct{}), make(chan struct{}), make(chan struct{})
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.store, err = openStore(a.cfg.DataDir, a.log); err != nil {
		return nil, err
	}
	a.ads, err = adsserver.New(adsserver.Options{
		Types:        translate.Types(),
		Authenticate: func(ctx context.Context) (spiffeid.ID, error) { return a.enroll.Authenticate(ctx) },
		Logger:       a.log,
		Registerer:   reg,
	})
	if err != nil {
		return nil, err
	}
	if err := a.openCA(ctx, reg); err != nil {
		return nil, err
	}
	a.entries = registration.New(a.td, a.store, events, nil)
	a.tokens = nodeattestor.NewTokens(a.store, events, a.td, nil)
	if err := a.openEnrolment(ctx, reg); err != nil {
		return nil, err
	}
	return a, a.bind(ctx)
}

// openStore opens the embedded store. One that is missing although the event log has a history was lost: a new one would be a new
// root that nobody trusts, so that is refused.
func openStore(dir string, log *slog.Logger) (*store.Bolt, error) {
	path := filepath.Join(dir, "postern.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && hasHistory(dir) {
		return nil, fmt.Errorf("the authority's store %s is gone, but %s tells of one: restore it from a backup, or move that directory away to begin a new trust domain", path, eventsDir(dir))
	}
	st, err := store.OpenBolt(path, store.BoltOptions{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("open the authority's store: %w", err)
	}
	return st, nil
}

func hasHistory(dir string) bool {
	for _, err := range audit.Read(eventsDir(dir), 0) {
		return err == nil
	}
	return false
}

func (a *authority) openCA(ctx context.Context, reg prometheus.Registerer) error {
	sealer, err := openSealer(a.cfg.Sealing)
	if err != nil {
		return err
	}
	manager, err := keys.Open(ctx, a.store, sealer)
	if err != nil {
		return fmt.Errorf("open the authority's keys: %w", err)
	}
	a.sealing = manager.Kind()
	a.ca, err = ca.Open(ctx, ca.Options{
		Store: a.store, Keys: manager, TrustDomain: a.td, Events: a.events, Logger: a.log, Registerer: reg,
		RootTTL: a.cfg.RootTTL, SigningTTL: a.cfg.SigningTTL, DefaultTTL: a.cfg.SVIDTTL, NodeTTL: a.cfg.NodeSVIDTTL,
		Propagated: a.propagated,
	})
	if err != nil {
		return fmt.Errorf("open the certificate authority: %w", err)
	}
	return nil
}

// openSealer returns what the authority's keys are encrypted with.
func openSealer(s config.Sealing) (keys.Sealer, error) {
	switch {
	case s.PassphraseFile != "":
		data, err := os.ReadFile(s.PassphraseFile)
		if err != nil {
			return nil, fmt.Errorf("read the sealing passphrase: %w", err)
		}
		return keys.Passphrase(bytes.TrimRight(data, "\r\n")), nil
	case s.PassphraseEnv != "":
		secret := os.Getenv(s.PassphraseEnv)
		if secret == "" {
			return nil, fmt.Errorf("the sealing passphrase is missing: environment variable %s is empty", s.PassphraseEnv)
		}
		return keys.Passphrase([]byte(secret)), nil
	default:
		return keys.LocalFile(s.LocalFile), nil
	}
}

// openEnrolment makes the transports and the service behind them.
func (a *authority) openEnrolment(ctx context.Context, reg prometheus.Registerer) error {
	node, err := enroll.NodeID(a.td, localNode)
	if err != nil {
		return err
	}
	a.local = enroll.NewLocal(node)
	a.enroll, err = enroll.NewServer(enroll.ServerOptions{
		TrustDomain: a.td, Authority: a.ca, Entries: a.entries, Tokens: a.tokens, Nodes: enroll.NewNodes(a.store), Events: a.events,
		Register: a.registerNode, Replaced: func(node spiffeid.ID) { a.transport.CloseNode(node) }, Logger: a.log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	if a.credential, err = enroll.NewAuthorityCredential(ctx, a.ca, a.log, nil); err != nil {
		return fmt.Errorf("issue the authority's own SVID: %w", err)
	}
	a.transport, err = enroll.NewNodeTransport(enroll.NodeTransportOptions{
		TrustDomain: a.td, Credential: a.credential.Get, Revocations: a.revocations.Load,
	})
	return err
}

// bind opens the sockets, so that an address in use is an error at start and not later.
func (a *authority) bind(ctx context.Context) (err error) {
	if a.listen, err = bindAddress(ctx, a.cfg.Listen); err != nil {
		return fmt.Errorf("authority.listen: %w", err)
	}
	if a.public, err = bindAddress(ctx, a.cfg.Public); err != nil {
		return fmt.Errorf("authority.public: %w", err)
	}
	return nil
}

func bindAddress(ctx context.Context, address config.Address) (net.Listener, error) {
	if address.IsZero() {
		return nil, nil
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, address.Network(), address.Target())
}

// run serves until ctx ends.
func (a *authority) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.store.Run(ctx) })
	group.Go(func() error { return a.ca.Run(ctx) })
	group.Go(func() error { return a.credential.Run(ctx) })
	group.Go(func() error { return a.feedBundle(ctx) })
	group.Go(func() error { return a.feedEntries(ctx) })
	group.Go(func() error { return a.feedRevocations(ctx) })
	group.Go(func() error { return a.serve(ctx) })
	return group.Wait()
}

// serve answers nodes once the tables hold what the store does: a node that comes back must not be told that what it has is gone, nor
// one that is revoked let in.
func (a *authority) serve(ctx context.Context) error {
	for _, filled := range []chan struct{}{a.filled.bundle, a.filled.entries, a.filled.revocations} {
		select {
		case <-filled:
		case <-ctx.Done():
			return nil
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.serveNodes(ctx, a.local, a.local.ServerCredentials()) })
	if a.listen != nil {
		group.Go(func() error { return a.serveNodes(ctx, netutil.LimitListener(a.listen, maxNodes), a.transport) })
	}
	if a.public != nil {
		group.Go(func() error { return a.servePublic(ctx) })
	}
	return group.Wait()
}

// serveNodes serves what an attested node may ask for.
func (a *authority) serveNodes(ctx context.Context, l net.Listener, creds credentials.TransportCredentials) error {
	server := grpc.NewServer(append(adsserver.GRPCOptions(), grpc.Creds(creds))...)
	a.enroll.RegisterNodes(server)
	a.ads.Register(server)
	return serveGRPC(ctx, server, l)
}

// servePublic serves what a machine without identity may ask for.
func (a *authority) servePublic(ctx context.Context) error {
	server := grpc.NewServer(append(a.enroll.PublicGRPCOptions(), grpc.Creds(credentials.NewTLS(enroll.PublicTLS(a.credential.Get))))...)
	a.enroll.RegisterPublic(server)
	return serveGRPC(ctx, server, netutil.LimitListener(a.public, maxStrangers))
}

// maxStrangers bounds the connections of machines that have proved nothing yet; more wait for a place.
const maxStrangers = 1024

// maxNodes bounds the connections of nodes; each keeps one, or two while it connects again.
const maxNodes = 16384

// serveGRPC ends the server at once when ctx ends: streams to nodes never end by themselves, and nodes connect again.
func serveGRPC(ctx context.Context, server *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(l)
	if errors.Is(err, grpc.ErrServerStopped) || ctx.Err() != nil {
		return nil
	}
	return err
}

// close releases what openAuthority opened.
func (a *authority) close() {
	for _, l := range []net.Listener{a.listen, a.public} {
		if l != nil {
			_ = l.Close()
		}
	}
	if a.local != nil {
		_ = a.local.Close()
	}
	if a.store != nil {
		_ = a.store.Close()
	}
}
