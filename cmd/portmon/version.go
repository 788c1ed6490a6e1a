package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version overrides the version in the build information. Release builds set it
// with -ldflags "-X main.Version=v1.2.3".
var Version string

func versionCommand(p *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Long:    `Version prints the version of portmon and of the Go that built it.`,
		Example: `  portmon version`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  int    `json:"version"`
				Portmon  string `json:"portmon"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{1, version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				return p.json(v)
			}
			p.print("portmon %s (%s, %s)\n", v.Portmon, v.Platform, v.Go)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// version returns Version, or else the version of the module.
func version() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
