package notice

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// script returns a command that runs a script of the shell, with arguments from
// $1 on.
func script(t testing.TB, text string, args ...string) []string {
	t.Helper()
	lab.Program(t, "sh")
	return append([]string{"/bin/sh", "-c", text, "sh"}, args...)
}

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readEnvironment(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	vars := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	slices.Sort(vars)
	return vars
}

// A program finds everything in its environment, and nothing there that is the
// watcher's own. It is not parallel, as it changes ours.
func TestCommandEnvironment(t *testing.T) {
	base := t.TempDir() // before TMPDIR is another
	for _, name := range inherited {
		t.Setenv(name, "of "+name)
	}
	t.Setenv("PATH", "/bin:/usr/bin")
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("PORTMON_ADDRESS", "from outside")
	var ours []string
	for _, name := range inherited {
		ours = append(ours, name+"="+os.Getenv(name))
	}
	event := escalated(prefix("2001:db8::/64"), 2)
	event.Comment = "a\x00b\nc"
	tests := []struct {
		name   string
		host   string
		events []watch.News
		want   []string
	}{
		{
			"one event", "web1", []watch.News{event},
			[]string{
				"PORTMON_EVENT=escalated", "PORTMON_TITLE=web1: 2001:db8::/64 escalated",
				"PORTMON_MESSAGE=2001:db8::/64 escalated to tier 2, banned for 3d after 2 offences: tcp/23: a�b c",
				"PORTMON_PRIORITY=2", "PORTMON_HOST=web1", "PORTMON_COUNT=1", "PORTMON_ADDRESS=2001:db8::/64",
				"PORTMON_TIER=2", "PORTMON_CAUSE=trap",
				"PORTMON_PROTOCOL=tcp", "PORTMON_PORT=23", "PORTMON_OFFENCES=2", "PORTMON_UNTIL=2026-01-21T12:00:00Z",
				"PORTMON_REASON=a�b c",
			},
		},
		{
			"forever", "",
			[]watch.News{{Kind: watch.ByHand, Source: host(1), Cause: ruleset.CauseHand, Forever: true, Until: in(0)}},
			[]string{
				"PORTMON_EVENT=banned by hand", "PORTMON_TITLE=198.51.0.1 banned by hand",
				"PORTMON_MESSAGE=198.51.0.1 banned by hand forever",
				"PORTMON_PRIORITY=3", "PORTMON_COUNT=1", "PORTMON_ADDRESS=198.51.0.1", "PORTMON_CAUSE=hand",
			},
		},
		{
			"a summary", "web1", []watch.News{banned(host(1), 23), banned(host(2), 23)},
			[]string{
				"PORTMON_EVENT=summary", "PORTMON_TITLE=web1: 2 banned",
				"PORTMON_MESSAGE=198.51.0.2 banned for 8h: tcp/23\n198.51.0.1 banned for 8h: tcp/23",
				"PORTMON_PRIORITY=2", "PORTMON_HOST=web1", "PORTMON_COUNT=2",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(base, tt.name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			s, reports, end := run(t, setup{
				command: script(t, `
					cat /proc/$$/environ >"$1/environ"
					files=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/cwd)
					printf '%s\n' "$files" >"$1/files"`, dir),
				host: tt.host,
			})
			tell(s, tt.events...)
			awaitSent(t, s, "command", reports)
			end()
			want := slices.Concat(ours, tt.want)
			slices.Sort(want)
			if d := diff(want, readEnvironment(t, filepath.Join(dir, "environ"))); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "files")); err != nil || string(got) != "/dev/null\n/dev/null\n/\n" {
				t.Errorf("stdin, stdout and directory: %q, %v", got, err)
			}
		})
	}
}

