package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-proxy/postern/internal/admin"
)

func newExplain() *cobra.Command {
	var req admin.ExplainRequest
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain [DECISION]",
		Short: "Why a request was allowed or denied, or would be",
		Long: `Why a request was allowed or denied, or would be.

With a decision id (from the access log or the x-postern-decision header) it tells of that decision.
With --service it judges a described request by the policies that serve now. Exit code 1 when the answer is deny.`,
		Example: `  postern explain 4f1c0a93be27d658
  postern explain --service orders --from spiffe://example.org/web --request "GET /v1/orders/7"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := explain(cmd, args, req, headers)
			if err != nil {
				return err
			}
			if err := show(cmd, answer, func(w io.Writer) { explanation(w, answer) }); err != nil {
				return err
			}
			if len(args) == 0 && answer.Effect != "allow" {
				return &exitError{code: exitCheckFailed}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Service, "service", "", "the service asked")
	flags.StringVar(&req.Principal, "from", "", "SPIFFE ID of the caller (default: anonymous)")
	flags.String("request", "", `method and path, as "GET /v1/orders/7"`)
	flags.BoolVar(&req.TCP, "tcp", false, "a connection to a tcp service instead of a request")
	flags.StringVar(&req.Host, "host", "", "host of the request")
	flags.StringSliceVar(&headers, "header", nil, `header field, as "x-role: admin"`)
	addOutput(cmd)
	return cmd
}

func explain(cmd *cobra.Command, args []string, req admin.ExplainRequest, headers []string) (admin.Explanation, error) {
	client := adminClient(cmd)
	if len(args) == 1 && args[0] != "" {
		return client.ExplainDecision(cmd.Context(), args[0])
	}
	if req.Service == "" {
		return admin.Explanation{}, usageError("explain wants a decision id, or --service with --request")
	}
	line, _ := cmd.Flags().GetString("request")
	if line == "" && !req.TCP {
		return admin.Explanation{}, usageError(`explain wants --request "METHOD /path" (or --tcp)`)
	}
	if line != "" {
		method, target, ok := strings.Cut(line, " ")
		if !ok {
			return admin.Explanation{}, usageError(`request %q: write it as "GET /v1/orders/7"`, line)
		}
		req.Method, req.Target = method, strings.TrimSpace(target)
	}
	req.Header = map[string][]string{}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return admin.Explanation{}, usageError(`header %q: write it as "name: value"`, h)
		}
		name = strings.ToLower(strings.TrimSpace(name))
		req.Header[name] = append(req.Header[name], strings.TrimSpace(value))
	}
	return client.Explain(cmd.Context(), req)
}

func explanation(w io.Writer, x admin.Explanation) {
	verdict := strings.ToUpper(x.Effect)
	if x.Policy != "" {
		verdict += " by " + x.Policy + " " + x.Rule
	}
	if x.Reason != "" {
		verdict += " (" + x.Reason + ")"
	}
	row(w, "answer", verdict)
	if x.Decision != "" {
		row(w, "decision", x.Decision+" at "+x.Time.Format("2006-01-02T15:04:05.000Z07:00"))
	}
	row(w, "service", x.Service)
	row(w, "principal", x.Principal)
	if x.Method != "" {
		row(w, "request", x.Method+" "+x.Path)
	}
	if x.Host != "" {
		row(w, "host", x.Host)
	}
	row(w, "policies", fmt.Sprintf("generation %d", x.Generation))
	for _, r := range x.Rules {
		mark := "no match"
		if r.Matched {
			mark = "MATCH"
		}
		row(w, "  "+r.Policy+" "+r.Rule+modeNote(r.Mode), mark+": "+r.Why)
	}
	if x.Advice != "" {
		row(w, "advice", x.Advice)
	}
}

func modeNote(mode string) string {
	if mode == "enforce" || mode == "" {
		return ""
	}
	return " (" + mode + ")"
}
