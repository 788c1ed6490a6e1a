package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version overrides the version in the build information. Release builds set it
// with -ldflags "-X main.Version=v1.2.3".
var Version string

func versionCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Long:    `Version prints the version of portmon and of the Go that built it.`,
		Example: `  portmon version`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			p.print("%s", versionLine())
			return nil
		},
	}
}

func versionLine() string {
	return fmt.Sprintf("portmon %s (%s/%s, %s)\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
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
