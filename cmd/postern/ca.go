package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
)

func newCA() *cobra.Command {
	return group("ca", "The authority's signing keys", newCAShow(), newCARotate())
}

func newCAShow() *cobra.Command {
	var pem bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show roots and signing authorities with their states", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := adminClient(cmd).Authorities(cmd.Context())
			if err != nil {
				return err
			}
			if pem {
				for _, a := range list {
					if _, err := io.WriteString(cmd.OutOrStdout(), a.PEM); err != nil {
						return err
					}
				}
				return nil
			}
			return showAuthorities(cmd, list)
		},
	}
	cmd.Flags().BoolVar(&pem, "pem", false, "print the certificates")
	addOutput(cmd)
	return cmd
}

func newCARotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate root|signing",
		Short: "Replace the active authority; what was issued stays valid",
		Long: `Replace the active authority.

signing  A new signing key under the same root issues from now on.
root     A new root joins the bundle, every node that follows confirms it, and only then does it issue.
         The old root leaves the bundle when the last SVID beneath it has expired. A node that is away
         during all of this does not know the new root: it joins again with a new token.`,
		Args:      exactArgs("root|signing"),
		ValidArgs: []string{"root", "signing"},
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := adminClient(cmd).Rotate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showAuthorities(cmd, list)
		},
	}
	addOutput(cmd)
	return cmd
}

func showAuthorities(cmd *cobra.Command, list []admin.Authority) error {
	return show(cmd, list, func(w io.Writer) {
		row(w, "ID", "KIND", "STATE", "ISSUER", "NOT AFTER", "LEFT")
		for _, a := range list {
			row(w, shortHex(a.ID), a.Kind, a.State, dash(shortHex(a.Issuer)), a.NotAfter.Format(time.RFC3339), until(a.NotAfter))
		}
	})
}

// shortHex keeps enough of a key id to tell one from another.
func shortHex(s string) string {
	const digits = 16
	if len(s) > digits {
		return strings.ToLower(s[:digits])
	}
	return s
}

func newBundle() *cobra.Command {
	var format string
	showCmd := &cobra.Command{
		Use: "show", Short: "Print the bundle as PEM or as a SPIFFE bundle document", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			bundle, err := adminClient(cmd).Bundle(cmd.Context())
			if err != nil {
				return err
			}
			text := bundle.PEM
			switch format {
			case "pem":
			case "spiffe":
				text = string(bundle.SPIFFE) + "\n"
			default:
				return usageError("format %q: use pem or spiffe", format)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	showCmd.Flags().StringVar(&format, "format", "pem", "pem or spiffe")
	return group("bundle", "What the trust domain's SVIDs are verified with", showCmd)
}
