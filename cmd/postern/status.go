package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "How the running process is", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := adminClient(cmd).Status(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, st, func(w io.Writer) { statusTable(w, st) })
		},
	}
	addOutput(cmd)
	return cmd
}

func statusTable(w io.Writer, st admin.Status) {
	ready := "ready"
	if !st.Ready {
		ready = "not ready: " + strings.Join(st.NotReady, ", ")
	}
	row(w, "state", ready)
	row(w, "version", st.Version)
	row(w, "process", fmt.Sprintf("%d, up %s", st.PID, short(time.Since(st.Started))))
	row(w, "roles", strings.Join(st.Roles, ", "))
	row(w, "trust domain", st.TrustDomain)
	row(w, "configuration", fmt.Sprintf("generation %d, %s, hash %s", st.Config.Generation, dash(st.Config.File), shortHex(st.Config.Hash)))
	if st.Config.LastError != "" {
		row(w, "last reload", "refused: "+st.Config.LastError)
	}
	if a := st.Authority; a != nil {
		row(w, "authority", fmt.Sprintf("%s, %s issued and not expired, %s, keys sealed by %s", plural(a.Entries, "entry", "entries"),
			plural(a.Credentials, "SVID", "SVIDs"), plural(a.Revocations, "revocation", "revocations"), a.Sealing))
		for _, n := range a.Nodes {
			row(w, "  node", n.SPIFFEID+", since "+short(time.Since(n.Connected)))
		}
	}
	if f := st.Upstream; f != nil {
		state := "connected"
		if !f.Connected {
			state = "NOT CONNECTED (serving what was last received)"
		}
		row(w, "follows", fmt.Sprintf("%s as %s, %s, %d entries", f.Authority, f.Node, state, f.Entries))
	}
	for _, id := range st.Identities {
		row(w, "identity", fmt.Sprintf("%s, serial %s, %s left", id.SPIFFEID, shortHex(id.Serial), until(id.NotAfter)))
	}
	for _, l := range st.Listeners {
		row(w, "listener", fmt.Sprintf("%s on %s, %s, tls %s, service %s, %d open", l.Name, l.Address, l.Protocol, l.TLS, dash(l.Service), l.Connections))
	}
	for _, c := range st.Clusters {
		row(w, "cluster", fmt.Sprintf("%s, %s, %s", c.Name, c.Protocol, endpointsLine(c.Endpoints)))
		for _, e := range c.Endpoints {
			if e.State != "available" {
				row(w, "  "+e.State, endpointLine(e))
			}
		}
	}
}

func endpointsLine(list []admin.EndpointStatus) string {
	available, busy := 0, int64(0)
	for _, e := range list {
		busy += e.UnderWay
		if e.State == "available" {
			available++
		}
	}
	return fmt.Sprintf("%d of %s available, %d under way", available, plural(len(list), "endpoint", "endpoints"), busy)
}

func endpointLine(e admin.EndpointStatus) string {
	line := e.Address
	if e.Reason != "" {
		line += ", " + e.Reason
	}
	if !e.Until.IsZero() {
		line += ", for " + until(e.Until)
	}
	return line
}

func newReload() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Load the configuration file again, all or nothing", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := adminClient(cmd)
			if err := client.Reload(cmd.Context()); err != nil {
				return err
			}
			st, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			cmd.Printf("generation %d serves\n", st.Config.Generation)
			return nil
		},
	}
}

func newHealthcheck() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Exit 0 if the running process is ready, 1 if not, 3 if nothing answers", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := adminClient(cmd).Status(cmd.Context())
			if err != nil {
				return err
			}
			if !st.Ready {
				return fmt.Errorf("not ready: %s", strings.Join(st.NotReady, ", "))
			}
			cmd.Println("ready")
			return nil
		},
	}
}
