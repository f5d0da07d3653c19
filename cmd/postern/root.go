package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/unixsocket"
)

// newRoot builds the command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "Machine identity, mutual TLS and authorization in one binary",
		Long: `postern gives machines identities, proves them to each other over mutual TLS,
and decides, request by request, what they may do.

Start here:
  postern demo              two services, two sidecars, an authority, on loopback
  postern run               an authority and an agent on this machine, no configuration
  postern run -c file.yaml  what the file says`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(os.Stdout) // what a command says is its output; only errors and warnings go elsewhere
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%s (see: %s --help)", err, cmd.CommandPath())
	})
	root.PersistentFlags().String("admin-address", os.Getenv("POSTERN_ADMIN_ADDRESS"),
		"admin socket of the running process (default: the one of 'postern run'; or POSTERN_ADMIN_ADDRESS)")
	root.AddCommand(
		newRun(), newDemo(), newValidate(), newFmt(), newSchema(), newReload(), newStatus(), newExplain(),
		newEntry(), newToken(), newSVID(), newCA(), newBundle(), newHealthcheck(), newVersion(),
	)
	return root
}

// group is a command that only has others beneath it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noSuchCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// noSuchCommand makes a mistyped command a usage error.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError("%s has no command %q (see: %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())
}

// adminClient returns a client of the socket named by --admin-address, or of the default one.
func adminClient(cmd *cobra.Command) *admin.Client {
	if address, _ := cmd.Flags().GetString("admin-address"); address != "" {
		return admin.NewClient(address)
	}
	return admin.NewClient(defaultSocket(config.AdminSocketName))
}

// defaultSocket is a socket of 'postern run' without configuration. Where another user could have made it, it is not trusted: the
// path that is returned then is one at which nobody answers.
func defaultSocket(name string) string {
	dir := defaultRunDir()
	if err := unixsocket.CheckOwner(dir); err != nil {
		fmt.Fprintf(os.Stderr, "postern: the default socket is not used, since another user could have made it: %s\n", err)
		return filepath.Join(os.DevNull, name)
	}
	return filepath.Join(dir, name)
}

// defaultRunDir is where 'postern run' without configuration puts its sockets.
func defaultRunDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && filepath.IsAbs(dir) {
		return filepath.Join(dir, "postern")
	}
	if os.Geteuid() == 0 {
		return "/run/postern"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("postern-%d", os.Geteuid()))
}

// defaultStateDir is where 'postern run' without configuration keeps its state.
func defaultStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" && filepath.IsAbs(dir) {
		return filepath.Join(dir, "postern"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/postern", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a place for state (set XDG_STATE_HOME or HOME, or give a configuration file): %w", err)
	}
	return filepath.Join(home, ".local", "state", "postern"), nil
}

// exactArgs is cobra.ExactArgs with an error that says what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return usageError("%s wants %s, not %d arguments", cmd.CommandPath(), strings.Join(names, " "), len(args))
	}
}
