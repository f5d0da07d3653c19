package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
)

func newEntry() *cobra.Command {
	return group("entry", "Registration entries: which selectors earn which SPIFFE ID",
		newEntryCreate(), newEntryList(), newEntryShow(), newEntryUpdate(), newEntryDelete())
}

// entryFlags are shared by create and update.
type entryFlags struct {
	id, node, hint, owner, purpose string
	selectors, dns                 []string
	ttl                            time.Duration
}

func (f *entryFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.id, "spiffe-id", "", "the identity, or a template such as spiffe://example.org/user/{unix.user}")
	flags.StringSliceVar(&f.selectors, "selector", nil, "a fact the workload must have, as unix:uid:1000; all given must hold")
	flags.StringVar(&f.node, "node", "", "SPIFFE ID of the node (default: the authority's own)")
	flags.DurationVar(&f.ttl, "ttl", 0, "life of its SVIDs (default: the authority's)")
	flags.StringSliceVar(&f.dns, "dns-name", nil, "DNS name that its certificates carry too")
	flags.StringVar(&f.hint, "hint", "", "tells a workload with several identities which this is")
	flags.StringVar(&f.owner, "owner", "", "the team that answers for it")
	flags.StringVar(&f.purpose, "purpose", "", "what it is for")
}

func newEntryCreate() *cobra.Command {
	var f entryFlags
	cmd := &cobra.Command{
		Use:     "create --spiffe-id ID --selector TYPE:KEY:VALUE",
		Short:   "Register an entry",
		Example: "  postern entry create --spiffe-id spiffe://local.internal/web --selector unix:uid:1000 --owner team-web",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.id == "" || len(f.selectors) == 0 {
				return usageError("an entry needs --spiffe-id and at least one --selector")
			}
			entry, err := adminClient(cmd).CreateEntry(cmd.Context(), admin.Entry{SPIFFEID: f.id, Selectors: f.selectors, Node: f.node,
				TTL: f.ttl, DNSNames: f.dns, Hint: f.hint, Owner: f.owner, Purpose: f.purpose})
			if err != nil {
				return err
			}
			return show(cmd, entry, func(w io.Writer) { entryTable(w, entry) })
		},
	}
	f.add(cmd)
	addOutput(cmd)
	return cmd
}

func newEntryList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List entries", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, err := adminClient(cmd).Entries(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, entries, func(w io.Writer) { entryTable(w, entries...) })
		},
	}
	addOutput(cmd)
	return cmd
}

func newEntryShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one entry", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entry, err := adminClient(cmd).Entry(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(cmd, entry, func(w io.Writer) { entryDetails(w, entry) })
		},
	}
	addOutput(cmd)
	return cmd
}

func newEntryUpdate() *cobra.Command {
	var f entryFlags
	var revision uint64
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change an entry; only the flags given are changed", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			change := admin.EntryChange{Revision: revision}
			given := cmd.Flags().Changed
			for flag, set := range map[string]func(){
				"spiffe-id": func() { change.SPIFFEID = &f.id }, "node": func() { change.Node = &f.node }, "ttl": func() { change.TTL = &f.ttl },
				"selector": func() { change.Selectors = &f.selectors }, "dns-name": func() { change.DNSNames = &f.dns },
				"hint": func() { change.Hint = &f.hint }, "owner": func() { change.Owner = &f.owner }, "purpose": func() { change.Purpose = &f.purpose },
			} {
				if given(flag) {
					set()
				}
			}
			entry, err := adminClient(cmd).UpdateEntry(cmd.Context(), args[0], change)
			if err != nil {
				return err
			}
			return show(cmd, entry, func(w io.Writer) { entryTable(w, entry) })
		},
	}
	f.add(cmd)
	cmd.Flags().Uint64Var(&revision, "revision", 0, "change it only if this is still its revision")
	addOutput(cmd)
	return cmd
}

func newEntryDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Remove an entry and withdraw its SVIDs from workloads", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := adminClient(cmd).DeleteEntry(cmd.Context(), args[0]); err != nil {
				return err
			}
			cmd.Printf("deleted entry %s; SVIDs already issued stay valid until they expire (postern svid revoke ends them now)\n", args[0])
			return nil
		},
	}
}

func entryTable(w io.Writer, entries ...admin.Entry) {
	row(w, "ID", "SPIFFE ID", "SELECTORS", "NODE", "TTL", "OWNER")
	for _, e := range entries {
		row(w, e.ID, e.SPIFFEID, strings.Join(e.Selectors, " "), orOwn(e.Node), orDefault(e.TTL), dash(e.Owner))
	}
}

func entryDetails(w io.Writer, e admin.Entry) {
	row(w, "id", e.ID)
	row(w, "spiffe id", e.SPIFFEID)
	row(w, "selectors", strings.Join(e.Selectors, " "))
	row(w, "node", orOwn(e.Node))
	row(w, "ttl", orDefault(e.TTL))
	row(w, "dns names", dash(strings.Join(e.DNSNames, " ")))
	row(w, "hint", dash(e.Hint))
	row(w, "owner", dash(e.Owner))
	row(w, "purpose", dash(e.Purpose))
	row(w, "created", e.Created.Format(time.RFC3339))
}

func orOwn(node string) string {
	if node == "" {
		return "(authority)"
	}
	return node
}

func orDefault(ttl time.Duration) string {
	if ttl == 0 {
		return "(default)"
	}
	return ttl.String()
}
