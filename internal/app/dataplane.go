package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy"
)

// openProxy makes the data plane; it has no listener before the first Apply.
func (a *App) openProxy() {
	a.proxy = proxy.New(proxy.Options{
		Logger: a.log.With(slog.String(observe.KeyComponent, "proxy")), Metrics: a.metrics, AccessLog: a.access,
		Credentials: func(id spiffeid.ID) *source.Holder { return a.identity.holder(id) },
		Revocations: a.revocations.Load, IDs: a.ids,
	})
}

// setPolicies takes the policies that the authority declares.
func (a *App) setPolicies(followed []config.Policy) {
	a.policing.Lock()
	defer a.policing.Unlock()
	a.mu.Lock()
	a.followed = followed
	table := a.compilePolicies(a.config)
	a.mu.Unlock()
	a.proxy.SetPolicies(table)
	a.log.Info("policies took effect", slog.Int(observe.KeyCount, len(followed)), slog.Uint64(observe.KeyGeneration, table.Generation()))
}

// compilePolicies makes the table that the proxy decides by: what the authority declares, and what the configuration file does. In
// the authority's own process the file's policies come back over the stream, and count once. The lock is held.
func (a *App) compilePolicies(cfg *config.Config) *policy.Table {
	all := a.followed
	if a.authority == nil && cfg != nil {
		all = slices.Concat(cfg.Policies, a.followed)
	}
	a.policyGeneration++
	return policy.Compile(all, a.policyGeneration, a.ids)
}

// setRevocations takes what is revoked: the index first, so that nobody who is cut can come back, then the cut.
func (a *App) setRevocations(index *revocation.Index, added []revocation.Revocation) {
	a.revocations.Store(index)
	if len(added) == 0 {
		return
	}
	closed := a.proxy.Revoked(added)
	a.log.Info("revocations took effect", slog.Int(observe.KeyCount, len(added)), slog.Int("connections_closed", closed))
}

// logAccess writes the access log until ctx ends.
func (a *App) logAccess(ctx context.Context) error {
	if a.access == nil {
		<-ctx.Done()
		return nil
	}
	out, err := accessOutput(a.opts.Config.AccessLog.Path)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	return a.access.Run(ctx, out)
}

func accessOutput(path config.LogPath) (io.WriteCloser, error) {
	if file, ok := path.File(); ok {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640) //nolint:gosec // a log: for its owner and group
		if err != nil {
			return nil, fmt.Errorf("open the access log: %w", err)
		}
		return f, nil
	}
	if path == config.LogStderr {
		return keptOpen{os.Stderr}, nil
	}
	return keptOpen{os.Stdout}, nil
}

// keptOpen is a standard stream, which is not ours to close.
type keptOpen struct{ io.Writer }

func (keptOpen) Close() error { return nil }
