package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/app"
	"github.com/postern-proxy/postern/internal/config"
)

// runFlags are those of 'postern run'.
type runFlags struct {
	file       string
	logLevel   string
	logFormat  string
	listen, to string
	allow      []string
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run what the configuration says; without one, an authority and an agent on this machine",
		Long: `Run what the configuration says.

With -c FILE          what the file says. SIGHUP, 'postern reload' or a change of the file loads it again.
With --listen, --to   a mutual TLS proxy in front of one address, for the callers named with --allow.
With nothing          an authority and an agent for the programs of this machine: trust domain local.internal,
                      each executable of the user who started it gets an identity of its own.`,
		Example: `  postern run
  postern run -c postern.yaml
  postern run --listen 127.0.0.1:8443 --to 127.0.0.1:8080 --allow 'spiffe://local.internal/**'`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", os.Getenv("POSTERN_CONFIG"), "configuration file (or POSTERN_CONFIG)")
	flags.StringVar(&f.logLevel, "log-level", envOr("POSTERN_LOG_LEVEL", "info"), "debug, info, warn or error (or POSTERN_LOG_LEVEL)")
	flags.StringVar(&f.logFormat, "log-format", envOr("POSTERN_LOG_FORMAT", "text"), "text or json (or POSTERN_LOG_FORMAT)")
	flags.StringVar(&f.listen, "listen", "", "address on which to accept mutual TLS")
	flags.StringVar(&f.to, "to", "", "address to which allowed requests go, in plain HTTP")
	flags.StringSliceVar(&f.allow, "allow", nil, "SPIFFE ID, or pattern of them, that may call")
	return cmd
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func run(cmd *cobra.Command, f runFlags) error {
	logger, level, err := newLogger(cmd, f)
	if err != nil {
		return err
	}
	cfg, err := f.configuration()
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings() {
		cmd.PrintErrln("warning:", w.Error())
	}
	file, err := absolute(f.file)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1) // from the first moment: before there is something to reload, SIGHUP must not end the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	process, err := app.New(cmd.Context(), app.Options{Config: cfg, File: file, Version: build().Version, Logger: logger, Level: level})
	if err != nil {
		return badConfig(err)
	}
	if f.file == "" {
		announce(cmd, cfg) // the sockets are bound: who connects now is served as soon as Run begins
	}
	stop := reloadOnHangup(cmd.Context(), hangup, process)
	defer stop()
	return process.Run(cmd.Context())
}

// configuration is the one that the flags ask for.
func (f runFlags) configuration() (*config.Config, error) {
	sugar := f.listen != "" || f.to != "" || len(f.allow) > 0
	switch {
	case f.file != "" && sugar:
		return nil, usageError("--config and --listen/--to/--allow exclude each other")
	case f.file != "":
		cfg, err := config.Load(f.file)
		return cfg, badConfig(err)
	}
	stateDir, err := defaultStateDir()
	if err != nil {
		return nil, err
	}
	runDir := defaultRunDir()
	if err := checkRunDir(runDir); err != nil {
		return nil, err
	}
	cfg, err := f.preset(stateDir, runDir)
	return cfg, badConfig(err)
}

func (f runFlags) preset(stateDir, runDir string) (*config.Config, error) {
	if f.listen == "" && f.to == "" {
		return config.Default(stateDir, runDir, os.Geteuid())
	}
	return config.OneLiner(config.Sidecar{Listen: f.listen, To: f.to, Allow: f.allow, StateDir: stateDir, RunDir: runDir, UID: os.Geteuid()})
}

// announce tells what a process without configuration is, and how workloads reach it.
func announce(cmd *cobra.Command, cfg *config.Config) {
	cmd.Printf("trust domain %s, state in %s\n", cfg.TrustDomain, cfg.Authority.DataDir)
	for _, e := range cfg.Entries {
		cmd.Printf("each program that user %d runs has an identity of its own: %s\n", os.Geteuid(), e.SPIFFEID)
	}
	cmd.Printf("SPIFFE_ENDPOINT_SOCKET=unix://%s\n", cfg.WorkloadAPI.Socket)
}

// checkRunDir makes the directory of the sockets, or refuses one in which another user could replace them.
func checkRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // workloads of every user pass through to the Workload API
		return fmt.Errorf("make the directory of the sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check the directory of the sockets: %w", err)
	}
	if !info.IsDir() {
		return usageError("%s is no directory: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return usageError("%s belongs to user %d: another user could replace the sockets in it; remove it, or set XDG_RUNTIME_DIR", dir, owner)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return usageError("%s can be written by others (mode %04o): another user could replace the sockets in it; chmod 755 it", dir, info.Mode().Perm())
	}
	return nil
}

// badConfig prints every error of a configuration on its own line and ends with exit code 2.
func badConfig(err error) error {
	var all config.Errors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &all):
		for _, e := range all {
			fmt.Fprintln(os.Stderr, e.Error())
		}
		return &exitError{code: exitUsage, err: fmt.Errorf("%s in the configuration", plural(len(all), "error", "errors"))}
	case errors.Is(err, fs.ErrNotExist):
		return usageError("%w (postern demo shows a complete set-up)", err)
	default:
		return &exitError{code: exitUsage, err: err}
	}
}

// plural writes a number with its thing.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func newLogger(cmd *cobra.Command, f runFlags) (*slog.Logger, *slog.LevelVar, error) {
	level := &slog.LevelVar{}
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, nil, usageError("log level %q: use debug, info, warn or error", f.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), opts)), level, nil
	case "json":
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), opts)), level, nil
	default:
		return nil, nil, usageError("log format %q: use text or json", f.logFormat)
	}
}

// reloadOnHangup loads the configuration again at each signal until the returned function is called.
func reloadOnHangup(ctx context.Context, hangup <-chan os.Signal, process *app.App) func() {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-hangup:
				_ = process.Reload(ctx, "signal") // Reload has logged the error
			case <-ctx.Done():
				return
			}
		}
	}()
	return cancel
}
