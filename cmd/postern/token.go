package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
)

func newToken() *cobra.Command {
	return group("token", "Join tokens: how another machine's postern first proves itself", newTokenCreate())
}

func newTokenCreate() *cobra.Command {
	var req admin.TokenRequest
	var quiet bool
	cmd := &cobra.Command{
		Use:   "create --node NAME",
		Short: "Make a join token: valid once, for one node",
		Long: `Make a join token: valid once, for one node.

The token carries the hash of the authority's key, so the node knows whom it talks to
from the first byte. Give it to the node in a file (identity.authority.join_token_file).`,
		Example: "  postern token create --node web-1 --identity spiffe://example.org/web -q > web-1.token",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Node == "" {
				return usageError("a token needs --node: the name that the node will have")
			}
			token, err := adminClient(cmd).CreateToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			if quiet {
				_, err = io.WriteString(cmd.OutOrStdout(), token.Token+"\n")
				return err
			}
			return show(cmd, token, func(w io.Writer) {
				row(w, "token", token.Token)
				row(w, "node", token.Node)
				row(w, "expires", token.Expires.Format(time.RFC3339)+" ("+until(token.Expires)+")")
			})
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "name of the node: its SPIFFE ID is spiffe://<trust domain>/node/<name>")
	cmd.Flags().StringSliceVar(&req.Identities, "identity", nil, "SPIFFE ID that the postern process there may present as its own")
	cmd.Flags().DurationVar(&req.TTL, "ttl", 10*time.Minute, "how long the token may be used")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the token only")
	addOutput(cmd)
	return cmd
}
