package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/audit"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy"
)

// Reload reads the configuration file again and makes it the one that serves, or changes nothing and says why.
func (a *App) Reload(ctx context.Context, actor string) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.opts.File == "" {
		return &admin.Error{Code: admin.CodeInvalid, Err: errors.New("this process was started without a configuration file: there is nothing to reload")}
	}
	if len(a.notReady()) == 0 {
		a.tell(reloading())
		defer a.tell("READY=1")
	}
	err := a.reload(ctx)
	a.noteReload(ctx, actor, err)
	return err
}

func (a *App) reload(ctx context.Context) error {
	cfg, err := load(a.opts.File)
	if err != nil {
		return err
	}
	if keys := needRestart(a.current(), cfg); len(keys) > 0 {
		return &admin.Error{Code: admin.CodeInvalid, Err: fmt.Errorf("%s cannot change while the process runs: restart it", strings.Join(keys, ", "))}
	}
	return a.apply(ctx, cfg)
}

func (a *App) noteReload(ctx context.Context, actor string, err error) {
	a.mu.Lock()
	a.lastError = inFull(err)
	generation := a.generation
	a.mu.Unlock()
	if err != nil {
		a.metrics.ReloadOK.Set(0)
		a.log.Error("configuration refused, the old one keeps serving", slog.String(observe.KeyError, inFull(err)), slog.String(observe.KeyActor, actor))
		a.event(ctx, audit.ConfigRefused, actor, map[string]string{"cause": inFull(err)})
		return
	}
	a.log.Info("configuration reloaded", slog.Uint64(observe.KeyGeneration, generation), slog.String(observe.KeyActor, actor))
	a.event(ctx, audit.ConfigReloaded, actor, map[string]string{"hash": a.current().Hash()})
}

// inFull is the text of an error with its details; empty for none.
func inFull(err error) string {
	if err == nil {
		return ""
	}
	var refused *admin.Error
	if errors.As(err, &refused) && len(refused.Details) > 0 {
		return strings.Join(refused.Details, "; ")
	}
	return err.Error()
}

// apply makes cfg the configuration that serves, whole or not at all. The proxy comes first: what can fail there (a port in use)
// fails before anything was declared to anybody. If the declaration fails, the proxy goes back.
func (a *App) apply(ctx context.Context, cfg *config.Config) error {
	a.mu.Lock()
	before, generation := a.config, a.generation+1
	a.mu.Unlock()
	if err := a.applyProxy(ctx, cfg, generation); err != nil {
		return fmt.Errorf("apply the configuration: %w", err)
	}
	if err := a.declare(ctx, cfg); err != nil {
		return errors.Join(err, a.goBack(ctx, before, generation+1))
	}
	a.mu.Lock()
	a.config, a.generation, a.loaded = cfg, generation, time.Now()
	a.mu.Unlock()
	a.metrics.ReloadOK.Set(1)
	return nil
}

func (a *App) applyProxy(ctx context.Context, cfg *config.Config, generation uint64) error {
	snapshot, err := proxy.Compile(cfg, generation)
	if err != nil {
		return err
	}
	a.policing.Lock()
	defer a.policing.Unlock()
	a.mu.Lock()
	policies := a.compilePolicies(cfg)
	a.mu.Unlock()
	return a.proxy.Apply(ctx, snapshot, policies)
}

// goBack makes the old configuration serve again after the new one could not be declared in full.
func (a *App) goBack(ctx context.Context, before *config.Config, generation uint64) error {
	if before == nil {
		return nil
	}
	if err := errors.Join(a.applyProxy(ctx, before, generation), a.declare(ctx, before)); err != nil {
		return fmt.Errorf("go back to the old configuration: %w", err)
	}
	return nil
}

// declare makes the authority's declared state that of cfg.
func (a *App) declare(ctx context.Context, cfg *config.Config) error {
	if a.authority == nil {
		return nil
	}
	if err := a.authority.declareEntries(ctx, cfg); err != nil {
		return err
	}
	return a.authority.publishPolicies(cfg.Policies)
}

// needRestart names the sections that differ and belong to what a running process cannot exchange.
func needRestart(before, after *config.Config) []string {
	var keys []string
	for _, section := range []struct {
		key           string
		before, after any
	}{
		{"trust_domain", before.TrustDomain, after.TrustDomain},
		{"authority", before.Authority, after.Authority},
		{"identity", before.Identity, after.Identity},
		{"workload_api", before.WorkloadAPI, after.WorkloadAPI},
		{"admin", before.Admin, after.Admin},
		{"metrics", before.Metrics, after.Metrics},
		{"access_log", before.AccessLog, after.AccessLog},
	} {
		if !reflect.DeepEqual(section.before, section.after) {
			keys = append(keys, section.key)
		}
	}
	return keys
}

// refusedConfig carries every error of a configuration to the operator.
func refusedConfig(all config.Errors) error {
	details := make([]string, 0, len(all))
	for _, e := range all {
		details = append(details, e.Error())
	}
	return &admin.Error{Code: admin.CodeInvalid, Err: errors.New("the new configuration is refused, the old one keeps serving"), Details: details}
}

// followFile reloads when the file changes, until ctx ends. A system without notifications leaves SIGHUP and 'postern reload'.
func (a *App) followFile(ctx context.Context) {
	err := watchFile(ctx, a.opts.File, func() {
		if cfg, err := config.Load(a.opts.File); err == nil && cfg.Hash() == a.current().Hash() {
			return // touched, or saved without a change
		}
		_ = a.Reload(ctx, "file") // Reload has logged the error
	})
	if err != nil {
		a.log.Warn("configuration file is not watched", slog.String(observe.KeyError, err.Error()))
	}
}
