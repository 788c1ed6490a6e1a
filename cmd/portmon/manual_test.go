package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/notice"
)

var indentation = regexp.MustCompile(`(?m)^ +`)

// rendered returns a page of the manual as it is read, in lines of any length,
// but without indentation, of which each groff has its own. A warning fails the
// test.
func rendered(t *testing.T, page []byte) string {
	t.Helper()
	cmd := exec.Command(lab.Program(t, "groff"), "-man", "-Tascii", "-ww", "-rLL=1000n", "-P-cbou")
	cmd.Stdin = bytes.NewReader(page)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Errorf("groff: %v\n%s", err, &stderr)
	}
	return indentation.ReplaceAllString(stdout.String(), "")
}

// manuals is where packages take the pages of the manual from.
const manuals = "../../packaging/man/"

var update = flag.Bool("update", false, "write the manual pages anew")

// TestManualIsCurrent compares the pages with what the program, the reference
// configuration, the notices and the metrics say.
func TestManualIsCurrent(t *testing.T) {
	e, _, _ := testEnv()
	for name, want := range map[string]string{
		"portmon.8": commandPage(t, (&cli{env: e, ui: newUI(e)}).root()), "portmon.toml.5": configPage(),
	} {
		if *update {
			if err := os.WriteFile(manuals+name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := page(t, name); string(got) != want {
			t.Errorf("%s is out of date: go test ./cmd/portmon -run TestManualIsCurrent -update", name)
		}
	}
}

func page(t *testing.T, name string) []byte {
	t.Helper()
	page, err := os.ReadFile(manuals + name)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestManualOfCommands(t *testing.T) {
	text := rendered(t, page(t, "portmon.8"))
	want := []string{"NAME\nportmon - ban hosts", "--config FILE", "-h, --help", config.DefaultPath}
	for _, cmd := range allCommands() {
		if cmd.Hidden || cmd.Name() == "help" || !cmd.HasParent() {
			continue
		}
		if !cmd.HasAvailableSubCommands() {
			want = append(want, "\n"+cmd.UseLine()+"\n")
			for line := range strings.Lines(cmd.Example) {
				want = append(want, strings.TrimSpace(line))
			}
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			short := ""
			if f.Shorthand != "" {
				short = "-" + f.Shorthand + ", "
			}
			want = append(want, "\n"+short+"--"+f.Name)
		})
	}
	for _, v := range notice.Variables() {
		want = append(want, "\n"+v.Name+"\n")
	}
	for _, m := range daemon.Metrics() {
		want = append(want, "\n"+m.Name+"\n")
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("there is no %q in\n%s", w, text)
		}
	}
}

func TestManualOfConfig(t *testing.T) {
	text := rendered(t, page(t, "portmon.toml.5"))
	n := 0
	for line := range strings.Lines(string(config.Reference)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		// Every line of the reference is there: comments as text, keys and
		// sections as headings.
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if !strings.Contains(blanks.ReplaceAllString(text, " "), blanks.ReplaceAllString(line, " ")) {
			t.Errorf("there is no %q in\n%s", line, text)
		}
		n++
	}
	if n < 80 {
		t.Errorf("the reference has %d lines: what was compared?", n)
	}
}

var blanks = regexp.MustCompile(`\s+`)

// commandPage makes the page about the program from testdata/portmon.8.in, which
// has only what the program does not know about itself. The rest is filled in,
// so that no command, flag, variable or metric is missing.
func commandPage(t *testing.T, root *cobra.Command) string {
	t.Helper()
	page, err := os.ReadFile("testdata/portmon.8.in")
	if err != nil {
		t.Fatal(err)
	}
	var synopsis []string
	var commands, variables, metrics strings.Builder
	eachLeaf(root, func(cmd *cobra.Command) {
		line := roff(cmd.UseLine(), "")
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
		"@SHORT@", roff(root.Short, ""), "@SYNOPSIS@", strings.Join(synopsis, "\n"),
		"@LONG@", roff(root.Long, ".PP"), "@COMMANDS@", commands.String(), "@OPTIONS@", flagItems(root.PersistentFlags()),
		"@CONFIG@", roff(config.DefaultPath, ""), "@STATE@", roff(config.Default().Watch.State, ""),
		"@VARIABLES@", variables.String(), "@METRICS@", metrics.String(),
	).Replace(string(page))
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
		switch {
		case value != "" && f.NoOptDefVal != "":
			value = "[=" + value + "]"
		case value != "":
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
func configPage() string {
	page := `.TH PORTMON.TOML 5 "" "portmon" "File Formats"
.ad l
.nr HY 0
.nh
.SH NAME
portmon.toml \- the configuration of portmon
.SH DESCRIPTION
`
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
