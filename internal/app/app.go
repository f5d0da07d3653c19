package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/workloadapi"
	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy"
	"github.com/postern-proxy/postern/proxy/listener"
)

// Options are what New needs.
type Options struct {
	Config *config.Config
	// File is the configuration file, which a reload reads again; empty when there is none.
	File    string
	Version string
	Logger  *slog.Logger
	// Level is the level of Logger, which an operator may change.
	Level *slog.LevelVar
}

// App is one process: the roles that its configuration names, wired to each other.
type App struct {
	opts     Options
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *observe.Metrics
	access   *observe.AccessLog
	events   *audit.Log // nil in a process that keeps no state
	started  time.Time

	authority *authority // nil without one
	identity  *identity
	proxy     *proxy.Server
	ids       *authz.IDs

	adminListener   net.Listener // nil when not configured
	metricsListener net.Listener // nil when not configured
	workload        net.Listener // nil when not configured
	workloadAPI     *workloadapi.Server

	revocations atomic.Pointer[revocation.Index]

	reloading sync.Mutex // one reload at a time
	policing  sync.Mutex // from the compilation of a policy table to its taking effect, so that an older one never comes last
	drain     context.CancelCauseFunc

	mu sync.Mutex // guards what follows
	state
}

// state is what a reload or the authority changes.
type state struct {
	config     *config.Config
	generation uint64 // of the configuration
	loaded     time.Time
	lastError  string
	// followed are the policies that the authority declared.
	followed []config.Policy
	// policyGeneration numbers the policy tables.
	policyGeneration uint64
}

// errDrained ends a process that an operator asked to drain.
var errDrained = errors.New("drained")

// New opens everything that can fail: state, sockets, credentials' sources. Nothing runs before Run. After an error nothing is left
// open.
func New(ctx context.Context, opts Options) (_ *App, err error) {
	if err := Check(opts.Config); err != nil {
		return nil, err
	}
	a := &App{opts: opts, log: opts.Logger, registry: prometheus.NewRegistry(), started: time.Now(), ids: authz.NewIDs()}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.metrics, err = observe.NewMetrics(a.registry); err != nil {
		return nil, err
	}
	if opts.Config.AccessLog.Path != config.LogOff {
		a.access = observe.NewAccessLog(a.metrics.AccessLogDropped)
	}
	if err := a.openRoles(ctx, opts.Config); err != nil {
		return nil, err
	}
	if err := a.openSockets(ctx, opts.Config); err != nil {
		return nil, err
	}
	return a, a.apply(ctx, opts.Config)
}

// openRoles builds the roles in the order in which they depend on each other.
func (a *App) openRoles(ctx context.Context, cfg *config.Config) (err error) {
	if dir := stateDir(cfg); dir != "" {
		if a.events, err = audit.Open(eventsDir(dir), audit.Options{}); err != nil {
			if errors.Is(err, audit.ErrLocked) {
				return fmt.Errorf("another postern runs with the state in %s: stop it first, or give this one another place for its state: %w", dir, err)
			}
			return fmt.Errorf("open the event log: %w", err)
		}
	}
	if cfg.Authority != nil {
		if a.authority, err = openAuthority(ctx, cfg, a.events, a.registry, a.log); err != nil {
			return err
		}
	}
	a.openProxy()
	a.identity, err = a.openIdentity(ctx, cfg)
	return err
}

// stateDir is where this process may keep state: the authority's or the node's; empty for a process that has neither.
func stateDir(cfg *config.Config) string {
	switch {
	case cfg.Authority != nil:
		return cfg.Authority.DataDir
	case cfg.Identity.Source == config.SourceAuthority && cfg.Identity.Authority != nil:
		return cfg.Identity.Authority.DataDir
	default:
		return ""
	}
}

// eventsDir is where the event log of a state directory is.
func eventsDir(dir string) string { return filepath.Join(dir, "events") }

// adminReserve is how many descriptors are held back for operators, who need them most when there are no others.
const adminReserve = 8

// openSockets binds what is not a listener of the proxy.
func (a *App) openSockets(ctx context.Context, cfg *config.Config) (err error) {
	if cfg.Admin.Socket != "" {
		if a.adminListener, err = listenAdmin(ctx, string(cfg.Admin.Socket)); err != nil {
			return fmt.Errorf("admin.socket: %w", err)
		}
		a.adminListener = listener.WithReserve(a.adminListener, adminReserve)
	}
	if a.metricsListener, err = bindAddress(ctx, cfg.Metrics.Listen); err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	if cfg.WorkloadAPI == nil {
		return nil
	}
	if a.identity.node == nil {
		return errors.New("workload_api: this process has no entries to serve from: it needs an authority, its own or a remote one")
	}
	attestor, err := workloadattestor.New(workloadattestor.Options{Logger: a.log, Registerer: a.registry})
	if err != nil {
		return fmt.Errorf("workload_api: %w", err)
	}
	a.workloadAPI, err = workloadapi.NewServer(workloadapi.ServerOptions{Identities: a.identity.node.manager, Attestor: attestor, Logger: a.log, Registerer: a.registry})
	if err != nil {
		return fmt.Errorf("workload_api: %w", err)
	}
	if a.workload, err = workloadapi.Listen(ctx, string(cfg.WorkloadAPI.Socket)); err != nil {
		return fmt.Errorf("workload_api.socket: %w", err)
	}
	return nil
}

