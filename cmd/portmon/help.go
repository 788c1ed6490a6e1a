package main

import (
	"github.com/spf13/cobra"
)

// helpColumns is the width that the help texts are written for.
const helpColumns = 80

// help prints the help of a command. The example comes last, next to the
// prompt. Cobra's templates would keep text/template in the binary: 2.4 MB.
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
	if own := cmd.LocalNonPersistentFlags(); own.HasAvailableFlags() {
		p.print("\n%s\n%s", heading(&p.ui, "Flags:"), own.FlagUsagesWrapped(helpColumns))
	}
	p.print("\n%s\n%s", heading(&p.ui, "Global flags:"), cmd.Root().PersistentFlags().FlagUsagesWrapped(helpColumns))
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

// addHelp gives root cobra's help command, with our words, and errors for what
// is not a command.
func (p *cli) addHelp(root *cobra.Command) {
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { p.help(cmd) })
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	cobra.CheckErr(err)
	help.Use, help.Short, help.Example = "help [COMMAND]", "explain a command", "  portmon help ban"
	help.Long = `Help explains a command and its flags, like the flag --help. Without a command
it lists all commands.`
	help.Args = func(cmd *cobra.Command, args []string) error {
		if about, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
			return unknownCommand(about, rest)
		}
		return nil
	}
}
