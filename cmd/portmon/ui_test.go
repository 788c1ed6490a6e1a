package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// TestTableOfWideCharacters has columns begin in the same cell, whatever is in
// those before.
func TestTableOfWideCharacters(t *testing.T) {
	e, stdout, _ := testEnv()
	u := newUI(e)
	u.table(slices.Values([][]string{{"NETWORK", "LEFT"}, {"日本ネットワーク", "1m"}, {"Example", "漢字漢字"}}), 24)
	u.finish(nil)
	want := "NETWORK           LEFT\n日本ネットワーク  1m\nExample           漢字…\n"
	if got := stdout.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestColours(t *testing.T) {
	for _, tt := range []struct {
		name     string
		terminal bool
		env      map[string]string
		want     bool
	}{
		{"terminal", true, nil, true},
		{"pipe", false, nil, false},
		{"NO_COLOR", true, map[string]string{"NO_COLOR": "1"}, false},
		{"empty NO_COLOR", true, map[string]string{"NO_COLOR": ""}, true},
		{"dumb terminal", true, map[string]string{"TERM": "dumb"}, false},
		{"terminal without colours", true, map[string]string{"TERM": "vt100"}, false},
		{"other terminal", true, map[string]string{"TERM": "xterm"}, true},
	} {
		e, stdout, stderr := testEnv()
		e.width = func(io.Writer) int { return map[bool]int{true: 80}[tt.terminal] }
		e.getenv = func(key string) string { return tt.env[key] }
		u := newUI(e)
		u.table(slices.Values([][]string{{"HEADING"}}), 0)
		u.finish(nil)
		if got := strings.Contains(stdout.String(), "\x1b["); got != tt.want {
			t.Errorf("%s: colours in data: %v, want %v", tt.name, got, tt.want)
		}
		run(e, []string{"lits"})
		if got := strings.Contains(stderr.String(), "\x1b["); got != tt.want {
			t.Errorf("%s: colours in messages: %v, want %v", tt.name, got, tt.want)
		}
		if plain := uncoloured(stderr.String()); plain != "portmon: unknown command \"lits\"\nportmon: hint: did you mean portmon list?\n" {
			t.Errorf("%s: the words are %q", tt.name, plain)
		}
	}
}

// uncoloured returns s without escape sequences.
func uncoloured(s string) string {
	var b strings.Builder
	for s != "" {
		text, rest, found := strings.Cut(s, "\x1b[")
		b.WriteString(text)
		if found {
			_, rest, _ = strings.Cut(rest, "m")
		}
		s = rest
	}
	return b.String()
}

func TestMessagesOfOthersAreOnlyText(t *testing.T) {
	e, _, stderr := testEnv()
	run(e, []string{"list", "\x1b]0;owned\a"})
	if strings.ContainsAny(stderr.String(), "\x1b\a") {
		t.Errorf("an argument reaches the terminal as it is: %q", stderr)
	}
	u := newUI(e)
	stderr.Reset()
	u.note("one\x1b[2Jtwo\nthree\r\n")
	if got, want := stderr.String(), "portmon: one\ufffd[2Jtwo\nportmon: three \n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Data comes before what is said about it, where both end up in one place.
func TestOrder(t *testing.T) {
	e, stdout, _ := testEnv()
	e.stderr = stdout
	u := newUI(e)
	u.print("first\n")
	u.note("second")
	u.print("third\n")
	u.finish(nil)
	if got, want := stdout.String(), "first\nportmon: second\nthird\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExitCodes(t *testing.T) {
	eperm := &nftset.OpError{Op: "read generation", Err: unix.EPERM}
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{errors.New("some failure"), 1, "portmon: some failure\n"},
		{fmt.Errorf("list: %w", eperm), 1,
			"portmon: list: read generation: operation not permitted\nportmon: hint: run as root, or with CAP_NET_ADMIN\n"},
		{fmt.Errorf("write: %w", os.ErrPermission), 1, "portmon: write: permission denied\nportmon: hint: run as root\n"},
		{&nftset.OpError{Op: "add element", Object: "inet portmon ban4", Err: unix.ENFILE}, 1,
			"portmon: add element inet portmon ban4: the set is full\n" +
				"portmon: hint: raise size in [ban] of the configuration, then run `portmon apply`\n"},
		{unix.ENFILE, 1, "portmon: too many open files in system\n"},
		{&usageError{hinted{errors.New("what?"), "so"}}, 2, "portmon: what?\nportmon: hint: so\n"},
		{fmt.Errorf("why: %w", errNoTable), 3, "portmon: why: no table inet portmon\nportmon: hint: run `portmon apply`\n"},
		{exitCodeError(3), 3, ""},
		{exitCodeError(1), 1, ""},
		{&hinted{errors.New("odd"), "next"}, 1, "portmon: odd\nportmon: hint: next\n"},
	} {
		e, _, stderr := testEnv()
		u := newUI(e)
		if code := u.finish(tt.err); code != tt.code || stderr.String() != tt.text {
			t.Errorf("%v: exit code %d, %q; want %d, %q", tt.err, code, stderr, tt.code, tt.text)
		}
	}
}

// A command in a hint takes the configuration along, behind its addresses.
func TestHintsRepeatConfig(t *testing.T) {
	for hint, want := range map[string]string{
		"run `portmon apply`":                              "run `portmon apply --config \"a.toml\"`",
		"`portmon confirm` keeps it":                       "`portmon confirm --config \"a.toml\"` keeps it",
		"end that: portmon disallow 192.0.2.0/24":          "end that: portmon disallow 192.0.2.0/24 --config \"a.toml\"",
		"`portmon allow 192.0.2.1 ::1-::2` for now":        "`portmon allow 192.0.2.1 ::1-::2 --config \"a.toml\"` for now",
		"`portmon list --allowed` shows, portmon allow ed": "`portmon list --allowed` shows, portmon allow ed",
	} {
		e, _, stderr := testEnv()
		u := newUI(e)
		file := "a.toml"
		u.config = &file
		if u.hint("%s", hint); stderr.String() != "portmon: hint: "+want+"\n" {
			t.Errorf("%q, want %q", stderr, want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestDataThatCannotBeWritten(t *testing.T) {
	e, _, stderr := testEnv()
	e.stdout = brokenWriter{}
	if code := run(e, []string{"version"}); code != exitFailed || stderr.String() != "portmon: write standard output: broken pipe\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	u := newUI(e)
	u.print("x")
	if code := u.finish(exitCodeError(exitNotInForce)); code != exitNotInForce {
		t.Errorf("exit code %d: the first failure counts", code)
	}
}