// Run serves until ctx ends, or an operator drains the process; then it lets what is under way finish, for as long as
// shutdown.drain_timeout says. An error means that a role could not go on.
func (a *App) Run(ctx context.Context) error {
	defer a.close()
	serving, drain := context.WithCancelCause(ctx)
	defer drain(nil)
	a.drain = drain
	// What the data path needs to the end (credentials, revocations, logs) outlives the signal to stop.
	living, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()

	group, failing := errgroup.WithContext(living)
	stop := context.AfterFunc(failing, func() { drain(context.Cause(failing)) })
	defer stop()
	for _, role := range a.roles() {
		group.Go(func() error { return role(failing) })
	}
	group.Go(func() error { return a.logAccess(failing) })
	group.Go(func() error { return giveMemoryBack(failing) })
	group.Go(func() error {
		defer end()
		return a.serveUntil(serving)
	})
	a.event(living, audit.Started, "", nil)
	err := group.Wait()
	a.event(context.WithoutCancel(ctx), audit.Stopped, "", nil)
	if errors.Is(err, errDrained) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// roles are the parts that run as long as the process lives.
func (a *App) roles() []func(context.Context) error {
	roles := []func(context.Context) error{a.identity.run, a.proxy.Run}
	if a.authority != nil {
		roles = append(roles, a.authority.run)
	}
	if a.adminListener != nil {
		server := admin.NewServer(a, a.directory(), a.registry, callers(), a.log)
		roles = append(roles, func(ctx context.Context) error { return server.Serve(ctx, a.adminListener) })
	}
	if a.metricsListener != nil {
		roles = append(roles, func(ctx context.Context) error {
			return admin.ServeMetrics(ctx, a.metricsListener, a.registry, a.notReady)
		})
	}
	if a.workload != nil {
		roles = append(roles, func(ctx context.Context) error { return a.workloadAPI.Serve(ctx, a.workload) })
	}
	return roles
}

// directory is nil in a process without authority.
func (a *App) directory() admin.Directory {
	if a.authority == nil {
		return nil
	}
	return directory{a.authority}
}

// serveUntil tells the service manager of the process's life, follows the configuration file, and drains the proxy at the end.
func (a *App) serveUntil(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go a.announceReady(watching)
	if a.opts.File != "" {
		go a.followFile(watching)
	}
	<-ctx.Done()
	a.tell("STOPPING=1")
	a.log.Info("draining", slog.String(observe.KeyReason, reasonOf(context.Cause(ctx))))
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.current().Shutdown.DrainTimeout)
	defer cancel()
	if err := a.proxy.Drain(draining); err != nil {
		a.log.Warn("connections were cut at the end of the drain", slog.String(observe.KeyError, err.Error()))
	}
	return nil
}

func reasonOf(cause error) string {
	if cause == nil || errors.Is(cause, context.Canceled) {
		return "signal"
	}
	return cause.Error()
}

// announceReady says once that the process is ready.
func (a *App) announceReady(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(a.notReady()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	a.log.Info("ready", slog.Duration(observe.KeyDuration, time.Since(a.started)))
	a.tell("READY=1")
}

func (a *App) tell(state string) {
	if err := notify(state); err != nil {
		a.log.Warn("service manager was not told", slog.String(observe.KeyError, err.Error()))
	}
}

// current is the configuration that serves.
func (a *App) current() *config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config
}

// event records what was done to the process; a failure is logged, since what was done stays done.
func (a *App) event(ctx context.Context, kind, actor string, detail map[string]string) {
	if a.events == nil {
		return
	}
	if actor == "" {
		actor = "postern"
	}
	if _, err := a.events.Append(ctx, audit.Event{Type: kind, Actor: actor, Target: "process", Detail: detail}); err != nil {
		a.log.Error("event was not recorded", slog.String(observe.KeyType, kind), slog.String(observe.KeyError, err.Error()))
	}
}

// close releases what New opened. Listeners are closed by who serves them too; twice does no harm.
func (a *App) close() {
	for _, l := range []net.Listener{a.adminListener, a.metricsListener, a.workload} {
		if l != nil {
			_ = l.Close()
		}
	}
	if a.identity != nil {
		a.identity.close()
	}
	if a.authority != nil {
		a.authority.close()
	}
	if a.events != nil {
		_ = a.events.Close()
	}
}
