package main

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/text"
)

// manualCommand is for packagers, who run it when they build.
func manualCommand(p *cli) *cobra.Command {
	pages := map[string]func(io.Writer, *cobra.Command) error{"portmon.8": writeCommandPage, "portmon.toml.5": writeConfigPage}
	return &cobra.Command{
		Use:    "manual portmon.8|portmon.toml.5",
		Short:  "write a manual page",
		Hidden: true,
		Long: `Manual writes a page of the manual in the language of man(7): portmon.8 or
portmon.toml.5.`,
		Example:   `  portmon manual portmon.8 > portmon.8`,
		ValidArgs: []string{"portmon.8", "portmon.toml.5"},
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := pages[strings.Join(args, " ")]
			if !ok {
				return usage(cmd, "expected the name of a page: %s", text.Enumerate(cmd.ValidArgs, "or"))
			}
			return write(p.out, cmd.Root())
		},
	}
}

// The page has in its own words only what the program does not know about
// itself, so that no command, flag, variable or metric can be missing.
//
//go:embed portmon.8.tmpl
var commandPage string

func writeCommandPage(w io.Writer, root *cobra.Command) error {
	var commands []*cobra.Command
	eachLeaf(root, func(cmd *cobra.Command) { commands = append(commands, cmd) })
	page := template.New("portmon.8").Funcs(template.FuncMap{
		"text":       func(s string) string { return roff(s, ".PP") },
		"item":       func(s string) string { return roff(s, ".IP") },
		"usage":      usageLine,
		"flags":      flagItems,
		"commands":   func() []*cobra.Command { return commands },
		"variables":  notice.Variables,
		"metrics":    daemon.Metrics,
		"version":    version,
		"configFile": func() string { return config.DefaultPath },
		"stateFile":  func() string { return config.Default().Watch.State },
	})
	return template.Must(page.Parse(commandPage)).Execute(w, root)
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

// flagItem is a flag in a manual page: "-h, --help" or "--for", " DURATION".
type flagItem struct{ Term, Value, Usage string }

func flagItems(flags *pflag.FlagSet) []flagItem {
	var items []flagItem
	flags.VisitAll(func(f *pflag.Flag) {
		item := flagItem{Term: "--" + f.Name}
		if f.Shorthand != "" {
			item.Term = "-" + f.Shorthand + ", " + item.Term
		}
		if item.Value, item.Usage = pflag.UnquoteUsage(f); item.Value != "" {
			item.Value = " " + item.Value
		}
		if f.Value.Type() == "string" && f.DefValue != "" {
			item.Usage += fmt.Sprintf(" (default %q)", f.DefValue)
		}
		items = append(items, item)
	})
	return items
}

// writeConfigPage writes what the reference configuration says about each key.
// It has paragraphs of comments, followed by a section or a key if they are
// about one.
func writeConfigPage(w io.Writer, _ *cobra.Command) error {
	page := fmt.Sprintf(`.TH PORTMON.TOML 5 "" "portmon %s" "File Formats"
.ad l
.nr HY 0
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
			page += ".TP\n\\fB" + roff(key, "") + "\\fR " + roff(value, "") + "\n" + roff(about, ".IP") + "\n"
		}
	}
	_, err := io.WriteString(w, page+".SH FILES\n"+roff(config.DefaultPath, "")+"\n.SH SEE ALSO\n.BR portmon (8)\n")
	return err
}

// escapes keep text from being taken for requests, or for typographic quotes
// and dashes.
var escapes = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "`", "\\`", `'`, `\(aq`, `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`, "\n.", "\n\\&.")

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
