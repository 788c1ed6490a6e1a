package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

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

func page(t *testing.T, name string) []byte {
	t.Helper()
	e, stdout, stderr := testEnv()
	if code := run(e, []string{"manual", name}); code != exitDone || stderr.Len() > 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	return stdout.Bytes()
}

func TestManualOfCommands(t *testing.T) {
	text := rendered(t, page(t, "portmon.8"))
	want := []string{"NAME\nportmon - ban hosts", "--config FILE", "-h, --help", config.DefaultPath}
	for _, cmd := range allCommands() {
		if cmd.Hidden || cmd.Name() == "help" || !cmd.HasParent() {
			continue
		}
		if !cmd.HasAvailableSubCommands() {
			want = append(want, "\n"+usageLine(cmd)+"\n")
			for line := range strings.Lines(cmd.Example) {
				want = append(want, strings.TrimSpace(line))
			}
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { want = append(want, "\n--"+f.Name) })
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
