package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpColumns is the width of the help, whatever that of the terminal is: the
// texts are written for it.
const helpColumns = 80

// help writes what a command does. The example comes last, where the eye rests.
func (p *cli) help(cmd *cobra.Command) {
	p.print("%s\n\n%s\n", heading(&p.ui, "Usage: "+usageLine(cmd)), cmd.Long)
	if cmd.HasAvailableSubCommands() {
		p.print("\n%s\n", heading(&p.ui, "Commands:"))
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				p.print("  %-12s%s\n", c.Name(), c.Short)
			}
		}
	}
	p.print("\n%s\n%s", heading(&p.ui, "Flags:"), flagUsages(cmd))
	p.print("\n%s\n%s\n", heading(&p.ui, "Example:"), cmd.Example)
}

func heading(u *ui, s string) string { return paint(u.outColour, s, bold) }

func usageLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " COMMAND"
	}
	if cmd.HasParent() {
		return cmd.Parent().CommandPath() + " " + cmd.Use
	}
	return cmd.Use
}

// flagUsages lists the flags, the command's own before those that all commands
// have.
func flagUsages(cmd *cobra.Command) string {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.SortFlags = false
	for _, flags := range []*pflag.FlagSet{cmd.LocalNonPersistentFlags(), cmd.Root().PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if all.Lookup(f.Name) == nil {
				all.AddFlag(f)
			}
		})
	}
	return all.FlagUsagesWrapped(helpColumns)
}

func helpCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "explain a command",
		Long: `Help explains a command and its flags, as the flag --help does. Without a
command it lists them all.`,
		Example: `  portmon help ban`,
		Args: func(cmd *cobra.Command, args []string) error {
			at := cmd.Root()
			for _, arg := range args {
				sub, rest, err := at.Find([]string{arg})
				if err != nil || sub == at || len(rest) > 0 {
					return unknownCommand(at, []string{arg})
				}
				at = sub
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			about, _, err := cmd.Root().Find(args)
			if err != nil {
				return fmt.Errorf("help %s: %w", strings.Join(args, " "), err)
			}
			p.help(about)
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			about, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return names(about), cobra.ShellCompDirectiveNoFileComp
		},
	}
}
