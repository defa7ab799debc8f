package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "development"

func newVersion(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "version",
		Short: "Say which Postern this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			goVersion := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = info.GoVersion
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), map[string]string{"version": version, "go": goVersion})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "postern %s (%s)\n", version, goVersion)
			return err
		},
	})
}
