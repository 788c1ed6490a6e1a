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
// Whatever is wrong before the command starts is wrong with the arguments.
func run(e env, args []string) int {
	p := &cli{env: e, ui: newUI(e)}
	root := p.root()
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err != nil && !started && !errors.As(err, new(*usageError)) {
		err = usage(cmd, "%w", ofFlag(err))
	}
	return p.finish(err)
}

// ofFlag says in our words what is wrong with the value of a flag: the package
// that reads them has those of Go's functions.
func ofFlag(err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return err
	}
	want := "true or false"
	switch value.GetFlag().Value.Type() {
	case "int":
		want = "a whole number"
	case "bool":
	default:
		return err
	}
	return fmt.Errorf("--%s: %q is not %s", value.GetFlag().Name, value.GetValue(), want)
}

// root returns the root command with all others. Those named by a noun or a
// question (list, why, status, version) change nothing.
func (p *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "portmon",
		Version: version(),
		Short:   "ban hosts that touch a trap port or scan for open ones",
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
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true}, // it is for packages
		Args:              unknownCommand,
		RunE:              noCommand,
	}
	root.SetOut(p.out)
	root.SetErr(p.stderr)
	root.SetVersionTemplate(versionLine())
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.PersistentFlags().StringVar(&p.configFile, "config", "",
		"read the configuration from `FILE` (default /etc/portmon/portmon.toml)")
	p.ui.config = &p.configFile
	cobra.CheckErr(root.MarkPersistentFlagFilename("config", "toml"))
	root.AddCommand(
		applyCommand(p), confirmCommand(p), keeperCommand(p), listCommand(p), whyCommand(p), statusCommand(p), eventsCommand(p), topCommand(p),
		banCommand(p), unbanCommand(p), allowCommand(p), disallowCommand(p),
		watchCommand(p), fleetCommand(p), saveCommand(p), removeCommand(p), testCommand(p), replayCommand(p),
		reportCommand(p), configCommand(p), versionCommand(p),
	)
	root.InitDefaultCompletionCmd()
	completion, _, err := root.Find([]string{"completion"})
	cobra.CheckErr(err)
	completion.Args, completion.RunE = unknownCommand, noCommand
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	cobra.CheckErr(err)
	help.Short, help.Example = "explain a command", "  portmon help ban"
	help.Long = "Help explains a command and its flags, as --help does."
	help.Args = func(_ *cobra.Command, args []string) error {
		about, rest, err := root.Find(args)
		return errors.Join(err, unknownCommand(about, rest))
	}
	return root
}

// noCommand is what a command does that only has subcommands.
func noCommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usage(cmd, "missing command: %s", text.Enumerate(names, "or"))
}

// unknownCommand rejects the arguments of a command that only has subcommands.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		path := cmd.CommandPath() + " "
		return &usageError{hinted{err, "did you mean " + path + strings.Join(near, " or "+path) + "?"}}
	}
	return err
}
