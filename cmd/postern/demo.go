package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/demo"
)

func newDemo() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Two services, two sidecars and an authority on loopback, with real requests",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			return demo.Run(cmd.Context(), demo.Options{Binary: binary, Out: cmd.OutOrStdout(), Once: once})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the last step; exit code 0 if all went as it should, 1 if not")
	return cmd
}
