// Package manual writes pages of the manual from what programs know about
// themselves, so that no command, flag or key is missing. Tests compare these
// with the pages that packages have.
package manual

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portmon/portmon/internal/lab"
)

var indentation = regexp.MustCompile(`(?m)^ +`)

// Rendered returns a page of the manual as it is read, in lines of any length,
// but without indentation, of which each groff has its own. A warning fails the
// test.
func Rendered(t *testing.T, page []byte) string {
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

// Commands returns the synopsis of each command that does something, and what
// the help says of it.
func Commands(root *cobra.Command) (synopsis, commands string) {
	var lines []string
	var b strings.Builder
	eachLeaf(root, func(cmd *cobra.Command) {
		line := Roff(cmd.UseLine(), "")
		lines = append(lines, line)
		fmt.Fprintf(&b, ".SS \"%s\"\n%s\n%s.PP\n%s\n",
			line, Roff(cmd.Long, ".PP"), FlagItems(cmd.LocalNonPersistentFlags()), Roff(cmd.Example, ".PP"))
	})
	return strings.Join(lines, "\n"), b.String()
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

// FlagItems writes an item for each flag.
func FlagItems(flags *pflag.FlagSet) string {
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
		items.WriteString(Item(term, value, about))
	})
	return items.String()
}

// Item writes an item of a list, with a term of which a part is bold.
func Item(bold, rest, about string) string {
	return fmt.Sprintf(".TP\n\\fB%s\\fR%s\n%s\n", Roff(bold, ""), Roff(rest, ""), Roff(about, ".IP"))
}

// Keys writes what a reference configuration says about each key. It has
// paragraphs of comments, followed by a section or a key if they are about one.
func Keys(reference string) (page string) {
	for i, paragraph := range strings.Split(reference, "\n\n") {
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
			page += ".PP\n" + Roff(about, ".PP") + "\n"
		case strings.HasPrefix(name, "["):
			page += ".SS " + name + "\n" + Roff(about, ".PP") + "\n"
		default:
			key, value, _ := strings.Cut(name, " ")
			page += Item(key, " "+value, about)
		}
	}
	return page
}

// escapes keep text from being taken for requests, or for typographic quotes
// and dashes.
var escapes = strings.NewReplacer(
	`\`, `\e`, `-`, `\-`, "`", "\\`", `'`, `\(aq`, `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`, "\n.", "\n\\&.",
)

// Roff writes text in the language of man(7). Empty lines divide paragraphs,
// each of which a macro begins; lines that begin with two blanks are shown as
// they are.
func Roff(s, paragraph string) string {
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
