package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/text"
)

// manualCommand is for packagers, who run it when they build.
func manualCommand(p *cli) *cobra.Command {
	pages := map[string]func(*cobra.Command) string{"portmon.8": commandPage, "portmon.toml.5": configPage}
	return &cobra.Command{
		Use:    "manual portmon.8|portmon.toml.5",
		Short:  "write a manual page",
		Hidden: true,
		Long: `Manual writes a page of the manual in the language of man(7): portmon.8 or
portmon.toml.5.`,
		Example:   `  portmon manual portmon.8 > portmon.8`,
		ValidArgs: []string{"portmon.8", "portmon.toml.5"},
		RunE: func(cmd *cobra.Command, args []string) error {
			page, ok := pages[strings.Join(args, " ")]
			if !ok {
				return usage(cmd, "expected the name of a page: %s", text.Enumerate(cmd.ValidArgs, "or"))
			}
			p.print("%s", page(cmd.Root()))
			return nil
		},
	}
}

// commandPageText has only what the program does not know about itself. The
// rest is filled in, so that no command, flag, variable or metric is missing.
//
//go:embed portmon.8.in
var commandPageText string

func commandPage(root *cobra.Command) string {
	var synopsis []string
	var commands, variables, metrics strings.Builder
	eachLeaf(root, func(cmd *cobra.Command) {
		line := roff(usageLine(cmd), "")
		synopsis = append(synopsis, line)
		fmt.Fprintf(&commands, ".SS \"%s\"\n%s\n%s.PP\n%s\n",
			line, roff(cmd.Long, ".PP"), flagItems(cmd.LocalNonPersistentFlags()), roff(cmd.Example, ".PP"))
	})
	for _, v := range notice.Variables() {
		variables.WriteString(item(v.Name, "", v.Meaning))
	}
	for _, m := range daemon.Metrics() {
		metrics.WriteString(item(m.Name, "", m.Help))
	}
	return strings.NewReplacer(
		"@VERSION@", roff(version(), ""), "@SHORT@", roff(root.Short, ""), "@SYNOPSIS@", strings.Join(synopsis, "\n"),
		"@LONG@", roff(root.Long, ".PP"), "@COMMANDS@", commands.String(), "@OPTIONS@", flagItems(root.PersistentFlags()),
		"@CONFIG@", roff(config.DefaultPath, ""), "@STATE@", roff(config.Default().Watch.State, ""),
		"@VARIABLES@", variables.String(), "@METRICS@", metrics.String(),
	).Replace(commandPageText)
}

// eachLeaf calls f for each command that does something, in the order of the
// help.
func eachLeaf(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		switch {
		case !c.IsAvailableCommand() || c.Name() == "help":
		case c.HasAvailableSubCommands():
			eachLeaf(c, f)
		default:
			f(c)
		}
	}
}

func flagItems(flags *pflag.FlagSet) string {
	var items strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		term := "--" + f.Name
		if f.Shorthand != "" {
			term = "-" + f.Shorthand + ", " + term
		}
		value, about := pflag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		if f.Value.Type() == "string" && f.DefValue != "" {
			about += fmt.Sprintf(" (default %q)", f.DefValue)
		}
		items.WriteString(item(term, value, about))
	})
	return items.String()
}

// item writes an item of a list, with a term of which a part is bold.
func item(bold, rest, about string) string {
	return fmt.Sprintf(".TP\n\\fB%s\\fR%s\n%s\n", roff(bold, ""), roff(rest, ""), roff(about, ".IP"))
}

// configPage writes what the reference configuration says about each key.
// It has paragraphs of comments, followed by a section or a key if they are
// about one.
func configPage(*cobra.Command) string {
	page := fmt.Sprintf(`.TH PORTMON.TOML 5 "" "portmon %s" "File Formats"
.ad l
.nr HY 0
.nh
.SH NAME
portmon.toml \- the configuration of portmon
.SH DESCRIPTION
`, roff(version(), ""))
	for i, paragraph := range strings.Split(string(config.Reference), "\n\n") {
		var comment, setting []string
		for line := range strings.SplitSeq(strings.TrimSpace(paragraph), "\n") {
			if about, ok := strings.CutPrefix(line, "#"); ok {
				comment = append(comment, strings.TrimPrefix(about, " "))
			} else {
				setting = append(setting, strings.TrimSpace(line))
			}
		}
		about := strings.Join(comment, "\n")
		if i == 1 { // the first is about the whole file
			page += ".SH KEYS\n"
		}
		switch name := strings.Join(setting, " "); {
		case name == "":
			page += ".PP\n" + roff(about, ".PP") + "\n"
		case strings.HasPrefix(name, "["):
			page += ".SS " + name + "\n" + roff(about, ".PP") + "\n"
		default:
			key, value, _ := strings.Cut(name, " ")
			page += item(key, " "+value, about)
		}
	}
	return page + ".SH FILES\n" + roff(config.DefaultPath, "") + "\n.SH SEE ALSO\n.BR portmon (8)\n"
}

// escapes keep text from being taken for requests, or for typographic quotes
// and dashes.
var escapes = strings.NewReplacer(
	`\`, `\e`, `-`, `\-`, "`", "\\`", `'`, `\(aq`, `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`, "\n.", "\n\\&.",
)

// roff writes text in the language of man(7). Empty lines divide paragraphs,
// each of which a macro begins; lines that begin with two blanks are shown as
// they are.
func roff(s, paragraph string) string {
	if s == "" {
		return ""
	}
	var lines []string
	literal := false
	s = strings.TrimPrefix(escapes.Replace("\n"+strings.Trim(s, "\n")), "\n")
	for line := range strings.SplitSeq(s, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != literal && line != "" {
			if literal = indented; literal {
				lines = append(lines, ".EX")
			} else {
				lines = append(lines, ".EE", paragraph)
			}
		}
		if line == "" && !literal {
			line = paragraph
		}
		lines = append(lines, line)
	}
	if literal {
		lines = append(lines, ".EE")
	}
	return strings.Join(lines, "\n")
}
