package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/text"
)

// run executes the command that the arguments name and returns the exit code.
func run(e env, args []string) int {
	p := &cli{env: e, ui: newUI(e)}
	root := p.root()
	root.SetArgs(args)
	root.SetOut(p.out)
	root.SetErr(e.stderr)
	return p.finish(root.Execute())
}

// root returns the root command with all others. Those named by a noun or a
// question (list, why, status, version) change nothing.
func (p *cli) root() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "portmon",
		Short: "ban hosts that touch a trap port or scan for open ones",
		Long: `Portmon installs one nftables table, "inet portmon". A packet to a trap port,
which no legitimate client uses, bans its source, and so do packets to several
closed ports. Later packets from a banned source are dropped, and repeat
offenders are banned for longer. The kernel does all of this; no program has to
run.`,
		Example: `  # see what would be installed on this host, and then do it
  portmon apply --dry-run
  portmon apply
  portmon status`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return p.version(false)
			}
			return noCommand(cmd)
		},
	}
	root.Flags().BoolVar(&version, "version", false, "print the version and exit")
	root.PersistentFlags().BoolP("help", "h", false, "explain the command and exit")
	root.PersistentFlags().StringVar(&p.configFile, "config", "",
		"read the configuration from `FILE` (default /etc/portmon/portmon.toml)")
	p.ui.config = &p.configFile
	cobra.CheckErr(root.MarkPersistentFlagFilename("config", "toml"))
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		applyCommand(p), listCommand(p), whyCommand(p), statusCommand(p), banCommand(p), unbanCommand(p),
		watchCommand(p), saveCommand(p), removeCommand(p),
		configCommand(p), versionCommand(p), completionCommand(p), manualCommand(p),
	)
	p.addHelp(root)
	return root
}

// noCommand is the error of a command that only has subcommands, without one.
func noCommand(cmd *cobra.Command) error {
	return usage(cmd, "missing command: %s", text.Enumerate(names(cmd), "or"))
}

// names returns the names of the commands that a command has.
func names(cmd *cobra.Command) []string {
	var all []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, c.Name())
		}
	}
	return all
}

// unknownCommand rejects the arguments of a command that only has subcommands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := &usageError{fmt.Errorf("unknown command %q", args[0]), "see " + cmd.CommandPath() + " --help"}
	if near := suggest(args[0], names(cmd)); len(near) > 0 {
		for i := range near {
			near[i] = cmd.CommandPath() + " " + near[i]
		}
		err.hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return err
}

// flagError adds to an error of pflag which flag may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	wrong := &usageError{err, "see " + cmd.CommandPath() + " --help"}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && invalid.GetFlag().Name == "port" {
		wrong.err = fmt.Errorf("--port: %q is not a port (1 to 65535)", invalid.GetValue())
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return wrong
	}
	wrong.err = fmt.Errorf("unknown flag --%s", unknown.GetSpecifiedName())
	var flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	if near := suggest(unknown.GetSpecifiedName(), flags); len(near) > 0 {
		wrong.hint = "did you mean --" + strings.Join(near, " or --") + "?"
	}
	return wrong
}

// suggest returns the words that s may have been meant for.
func suggest(s string, words []string) []string {
	var near []string
	for _, w := range words {
		if text.Distance(s, w) <= 2 || strings.HasPrefix(w, strings.ToLower(s)) {
			near = append(near, w)
		}
	}
	return near
}
