package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// addOutput gives a reading command its -o flag.
func addOutput(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "table, json or yaml")
}

// show prints value as the -o flag asks; table writes the human form.
func show(cmd *cobra.Command, value any, table func(w io.Writer)) error {
	format, _ := cmd.Flags().GetString("output")
	out := cmd.OutOrStdout()
	switch format {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		return showYAML(out, value)
	case "table", "":
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		table(w)
		return w.Flush()
	default:
		return usageError("output %q: use table, json or yaml", format)
	}
}

// showYAML goes through JSON, so that both forms have the same keys.
func showYAML(out io.Writer, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	var plain any
	if err := yaml.Unmarshal(encoded, &plain); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	return enc.Encode(plain)
}

// row writes one line of a table.
func row(w io.Writer, cells ...string) {
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// until says how long it is until t: "52m", "expired".
func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	left := time.Until(t)
	if left <= 0 {
		return "expired"
	}
	return short(left)
}

func short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	default:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
}

// dash stands for what is not there.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
