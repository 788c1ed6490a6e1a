package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/portmon/portmon/internal/lab"
)

// operations is the manual for whoever runs portmon. What stands in it between
// three backquotes is tested:
//
//	console        commands after "# ", typed in this order on one host which the internet can reach, and what they answer; where
//	               no answer is shown, any is right, and "..." stands for any lines
//	toml           a whole configuration file, which from there on is /etc/portmon/portmon.toml
//	sh system      commands that need a booted Debian, with the package in the working directory
//	sh locked      likewise, but they end what the others begin
//	sh source      what a system without packages needs, after make tar
//	sh rescue      what a rescue system needs
//	yaml, nothing  text
//
// A comment <!-- run: COMMAND --> is a command of testscript, or one of
// [scriptCommands], which readers do not see.
const operations = "../../docs/operations.md"

// TestOperations does what the manual says, as far as that goes without
// systemd.
func TestOperations(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	script, commands := transcript(t, string(text))
	if commands < 20 {
		t.Fatalf("only %d commands found", commands)
	}
	file := filepath.Join(t.TempDir(), "operations.txtar")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	commandsToo := maps.Clone(scriptCommands)
	commandsToo["says"] = scriptSays
	testscript.Run(t, testscript.Params{Files: []string{file}, Setup: setUpScript, Cmds: commandsToo})
}

// typedVariable names a file for a shell script that types the manual on a
// booted Debian. Tests in virtual machines run it.
const typedVariable = "PORTMON_TYPED"

