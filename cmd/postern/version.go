package main

import (
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the build (make build); a plain 'go build' or 'go run' says what the toolchain knows.
var version = ""

// buildInfo is what 'postern version' tells.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := build()
			return show(cmd, info, func(w io.Writer) {
				row(w, "postern", info.Version)
				row(w, "revision", dash(info.Revision))
				row(w, "go", info.Go)
				row(w, "platform", info.Platform)
			})
		},
	}
	addOutput(cmd)
	return cmd
}

func build() buildInfo {
	info := buildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	read, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	if info.Version == "" {
		info.Version = read.Main.Version
	}
	for _, s := range read.Settings {
		if s.Key == "vcs.revision" {
			info.Revision = s.Value
		}
	}
	return info
}
