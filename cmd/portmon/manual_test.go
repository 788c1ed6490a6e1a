package main

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/lab/manual"
	"github.com/portmon/portmon/internal/notice"
)

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
	text := manual.Rendered(t, page(t, "portmon.8"))
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
	text := manual.Rendered(t, page(t, "portmon.toml.5"))
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
	var variables, metrics strings.Builder
	synopsis, commands := manual.Commands(root)
	for _, v := range notice.Variables() {
		variables.WriteString(manual.Item(v.Name, "", v.Meaning))
	}
	for _, m := range daemon.Metrics() {
		metrics.WriteString(manual.Item(m.Name, "", m.Help))
	}
	return strings.NewReplacer(
		"@SHORT@", manual.Roff(root.Short, ""), "@SYNOPSIS@", synopsis,
		"@LONG@", manual.Roff(root.Long, ".PP"), "@COMMANDS@", commands, "@OPTIONS@", manual.FlagItems(root.PersistentFlags()),
		"@CONFIG@", manual.Roff(config.DefaultPath, ""), "@STATE@", manual.Roff(config.Default().Watch.State, ""),
		"@VARIABLES@", variables.String(), "@METRICS@", metrics.String(),
	).Replace(string(page))
}

// configPage writes what the reference configuration says about each key.
func configPage() string {
	return `.TH PORTMON.TOML 5 "" "portmon" "File Formats"
.ad l
.nr HY 0
.nh
.SH NAME
portmon.toml \- the configuration of portmon
.SH DESCRIPTION
` + manual.Keys(string(config.Reference)) + ".SH FILES\n" + manual.Roff(config.DefaultPath, "") + "\n.SH SEE ALSO\n.BR portmon (8)\n"
}
