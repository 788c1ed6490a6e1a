package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// eachCommand calls f for every command that a user sees.
func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			eachCommand(c, f)
		}
	}
}

// allCommands returns them, the help command included, which cobra adds only
// when it runs.
func allCommands() []*cobra.Command {
	e, _, _ := testEnv()
	root := (&cli{env: e, ui: newUI(e)}).root()
	root.InitDefaultHelpCmd()
	var all []*cobra.Command
	eachCommand(root, func(c *cobra.Command) { all = append(all, c) })
	return all
}

func TestEveryCommandIsDocumented(t *testing.T) {
	seen := 0
	for _, cmd := range allCommands() {
		seen++
		path := cmd.CommandPath()
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s: no short help, no long help, or no example", path)
		}
		if s := cmd.Short; s != "" && (strings.ToLower(s[:1]) != s[:1] || strings.HasSuffix(s, ".")) {
			t.Errorf("%s: short help is no fragment: %q", path, s)
		}
		if cmd.Args == nil {
			t.Errorf("%s: arguments are not checked", path)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example is not indented: %q", path, line)
			}
		}
	}
	if seen < 13 {
		t.Errorf("only %d commands seen", seen)
	}
}

func TestHelpIsReadable(t *testing.T) {
	for _, cmd := range allCommands() {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		e, stdout, stderr := testEnv()
		if code := run(e, args); code != exitDone || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
		help := stdout.String()
		for line := range strings.Lines(help) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 || n > 80 && !strings.Contains(line, "  ") {
				t.Errorf("%v: line of %d columns: %s", args, n, line)
			}
		}
		for _, part := range []string{cmd.Long, cmd.Example, "--config FILE"} {
			if !strings.Contains(help, part) {
				t.Errorf("%v: help lacks %q:\n%s", args, part, help)
			}
		}
	}
}

// notRun begins the commands whose examples want what a new host has not: captures
// and logs, a fleet. Other tests show them.
var notRun = regexp.MustCompile(`^portmon (replay|fleet)\b`)

// TestExamplesRun does what the help says, each example on a host of its own
// with the table in force.
func TestExamplesRun(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range programs {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range allCommands() {
		if notRun.MatchString(cmd.CommandPath()) {
			continue
		}
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			t.Parallel()
			needPrograms(t, "bash", cmd.Example)
			site, dir := newSite(t), t.TempDir()
			for _, name := range []string{"etc", "lib"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// nft takes the names of protocols from there.
			if err := os.WriteFile(filepath.Join(dir, "etc", "protocols"), []byte("ipv6-icmp 58\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"day.pcap", "ufw.log"} { // of a log, as what a file is counts, not its name
				const line = "2026-03-01T10:00:00+00:00 host kernel: [UFW BLOCK] IN=eth0 OUT= SRC=203.0.113.7 DST=192.0.2.2 " +
					"LEN=40 TTL=239 ID=1 PROTO=TCP SPT=51605 DPT=23 WINDOW=1024 RES=0x00 SYN URGP=0\n"
				if err := os.WriteFile(filepath.Join(dir, name), []byte(line), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var output bytes.Buffer
			var err error
			site.Host.Do(func() {
				c := exec.Command(filepath.Join(bin, "with-etc"), "bash", "-e", "-o", "pipefail", "-c", "portmon apply\n"+cmd.Example)
				c.Dir = dir
				c.Env = append(os.Environ(), "ETC="+filepath.Join(dir, "etc"), "VARLIB="+filepath.Join(dir, "lib"), "PATH="+bin+":"+os.Getenv("PATH"))
				c.Stdout, c.Stderr = &output, &output
				err = c.Run()
			})
			if err != nil {
				t.Errorf("%v\n%s\n%s", err, cmd.Example, &output)
			}
		})
	}
}
