package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/svid"
	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/config"
)

func newSVID() *cobra.Command {
	return group("svid", "Credentials: fetch one as a workload, look at one, list and revoke what was issued",
		newSVIDFetch(), newSVIDShow(), newSVIDList(), newSVIDRevoke())
}

func newSVIDFetch() *cobra.Command {
	var socket, dir string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "fetch",
		Short: "Fetch this process's SVIDs from a Workload API",
		Long: `Fetch this process's SVIDs from a Workload API, postern's or another's.

With --write DIR the first SVID is written as svid.pem, svid.key (mode 0600) and bundle.pem.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			found, err := fetchX509(ctx, socket)
			if err != nil {
				return err
			}
			if dir != "" {
				if err := writeSVID(dir, found); err != nil {
					return err
				}
			}
			return showFetched(cmd, found)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "Workload API socket (default: SPIFFE_ENDPOINT_SOCKET, then the one of 'postern run')")
	cmd.Flags().StringVar(&dir, "write", "", "write the files to this directory")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for an identity")
	addOutput(cmd)
	return cmd
}

func fetchX509(ctx context.Context, socket string) (*workloadapi.X509Context, error) {
	socket, err := workloadSocket(ctx, socket)
	if err != nil {
		return nil, err
	}
	found, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr(socket))
	if err != nil {
		return nil, fmt.Errorf("fetch SVID from %s: %w", socket, err)
	}
	return found, nil
}

// workloadSocket is the socket as a URL, once somebody answers on it.
func workloadSocket(ctx context.Context, socket string) (string, error) {
	if socket == "" {
		socket = defaultSocket(config.WorkloadSocketName)
	}
	if strings.Contains(socket, "://") && !strings.HasPrefix(socket, "unix://") {
		return socket, nil
	}
	path, err := filepath.Abs(strings.TrimPrefix(socket, "unix://"))
	if err != nil {
		return "", err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", &exitError{code: exitUnreachable, err: fmt.Errorf("no Workload API answers on %s: %w", path, err)}
	}
	_ = conn.Close()
	return "unix://" + path, nil
}

// writeSVID writes the files of the first SVID; each appears whole or not at all.
func writeSVID(dir string, found *workloadapi.X509Context) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	first := found.DefaultSVID()
	chain, key, err := first.Marshal()
	if err != nil {
		return fmt.Errorf("encode SVID: %w", err)
	}
	bundle, err := found.Bundles.GetX509BundleForTrustDomain(first.ID.TrustDomain())
	if err != nil {
		return fmt.Errorf("find bundle: %w", err)
	}
	roots, err := bundle.Marshal()
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	for _, file := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{"svid.key", key, 0o600}, {"svid.pem", chain, 0o644}, {"bundle.pem", roots, 0o644}} {
		if err := writeWhole(filepath.Join(dir, file.name), file.data, file.mode); err != nil {
			return err
		}
	}
	return nil
}

// writeWhole writes a file through a temporary one beside it.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, werr := tmp.Write(data)
	if err := errors.Join(werr, tmp.Chmod(mode), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

// fetched is one SVID as the command shows it; the key is not among it.
type fetched struct {
	SPIFFEID string    `json:"spiffe_id"`
	Hint     string    `json:"hint,omitempty"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	Chain    int       `json:"chain"`
}

func showFetched(cmd *cobra.Command, found *workloadapi.X509Context) error {
	list := make([]fetched, 0, len(found.SVIDs))
	for _, s := range found.SVIDs {
		list = append(list, describeSVID(s))
	}
	return show(cmd, list, func(w io.Writer) {
		row(w, "SPIFFE ID", "SERIAL", "NOT AFTER", "LEFT")
		for _, s := range list {
			row(w, s.SPIFFEID, s.Serial, s.NotAfter.Format(time.RFC3339), until(s.NotAfter))
		}
	})
}

func describeSVID(s *x509svid.SVID) fetched {
	leaf := s.Certificates[0]
	return fetched{SPIFFEID: s.ID.String(), Hint: s.Hint, Serial: revocation.SerialString(leaf.SerialNumber), NotAfter: leaf.NotAfter, Chain: len(s.Certificates)}
}

func newSVIDShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show FILE", Short: "Read certificates from a PEM or DER file", Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
			chain, err := svid.ParseChain(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return showChain(cmd, chain)
		},
	}
	addOutput(cmd)
	return cmd
}