// A command has of these variables what is set, empty or not.
func TestInherited(t *testing.T) {
	for _, name := range inherited {
		t.Setenv(name, "") // so that the test restores it
		os.Unsetenv(name)
	}
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LD_PRELOAD", "/x")
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("TZ", "")
	if d := diff([]string{"LANG=C.UTF-8", "TZ=", "PORTMON_EVENT=summary"}, environment(new(notice))); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// Every variable that is documented has a value, in the notice of a ban that is
// known in full.
func TestVariables(t *testing.T) {
	n := banned(host(1), 23)
	n.Comment = "abuse"
	documented := Variables()
	for i, v := range composedAt(somewhere(t), n).variables() {
		if v.value == "" || v.value == 0 || v.Name != documented[i].Name || v.Meaning == "" {
			t.Errorf("%q means %q, and is %v in a notice", v.Name, v.Meaning, v.value)
		}
	}
	for kind := range watch.Kinds {
		if !strings.Contains(documented[0].Meaning, `"`+kind.String()+`"`) {
			t.Errorf("%s does not name %q", documented[0].Name, kind)
		}
	}
}

func TestCommandFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		argv []string
		want string
	}{
		{"a code", script(t, "exit 3"), "run /bin/sh: exit status 3"},
		{"a message", script(t, `printf 'oh\n\033[31mno\n' >&2; exit 1`), "run /bin/sh: exit status 1: oh �[31mno"},
		{
			"a long message", script(t, `head -c 100000 /dev/zero | tr '\0' x >&2; echo end >&2; exit 1`),
			"run /bin/sh: exit status 1: " + strings.Repeat("x", maxStderr-4) + "end",
		},
		{"a signal", script(t, "kill -TERM $$"), "run /bin/sh: signal: terminated"},
		{"no such program", []string{"/nonexistent/program"}, "run /nonexistent/program: fork/exec /nonexistent/program: no such file or directory"},
		{"no program", []string{"/dev/null"}, "run /dev/null: fork/exec /dev/null: permission denied"},
		{"nothing wrong", script(t, "exit 0"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := composed(banned(host(1), 23))
			err := (&command{tt.argv, commandTimeout}).send(t.Context(), n)
			got := ""
			if err != nil {
				got = err.Error()
			}
			var again *temporaryError
			if got != tt.want || errors.As(err, &again) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A program that fails is reported and counted, and not run again.
func TestCommandGivenUp(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "runs")
	s, reports, end := run(t, setup{command: script(t, `echo >>"$1"; exit 1`, file)})
	tell(s, banned(host(1), 23), banned(host(2), 23))
	if err := <-reports; err.Error() != "run /bin/sh: exit status 1 (attempt 1, given up: 2 events not sent)" {
		t.Errorf("reported %v", err)
	}
	end()
	if b, err := os.ReadFile(file); err != nil || string(b) != "\n" {
		t.Errorf("ran %d times: %v", len(b), err)
	}
	if got := s.Stats()["command"]; got != (Stats{Failed: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestCommandTimeout(t *testing.T) {
	t.Parallel()
	n := composed(banned(host(1), 23))
	lab.Program(t, "sleep")
	err := (&command{[]string{"/bin/sleep", "1000"}, 50 * time.Millisecond}).send(t.Context(), n)
	if !errors.Is(err, errTimeout) {
		t.Errorf("got %v, want %v", err, errTimeout)
	}
}

// A program that is killed takes with it what it waits for.
func TestCommandKilled(t *testing.T) {
	t.Parallel()
	path := fifo(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	c := &command{script(t, `exec 3>"$1"; sleep 1000 & echo started >&3; wait`, path), time.Hour}
	go func() {
		n := composed(banned(host(1), 23))
		done <- c.send(ctx, n)
	}()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if line, err := bufio.NewReader(f).ReadString('\n'); line != "started\n" {
		t.Fatalf("the script wrote %q: %v", line, err)
	}
	cancel(errEnded)
	if err := f.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); err != io.EOF { // no process has it open any more
		t.Errorf("the script wrote more: %v", err)
	}
	if err := <-done; err == nil || err.Error() != "run /bin/sh: stopped because the watcher ended" {
		t.Errorf("got %v", err)
	}
}

// A program that ends well has done so, whatever it leaves behind, and that
// lives on.
func TestCommandLeavesBehind(t *testing.T) {
	t.Parallel()
	path := fifo(t)
	result := path + ".copy"
	n := composed(banned(host(1), 23))
	c := &command{script(t, `{ cat "$1" >"$2.part" && mv "$2.part" "$2"; } & exit 0`, path, result), time.Hour}
	if err := c.send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("alive")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "it has written what it was given", func() bool {
		b, err := os.ReadFile(result)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b) == "alive"
	})
}

func TestTail(t *testing.T) {
	var whole strings.Builder
	var got tail
	for i := range 400 {
		p := []byte(strings.Repeat(string(rune('a'+i%26)), i*7%(3*maxStderr)))
		whole.Write(p)
		if n, err := got.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
		want := whole.String()[max(0, whole.Len()-maxStderr):]
		if string(got) != want {
			t.Fatalf("after %d bytes: got %q, want %q", whole.Len(), got, want)
		}
	}
}
