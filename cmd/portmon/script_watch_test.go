package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/stats"
)

// watcherProcess is `portmon watch` in the background of a script.
type watcherProcess struct {
	*exec.Cmd
	notices net.PacketConn // what it tells systemd
}

// scriptWatch starts a watcher as systemd does, and returns when it says that
// it is ready.
func scriptWatch(ts *testscript.TestScript, neg bool, args []string) {
	site := ts.Value(siteKey{}).(*site)
	if neg || site.watcher != nil {
		ts.Fatalf("usage: watch ARGS, and no other watcher")
	}
	socket := filepath.Join(ts.Getenv("WORK"), "notify")
	os.Remove(socket)
	notices, err := net.ListenPacket("unixgram", socket)
	ts.Check(err)
	ts.Defer(func() { notices.Close() })
	log, err := os.Create(ts.MkAbs("watch.log"))
	ts.Check(err)
	defer log.Close()
	path, err := exec.LookPath("/proc/self/exe")
	ts.Check(err)
	cmd := exec.Command(path, append([]string{"portmon", "watch"}, args...)...)
	cmd.Args[0] = "with-etc"
	cmd.Dir, cmd.Stderr = ts.MkAbs("."), log
	for _, name := range []string{"ETC", "VARLIB", "PATH", homeVariable, raceVariable, "TZ"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	site.Host.Do(func() { err = cmd.Start() })
	ts.Check(err)
	ts.Defer(func() { cmd.Process.Kill() })
	site.watcher = &watcherProcess{cmd, notices}
	site.watcher.await(ts, "READY=1")
}

// await returns when the watcher has told systemd something.
func (w *watcherProcess) await(ts *testscript.TestScript, what string) {
	ts.Check(w.notices.SetReadDeadline(time.Now().Add(lab.Patience)))
	b := make([]byte, 4096)
	for {
		n, _, err := w.notices.ReadFrom(b)
		if err != nil {
			ts.Fatalf("the watcher does not say %s: %v\n%s", what, err, ts.ReadFile("watch.log"))
		}
		for line := range strings.Lines(string(b[:n])) {
			if strings.TrimSpace(line) == what {
				return
			}
		}
	}
}

func scriptUnwatch(ts *testscript.TestScript, neg bool, args []string) {
	site := ts.Value(siteKey{}).(*site)
	if neg || len(args) != 1 || site.watcher == nil {
		ts.Fatalf("usage: unwatch SIGNAL, after watch")
	}
	signal := unix.SignalNum("SIG" + args[0])
	ts.Check(site.watcher.Process.Signal(signal))
	err := site.watcher.Wait()
	if signal == unix.SIGTERM {
		signal = 0
	}
	if status := site.watcher.ProcessState.Sys().(syscall.WaitStatus); signal == 0 && err != nil || signal != 0 && status.Signal() != signal {
		ts.Fatalf("the watcher ended: %v\n%s", err, ts.ReadFile("watch.log"))
	}
	site.watcher = nil
}

func scriptHangup(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value(siteKey{}).(*site).watcher
	if neg || len(args) > 0 || w == nil {
		ts.Fatalf("usage: hangup, after watch")
	}
	ts.Check(w.Process.Signal(unix.SIGHUP))
	w.await(ts, "READY=1")
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await COMMAND")
	}
	var err error
	needPrograms(ts.Value(testKey{}).(testing.TB), append(args, "bash")...)
	pause := 10 * time.Millisecond // less often the longer it takes: each question is a few processes
	for end := time.Now().Add(lab.Patience); time.Now().Before(end); time.Sleep(pause) {
		pause = min(pause*3/2, 300*time.Millisecond)
		ts.Value(siteKey{}).(*site).Host.Do(func() {
			err = ts.Exec("with-etc", "bash", "-e", "-o", "pipefail", "-c", strings.Join(args, " "))
		})
		if err == nil {
			return
		}
	}
	ts.Fatalf("not within %v: %s: %v", lab.Patience, strings.Join(args, " "), err)
}

// scriptReboot goes on with a host that has nothing of the one before but its
// files. The boot id is that of the machine that the tests run on, so that the
// state gets another one. What a reboot changes besides, which is the clock,
// package book is tested with.
func scriptReboot(ts *testscript.TestScript, neg bool, args []string) {
	old := ts.Value(siteKey{}).(*site)
	if neg || len(args) > 0 || old.watcher != nil {
		ts.Fatalf("usage: reboot, with no watcher")
	}
	*old = *newSite(ts.Value(testKey{}).(testing.TB))
	state := filepath.Join(ts.Getenv("VARLIB"), "portmon", "state.jsonl")
	for _, file := range []string{state, stats.Path(state)} {
		text, err := os.ReadFile(file)
		ts.Check(err)
		const other = `"boot_id":"00000000-0000-4000-8000-000000000000"`
		ts.Check(os.WriteFile(file, bootID.ReplaceAll(text, []byte(other)), 0o600))
	}
}

var bootID = regexp.MustCompile(`"boot_id":"[^"]*"`)

// scriptElsewhere runs portmon on another host that has the same files; it must
// exit with 0, or with CODE.
func scriptElsewhere(ts *testscript.TestScript, neg bool, args []string) {
	want := 0
	if len(args) > 0 && strings.Trim(args[0], "0123456789") == "" {
		want, args = code(ts, args), args[1:]
	}
	var err error
	newSite(ts.Value(testKey{}).(testing.TB)).Host.Do(func() { err = ts.Exec("with-etc", append([]string{"portmon"}, args...)...) })
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if neg || got != want {
		ts.Fatalf("elsewhere %s: exit code %d, want %d: %v", strings.Join(args, " "), got, want, err)
	}
}