// TestOperationsCanBeTyped checks that shells understand all that is to be
// typed.
func TestOperationsCanBeTyped(t *testing.T) {
	text, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	_, fromInstall, found := strings.Cut(string(text), "\n## Install\n") // what stands before is for somebody in a hurry
	if !found {
		t.Fatal("how to install it is not said")
	}
	script := "set -eux\n"
	for _, b := range blocks(fromInstall) {
		switch {
		case b.lang == "console":
			for _, line := range b.lines {
				if command, ok := strings.CutPrefix(line, "# "); ok {
					script += command + "\n"
				}
			}
		case b.lang == "toml":
			script += "cat >/etc/portmon/portmon.toml <<'END'\n" + strings.Join(b.lines, "\n") + "\nEND\n"
		case b.lang == "sh system":
			script += strings.Join(b.lines, "\n") + "\n"
		}
	}
	if file := os.Getenv(typedVariable); file != "" {
		if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, shell := range []string{"sh", "bash"} {
		cmd := exec.Command(lab.Program(t, shell), "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}

var (
	directive = regexp.MustCompile(`^<!-- run: (.*) -->$`)
	fence     = regexp.MustCompile("^```(.*)$")
)

// block is what stands between two lines of three backquotes, or a directive,
// whose lang is "run".
type block struct {
	lang  string
	line  int // its number, from 1
	lines []string
}

// blocks returns those of a manual. One without an end lasts until the end.
func blocks(text string) []block {
	var all []block
	inside := false
	for i, line := range strings.Split(text, "\n") {
		if m := fence.FindStringSubmatch(line); m != nil {
			if inside = !inside; inside {
				all = append(all, block{lang: m[1], line: i + 1})
			}
		} else if last := len(all) - 1; inside {
			all[last].lines = append(all[last].lines, line)
		} else if m := directive.FindStringSubmatch(line); m != nil {
			all = append(all, block{"run", i + 1, m[1:]})
		}
	}
	return all
}

// transcript makes a script of a manual, and tells how many commands readers
// see in it.
func transcript(t *testing.T, text string) (script string, commands int) {
	t.Helper()
	var run, files strings.Builder
	for _, b := range blocks(text) {
		fmt.Fprintf(&run, "# docs/operations.md:%d\n", b.line)
		switch b.lang {
		case "run":
			run.WriteString(b.lines[0] + "\n")
		case "toml":
			fmt.Fprintf(&run, "cp toml-%d etc/portmon/portmon.toml\nportmon config check\n", b.line)
			if slices.Contains(b.lines, "[geo]") { // these databases are not on every host
				run.WriteString("! stderr 'error|portmon\\.toml'\n")
			} else {
				run.WriteString("! stderr .\n")
			}
			fmt.Fprintf(&files, "-- toml-%d --\n%s\n", b.line, strings.Join(b.lines, "\n"))
		case "console":
			commands += b.console(t, &run, &files)
		case "sh system", "sh locked", "sh source", "sh rescue", "yaml", "":
		default:
			t.Errorf("operations.md:%d: what is to be done with %q?", b.line, b.lang)
		}
	}
	return run.String() + "-- etc/portmon/.keep --\n" + files.String(), commands
}

// console writes the commands of a block, and their answers into files.
func (b *block) console(t *testing.T, run, files *strings.Builder) (commands int) {
	t.Helper()
	for i := 0; i < len(b.lines); {
		command, ok := strings.CutPrefix(b.lines[i], "# ")
		if !ok {
			t.Fatalf("operations.md:%d: begins with an answer", b.line)
		}
		commands++
		fmt.Fprintf(run, "pipe '{ %s; } 2>&1'\n", strings.ReplaceAll(command, "'", "''"))
		begin := i + 1
		for i++; i < len(b.lines) && !strings.HasPrefix(b.lines[i], "# "); i++ {
		}
		if answer := b.lines[begin:i]; len(answer) > 0 {
			name := fmt.Sprintf("answer-%d", b.line+begin)
			fmt.Fprintf(run, "says %s\n", name)
			fmt.Fprintf(files, "-- %s --\n%s\n", name, strings.Join(answer, "\n"))
		}
	}
	return commands
}

// varying are what differs each time: dates, seconds, numbers of processes, and
// how wide a column is.
var varying = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?`), "DATE"},
	{regexp.MustCompile(`\b9m(\d+s)?\b`), "10m"},
	{regexp.MustCompile(`\b\d+s\b`), "0s"},
	{regexp.MustCompile(`pid \d+`), "pid N"},
	{regexp.MustCompile(`  +`), "  "},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// steady replaces what differs each time.
func steady(s string) string {
	for _, v := range varying {
		s = v.what.ReplaceAllString(s, v.by)
	}
	return s
}

// scriptSays compares what the last command has written with a file.
func scriptSays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: says FILE")
	}
	got, want := steady(ts.ReadFile("stdout")), steady(ts.ReadFile(args[0]))
	pattern := strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`+"\n", `(?:.*\n)*?`)
	if !regexp.MustCompile(`\A` + pattern + `\z`).MatchString(got) {
		ts.Fatalf("the manual says\n%s\nbut it is\n%s", want, got)
	}
}

// TestLinksOfManuals looks for what the pages for people point at.
func TestLinksOfManuals(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 3 {
		t.Fatalf("%v, %v", pages, err)
	}
	links := 0
	for _, page := range append(pages, "../../README.md", "../../packaging/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if anchor != "" && !slices.Contains(anchors(t, path), anchor) {
				t.Errorf("%s: %s has no heading %s", page, path, anchor)
			}
		}
	}
	if links < 10 {
		t.Errorf("only %d links found", links)
	}
}

var (
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	headline = regexp.MustCompile(`(?m)^#+ (.*)$`)
	unnamed  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestManualsNameTestsThatExist looks for the tests that the pages for people
// name as what shows a promise.
func TestManualsNameTestsThatExist(t *testing.T) {
	exists := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			exists[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 3 {
		t.Fatalf("%v, %v", pages, err)
	}
	named := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range testName.FindAllString(string(text), -1) {
			if named++; !exists[name] {
				t.Errorf("%s: there is no test %s", page, name)
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d tests are named", named)
	}
}

var (
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	testName = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

// anchors returns the names by which links find the headings of a page.
func anchors(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range headline.FindAllStringSubmatch(string(text), -1) {
		names = append(names, strings.ReplaceAll(unnamed.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return names
}
