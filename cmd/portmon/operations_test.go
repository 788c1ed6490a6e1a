package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// operations is the manual for whoever runs portmon. What stands in it between three backquotes is tested:
//
//	console        commands after "# ", typed in this order on one host which the internet can reach, and what they answer; where
//	               no answer is shown, any is right, and "..." stands for any lines
//	toml           a whole configuration file, which from there on is /etc/portmon/portmon.toml
//	sh system      commands that need a booted Debian with the package: `sed -n '/^```sh system/,/^```/{/^```/d;p}'` prints them
//	anything else  text
//
// A comment <!-- run: COMMAND --> is a command of testscript, or one of [scriptCommands], which readers do not see.
const operations = "../../docs/operations.md"

// TestOperations does what the manual says, as far as that goes without systemd.
func TestOperations(t *testing.T) {
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

var (
	directive = regexp.MustCompile(`^<!-- run: (.*) -->$`)
	fence     = regexp.MustCompile("^```(.*)$")
)

// transcript makes a script of a manual, and tells how many commands readers see in it.
func transcript(t *testing.T, text string) (script string, commands int) {
	t.Helper()
	var run, files strings.Builder
	command, answer := "", []string(nil)
	lang, begin := "", 0
	flush := func() {
		if command == "" {
			return
		}
		commands++
		fmt.Fprintf(&run, "pipe '{ %s; } 2>&1'\n", strings.ReplaceAll(command, "'", "''"))
		if len(answer) > 0 {
			fmt.Fprintf(&run, "says answer-%d\n", commands)
			fmt.Fprintf(&files, "-- answer-%d --\n%s\n", commands, strings.Join(answer, "\n"))
		}
		command, answer = "", nil
	}
	for i, line := range strings.Split(text, "\n") {
		number := i + 1
		if m := fence.FindStringSubmatch(line); m != nil {
			flush()
			if begin > 0 {
				if lang == "toml" {
					fmt.Fprintf(&run, "cp toml-%d etc/portmon/portmon.toml\nportmon config check\n! stderr .\n", begin)
				}
				lang, begin = "", 0
				continue
			}
			lang, begin = m[1], number
			switch lang {
			case "console":
				fmt.Fprintf(&run, "# docs/operations.md:%d\n", number)
			case "toml":
				fmt.Fprintf(&run, "# docs/operations.md:%d\n", number)
				fmt.Fprintf(&files, "-- toml-%d --\n", number)
			case "sh system", "sh locked", "sh source", "sh rescue", "yaml", "":
			default:
				t.Errorf("operations.md:%d: what is to be done with %q?", number, lang)
			}
			continue
		}
		switch {
		case lang == "console" && strings.HasPrefix(line, "# "):
			flush()
			command = line[len("# "):]
		case lang == "console" && command == "":
			t.Errorf("operations.md:%d: an answer to no command: %s", number, line)
		case lang == "console":
			answer = append(answer, line)
		case lang == "toml":
			files.WriteString(line + "\n")
		case begin == 0:
			if m := directive.FindStringSubmatch(line); m != nil {
				fmt.Fprintf(&run, "# docs/operations.md:%d\n%s\n", number, m[1])
			}
		}
	}
	if begin > 0 {
		t.Errorf("operations.md:%d: no end", begin)
	}
	return run.String() + "-- etc/portmon/.keep --\n" + files.String(), commands
}

// varying are what differs each time: dates, seconds, numbers of processes, and how wide a column is.
var varying = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?`), "DATE"},
	{regexp.MustCompile(`\b\d+s\b`), "0s"},
	{regexp.MustCompile(`pid \d+`), "pid N"},
	{regexp.MustCompile(`  +`), "  "},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// scriptSays compares what the last command has written with a file.
func scriptSays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: says FILE")
	}
	got, want := ts.ReadFile("stdout"), ts.ReadFile(args[0])
	for _, v := range varying {
		got, want = v.what.ReplaceAllString(got, v.by), v.what.ReplaceAllString(want, v.by)
	}
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
