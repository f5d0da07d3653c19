package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/app"
	"github.com/postern-proxy/postern/internal/config"
)

func newValidate() *cobra.Command {
	var format string
	var effective bool
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration: every error at once, with its place",
		Args:  exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err == nil {
				err = app.Check(cfg)
			}
			var all config.Errors
			if errors.As(err, &all) && format == "json" {
				if _, err := cmd.OutOrStdout().Write(all.JSON()); err != nil {
					return err
				}
				return &exitError{code: exitUsage}
			}
			if err != nil {
				return badConfig(err)
			}
			for _, w := range cfg.Warnings() {
				cmd.PrintErrln("warning:", w.Error())
			}
			if effective {
				_, err = cmd.OutOrStdout().Write(cfg.Effective())
				return err
			}
			cmd.Printf("%s is valid: %s, %s, %s, %s; what no policy allows is denied\n", args[0], plural(len(cfg.Listeners), "listener", "listeners"),
				plural(len(cfg.Clusters), "cluster", "clusters"), plural(len(cfg.Policies), "policy", "policies"), plural(len(cfg.Entries), "entry", "entries"))
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "of errors: text or json")
	cmd.Flags().BoolVar(&effective, "effective", false, "print the configuration with every default filled in")
	return cmd
}

func newFmt() *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use: "fmt FILE", Short: "Print a configuration file in the usual form; comments stay", Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return &exitError{code: exitUsage, err: fmt.Errorf("read configuration: %w", err)}
			}
			formatted, err := config.Format(data)
			if err != nil {
				return badConfig(err)
			}
			if !write {
				_, err = cmd.OutOrStdout().Write(formatted)
				return err
			}
			if bytes.Equal(data, formatted) {
				return nil
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return fmt.Errorf("read configuration: %w", err)
			}
			return writeWhole(args[0], formatted, info.Mode().Perm())
		},
	}
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write the file instead of printing it")
	return cmd
}

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the configuration, for editors", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
