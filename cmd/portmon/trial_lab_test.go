package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/ruleset"
)

// trial is a site on which an administrator tries out a configuration, with
// portmon as a process on a terminal.
type trial struct {
	*testing.T
	*site
	dir, config string
	cmd         *exec.Cmd
	terminal    *os.File // the end that is not the program's
	screen      screen
	keeper      int // a pidfd
	keeperPID   int
}

// screen is what the program has written.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// clear forgets what was written.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

const (
	// oldRules are in force before the trial: the longer ladder.
	oldRules = "[trap]\ntcp = [23]\ngrace = 0\n[ban]\nbantime = [\"1h\", \"2h\", \"4h\"]\n"
	// newRules are tried. They lift the ban of a source that they whitelist.
	newRules = "whitelist = [\"203.0.113.40\"]\n[trap]\ntcp = [2323]\ngrace = 0\n[ban]\nbantime = [\"10m\"]\nprefix6 = 56\n"
)

func newTrial(t *testing.T) *trial {
	s := &trial{T: t, site: newSite(t), dir: t.TempDir()}
	s.config = filepath.Join(s.dir, "portmon.toml")
	s.Host.Listen("tcp", "[::]:22")
	return s
}

// configure writes the configuration.
func (s *trial) configure(rules string) {
	s.Helper()
	text := fmt.Sprintf("%s[watch]\nstate = %q\n", rules, filepath.Join(s.dir, "state.jsonl"))
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

func (s *trial) does(args ...string) string {
	s.Helper()
	out, _ := s.run(s.T, s.config, args...)
	return out
}

// start starts portmon in a session of its own.
func (s *trial) start(cmd *exec.Cmd, args ...string) *exec.Cmd {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	cmd.Path, cmd.Args = self, append([]string{"portmon", "--config", s.config}, args...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	s.Host.Do(func() { err = cmd.Start() })
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// watch starts a watcher, and returns when it answers.
func (s *trial) watch() *exec.Cmd {
	s.Helper()
	log, err := os.Create(filepath.Join(s.dir, "watch.log"))
	if err != nil {
		s.Fatal(err)
	}
	defer log.Close()
	cmd := s.start(&exec.Cmd{Stderr: log}, "watch")
	lab.Await(s, "the watcher runs", func() bool { return strings.Contains(s.does("status"), "watcher: running") })
	s.does("save")
	s.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); s.Failed() && err == nil {
			s.Logf("the watcher:\n%s", text)
		}
	})
	return cmd
}

// briefly is how long a trial takes that is to end by itself, but not before
// something was done in it.
var briefly = lab.Patience / 4

// try begins a trial on a terminal, and returns when it goes on.
func (s *trial) try(length string) {
	s.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		s.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.Fatal(err)
	}
	defer tty.Close()
	s.terminal = master
	s.cmd = s.start(&exec.Cmd{
		Stdin: tty, Stdout: tty, Stderr: tty, SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}, "apply", "--confirm="+length)
	go func() { // until the terminal is closed
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			s.screen.Write(b[:n])
		}
	}()
	lab.Await(s, "the trial goes on", func() bool { return strings.Contains(s.screen.String(), "type yes") })
	s.keeperPID = childOf(s.T, s.cmd.Process.Pid)
	if s.keeper, err = unix.PidfdOpen(s.keeperPID, 0); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { unix.Kill(s.keeperPID, unix.SIGKILL); unix.Close(s.keeper) })
}

// childOf returns the child of a process.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	status, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range status {
		text, _ := os.ReadFile(name) // it may have ended
		if bytes.Contains(text, fmt.Appendf(nil, "\nPPid:\t%d\n", parent)) {
			var pid int
			fmt.Sscanf(name, "/proc/%d/", &pid)
			return pid
		}
	}
	t.Fatal("there is no keeper")
	return 0
}

func (s *trial) types(text string) {
	s.Helper()
	if _, err := s.terminal.WriteString(text); err != nil {
		s.Fatal(err)
	}
}

// awaitKeeper returns when the keeper has ended.
func (s *trial) awaitKeeper() {
	s.Helper()
	fds := []unix.PollFd{{Fd: int32(s.keeper), Events: unix.POLLIN}}
	for {
		switch n, err := unix.Poll(fds, int(lab.LongPatience/time.Millisecond)); {
		case n == 1:
			return
		case !errors.Is(err, unix.EINTR):
			s.Fatalf("the keeper lives on: %v\n%s", err, &s.screen)
		}
	}
}

// tableState is what a table holds.
type tableState struct {
	text     string // without what is left of timeouts
	counters string
	ends     map[string]time.Time
	took     time.Duration // to read them: by how much they may be off
}

// elementList matches the elements of a set, and its timeout if it has one.
var elementList = regexp.MustCompile(`(?s)(\ttimeout \w+\n[^{}]*)?elements = \{(.*?)\}`)

// holds reads the table. The kernel lists elements by a hash that is another one
// in each set, so they are sorted. Kernels before 6.12 tell a timeout that a rule
// gave an element even if it is that of the set, but keep no such timeout that
// they are told.
func (s *trial) holds() tableState {
	s.Helper()
	text := lab.NFT(s, s.Host, "", "-s", "list", "ruleset")
	text = elementList.ReplaceAllStringFunc(text, func(list string) string {
		parts := elementList.FindStringSubmatch(list)
		usual, _, _ := strings.Cut(strings.TrimSpace(parts[1]), "\n")
		elements := strings.Split(parts[2], ",")
		for i := range elements {
			elements[i] = strings.TrimSpace(elements[i])
			if usual != "" {
				elements[i] = strings.TrimSuffix(elements[i], " "+usual)
			}
		}
		slices.Sort(elements)
		return parts[1] + strings.Join(elements, ",")
	})
	h := tableState{text, lab.NFT(s, s.Host, "", "list", "counters"), make(map[string]time.Time), 0}
	handle, err := ruleset.Open(banlab.Dial(s, s.Host), tableName)
	if err != nil {
		s.Fatal(err)
	}
	if !handle.Exists {
		return h
	}
	began := time.Now()
	for r, err := range handle.Records() {
		if err != nil {
			s.Fatal(err)
		}
		for what, left := range map[string]time.Duration{" ban": r.Remaining, " step": r.StepRemaining} {
			if end := time.Now().Add(left); left > 0 && end.After(h.ends[r.Source.String()+what]) {
				h.ends[r.Source.String()+what] = end
			}
		}
	}
	h.took = time.Since(began)
	return h
}

// same fails the test unless the table holds what it did, with what is left of
// timeouts within a second.
func (s *trial) same(when string, want tableState) {
	s.Helper()
	got := s.holds()
	if got.text != want.text {
		a, b := strings.Split(want.text, "\n"), strings.Split(got.text, "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				s.Errorf("%s, line %d is %.300q: want %.300q", when, i, b[i], a[i])
			}
		}
		s.Fatalf("%s: it is not as it was: %d lines, want %d\n%s", when, len(b), len(a), &s.screen)
	}
	for what, end := range want.ends {
		if d := got.ends[what].Sub(end).Abs(); d > time.Second+got.took+want.took {
			s.Errorf("%s: the end of %s is off by %v", when, what, d)
		}
	}
	if len(got.ends) != len(want.ends) {
		s.Errorf("%s: %d ends, want %d", when, len(got.ends), len(want.ends))
	}
}