// certificate is one element of a chain as the command shows it.
type certificate struct {
	SPIFFEID  []string  `json:"uri_sans,omitempty"`
	DNSNames  []string  `json:"dns_names,omitempty"`
	CA        bool      `json:"ca"`
	Serial    string    `json:"serial"`
	Key       string    `json:"key_sha256"`
	Authority string    `json:"authority,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Algorithm string    `json:"public_key"`
}

func showChain(cmd *cobra.Command, chain []*x509.Certificate) error {
	list := make([]certificate, 0, len(chain))
	for _, c := range chain {
		out := certificate{CA: c.IsCA, Serial: revocation.SerialString(c.SerialNumber), Key: revocation.KeyString(c), DNSNames: c.DNSNames,
			Authority: revocation.AuthorityString(c.AuthorityKeyId), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Algorithm: c.PublicKeyAlgorithm.String()}
		for _, uri := range c.URIs {
			out.SPIFFEID = append(out.SPIFFEID, uri.String())
		}
		list = append(list, out)
	}
	return show(cmd, list, func(w io.Writer) {
		for i, c := range list {
			row(w, fmt.Sprintf("[%d]", i), strings.Join(c.SPIFFEID, " "))
			row(w, "  serial", c.Serial)
			row(w, "  key sha256", c.Key)
			row(w, "  authority", dash(c.Authority))
			row(w, "  public key", c.Algorithm)
			row(w, "  ca", fmt.Sprint(c.CA))
			row(w, "  valid", c.NotBefore.Format(time.RFC3339)+" to "+c.NotAfter.Format(time.RFC3339)+" ("+until(c.NotAfter)+" left)")
		}
	})
}

func newSVIDList() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "list", Short: "List what the authority issued and has not expired", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := adminClient(cmd).Credentials(cmd.Context(), id)
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "SERIAL", "SPIFFE ID", "NODE", "ISSUED", "LEFT", "STATE")
				for _, c := range list {
					state := "live"
					if c.Revoked {
						state = "revoked"
					}
					row(w, c.Serial, c.SPIFFEID, dash(c.Node), c.Issued.Format(time.RFC3339), until(c.NotAfter), state)
				}
			})
		},
	}
	cmd.Flags().StringVar(&id, "spiffe-id", "", "only those of this identity")
	addOutput(cmd)
	return cmd
}

func newSVIDRevoke() *cobra.Command {
	var serial, id, key, authority, reason string
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Withdraw trust: live connections it concerns are closed within a second",
		Long: `Withdraw trust. Exactly one of --serial, --spiffe-id, --key and --authority says of what.

A serial number or a key ends one credential; a workload still entitled gets a new one.
A SPIFFE ID ends the identity itself: it gets no new SVID until the revocation is lifted.`,
		Example: "  postern svid revoke --spiffe-id spiffe://example.org/web --reason \"key on a stolen laptop\"",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := admin.Revocation{Reason: reason}
			given := 0
			for kind, value := range map[revocation.Kind]string{revocation.Serial: serial, revocation.SPIFFEID: id, revocation.Key: key, revocation.Authority: authority} {
				if value != "" {
					r.Kind, r.Value = kind, value
					given++
				}
			}
			if given != 1 || reason == "" {
				return usageError("revoke wants exactly one of --serial, --spiffe-id, --key, --authority, and a --reason")
			}
			made, err := adminClient(cmd).Revoke(cmd.Context(), r)
			if err != nil {
				return err
			}
			return show(cmd, made, func(w io.Writer) {
				row(w, "revocation", made.ID)
				row(w, "of", string(made.Kind)+" "+made.Value)
				row(w, "reason", made.Reason)
				row(w, "by", made.By)
				if made.Until.IsZero() {
					row(w, "until", "it is lifted (postern svid revoke lift "+made.ID+")")
					return
				}
				row(w, "until", made.Until.Format(time.RFC3339))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&serial, "serial", "", "serial number of one certificate, hexadecimal")
	flags.StringVar(&id, "spiffe-id", "", "an identity: all its SVIDs, and no new ones")
	flags.StringVar(&key, "key", "", "SHA-256 of a public key (SubjectPublicKeyInfo), hexadecimal")
	flags.StringVar(&authority, "authority", "", "subject key id of a root or signing authority, hexadecimal")
	flags.StringVar(&reason, "reason", "", "why, for the record")
	addOutput(cmd)
	cmd.AddCommand(newRevocationList(), newRevocationLift())
	return cmd
}

func newRevocationList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List what is revoked", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := adminClient(cmd).Revocations(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "OF", "VALUE", "AT", "BY", "UNTIL", "REASON")
				for _, r := range list {
					row(w, r.ID, string(r.Kind), r.Value, r.At.Format(time.RFC3339), r.By, untilOrLifted(r.Until), r.Reason)
				}
			})
		},
	}
	addOutput(cmd)
	return cmd
}

func newRevocationLift() *cobra.Command {
	return &cobra.Command{
		Use: "lift ID", Short: "End a revocation", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return adminClient(cmd).LiftRevocation(cmd.Context(), args[0])
		},
	}
}

func untilOrLifted(t time.Time) string {
	if t.IsZero() {
		return "lifted"
	}
	return t.Format(time.RFC3339)
}
