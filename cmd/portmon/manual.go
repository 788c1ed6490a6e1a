package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/manual"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/text"
)

// manualCommand is for packagers, who call it when they build.
func manualCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:    "manual portmon.8|portmon.toml.5",
		Short:  "write a manual page",
		Hidden: true,
		Long: `Manual writes a page of the manual in the language of man(7): portmon.8 or
portmon.toml.5.`,
		Example:   `  portmon manual portmon.8 > portmon.8`,
		ValidArgs: []string{"portmon.8", "portmon.toml.5"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch strings.Join(args, " ") {
			case "portmon.8":
				p.print("%s", manualOfCommands(cmd.Root()))
			case "portmon.toml.5":
				p.print("%s", manualOfConfig())
			default:
				return usage(cmd, "expected the name of a page: %s", text.Enumerate(cmd.ValidArgs, "or"))
			}
			return nil
		},
	}
}

func manualOfCommands(root *cobra.Command) []byte {
	m := manual.NewPage("portmon", "8", version(), "System Administration")
	m.Section("NAME")
	m.Text("portmon - "+root.Short, false)
	m.Section("SYNOPSIS")
	var synopsis []string
	each(root, func(cmd *cobra.Command) { synopsis = append(synopsis, usageLine(cmd)) })
	m.Example(strings.Join(synopsis, "\n"))
	m.Section("DESCRIPTION")
	m.Text(root.Long, false)
	m.Section("COMMANDS")
	each(root, func(cmd *cobra.Command) {
		m.Subsection(usageLine(cmd))
		m.Text(cmd.Long, false)
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { flagItem(m, f) })
		m.Example(cmd.Example)
	})
	m.Section("OPTIONS")
	m.Text("These are for all commands.", false)
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { flagItem(m, f) })
	m.Section("EXIT STATUS")
	for _, code := range []struct {
		n    int
		what string
	}{
		{exitDone, "Done."},
		{exitFailed, "Something failed; standard error says what."},
		{exitUsage, "Wrong usage, or a wrong configuration."},
		{exitNotInForce, "There is no table, or it is not what the configuration says."},
	} {
		m.Item(fmt.Sprint(code.n), "")
		m.Text(code.what, true)
	}
	m.Section("ENVIRONMENT")
	for _, v := range [][2]string{
		{"NO_COLOR", "If set, there are no colours. There are none either unless output goes to a terminal."},
		{"SSH_CONNECTION", "The peer not to lock out: apply warns if it is not whitelisted, and ban refuses it without --force."},
		{"NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd for watch, which then reports when it is ready and that it is alive."},
	} {
		m.Item(v[0], "")
		m.Text(v[1], true)
	}
	m.Section("FILES")
	for _, f := range [][2]string{
		{config.DefaultPath, "The configuration, see portmon.toml(5). Without it the built-in default holds."},
		{config.Default().Watch.State, "Bans and offences that are remembered. Its directory also has watch.sock, by which commands talk to a running watcher."},
	} {
		m.Item(f[0], "")
		m.Text(f[1], true)
	}
	m.Section("NOTICES")
	m.Text("If command in [watch] names a program, portmon watch runs it for each notice with these variables. Those that do not apply are not set.", false)
	for _, v := range notice.Variables() {
		m.Item(v.Name, "")
		m.Text(v.Meaning, true)
	}
	m.Section("METRICS")
	m.Text("At /metrics, if metrics in [watch] names an address:", false)
	for _, d := range daemon.Metrics() {
		m.Item(d.Name, "")
		m.Text(d.Help, true)
	}
	m.Section("SEE ALSO")
	m.Text("portmon.toml(5), nft(8)", false)
	return m.Bytes()
}

// each calls f for all commands that do something, in the order of the help.
func each(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		switch {
		case !c.IsAvailableCommand() || c.Name() == "help":
		case c.HasAvailableSubCommands():
			each(c, f)
		default:
			f(c)
		}
	}
}

func flagItem(m *manual.Page, f *pflag.Flag) {
	term := "--" + f.Name
	if f.Shorthand != "" {
		term = "-" + f.Shorthand + ", " + term
	}
	name, text := pflag.UnquoteUsage(f)
	if name != "" {
		name = " " + name
	}
	m.Item(term, name)
	if f.DefValue != "" && f.Value.Type() == "string" {
		text += fmt.Sprintf(" (default %q)", f.DefValue)
	}
	m.Text(text, true)
}

func manualOfConfig() []byte {
	m := manual.NewPage("portmon.toml", "5", version(), "File Formats")
	m.Section("NAME")
	m.Text("portmon.toml - the configuration of portmon", false)
	m.Section("DESCRIPTION")
	m.Config(string(config.Reference))
	m.Section("FILES")
	m.Text(config.DefaultPath, false)
	m.Section("SEE ALSO")
	m.Text("portmon(8)", false)
	return m.Bytes()
}
