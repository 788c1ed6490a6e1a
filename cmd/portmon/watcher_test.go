package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/ruleset"
)

// pretender is a watcher that answers as a test wants, and notes what it is
// asked.
type pretender struct {
	hangs bool // does not answer, which a client says after two seconds
	netNS uint64
	file  string // that it has read
	had   []netip.Prefix
	known book.Row
	err   error

	mu    sync.Mutex
	asked []string
}

func (w *pretender) note(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked = append(w.asked, what); w.hangs {
		return errors.New("no answer")
	}
	return w.err
}

func (w *pretender) Status() (control.Status, error) {
	return control.Status{NetNS: w.netNS, Config: w.file, PID: 42, Since: testNow, Rows: 3}, w.note("status")
}

func (w *pretender) Book(_ int, sources ...netip.Prefix) (*book.Book, error) {
	if !w.hangs && w.netNS != book.Here(0).NetNS {
		return nil, control.ErrNone
	}
	b := book.New(0)
	if w.known.Source.IsValid() {
		b.Put(w.known)
	}
	return b, w.note("book")
}

func (w *pretender) Events(context.Context, int, bool, func([]byte) error) error {
	return w.note("events")
}

func (w *pretender) Save() error                { return w.note("save") }
func (w *pretender) Reload(*ruleset.Spec) error { return w.note("reload") }
func (w *pretender) Removing() error            { return w.note("removing") }
func (w *pretender) ReadFleet() error           { return w.note("fleet") }

// Nothing but a trial that fails calls these.
func (w *pretender) Swapping() error                  { return errors.New("not now") }
func (w *pretender) Swapped(uint64, *book.Book) error { return errors.New("not now") }
func (w *pretender) Close()                           {}

func (w *pretender) Drilling(...netip.Prefix) error { return w.note("drilling") }

func (w *pretender) Applying() error { return w.note("applying") }

func (w *pretender) Unbanned(alone bool, ps ...netip.Prefix) ([]netip.Prefix, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	texts := []string{"unbanned"}
	if alone {
		texts = append(texts, "alone")
	}
	for _, p := range ps {
		texts = append(texts, p.String())
	}
	return w.had, w.note(strings.Join(texts, " "))
}

func (w *pretender) Disallowed(ps ...netip.Prefix) ([]netip.Prefix, error) {
	return w.had, w.note(fmt.Sprintf("disallowed %v", ps))
}

func (w *pretender) Share(ps ...netip.Prefix) ([]netip.Prefix, error) {
	return ps, w.note(fmt.Sprintf("share %v", ps))
}

// watched runs a command on a host on which a pretender watches.
func watched(t *testing.T, s *site, w *pretender, config string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	e, out, errs := hostEnv(s.Host)
	e.watcher = func(string) (watcher, error) { return w, nil }
	w.file = cmp.Or(w.file, config)
	s.Host.Do(func() {
		if w.netNS == 0 {
			w.netNS = book.Here(0).NetNS
		}
		code = run(e, append(slices.Clone(args), "--config", config))
	})
	return code, out.String(), errs.String()
}

// Commands tell the watcher what they do, before or after they do it, and leave
// the file to it.
func TestCommandsTellTheWatcher(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	state := strings.TrimSuffix(config, "portmon.toml") + "state.jsonl"
	for _, tt := range []struct {
		args string
		want string
	}{
		{"apply", "applying, applying, reload"},
		{"apply", "applying, applying, reload"},
		{"ban 203.0.113.7 198.51.100.0/24", ""},
		{"ban --offence 203.0.113.8", ""},
		{"allow 203.0.113.7", "unbanned alone 203.0.113.7/32"},
		{"disallow 203.0.113.7", "disallowed [203.0.113.7/32]"},
		{"list", "book"},
		{"why 203.0.113.7", "book"},
		{"save", "save"},
		{"unban 203.0.113.7 198.51.100.0/24", "unbanned alone 203.0.113.7/32, unbanned 198.51.100.0/24"},
		{"unban --all", "unbanned 0.0.0.0/0 ::/0"},
		{"apply --check", ""},
		{"remove", "removing"},
	} {
		w := &pretender{}
		code, stdout, stderr := watched(t, site, w, config, strings.Fields(tt.args)...)
		var asked []string
		for _, what := range w.asked {
			if what != "status" { // is how it shows that it is alive
				asked = append(asked, what)
			}
		}
		if got := strings.Join(asked, ", "); code != exitDone || got != tt.want {
			t.Errorf("%s: exit code %d, the watcher is asked %q, want %q\n%s%s", tt.args, code, got, tt.want, stdout, stderr)
		}
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state is the watcher's, but: %v", err)
	}
}

// A watcher that hangs is asked once, and what it would do is done without it.
func TestWatcherHangs(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"list", "why 203.0.113.7", "status", "save", "ban 203.0.113.9", "unban 203.0.113.7", "allow 203.0.113.7", "disallow 203.0.113.7", "apply", "remove"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			site, config := newSite(t), testConfig(t)
			site.run(t, config, "apply")
			site.run(t, config, "ban", "203.0.113.7")
			w := &pretender{hangs: true}
			code, _, stderr := watched(t, site, w, config, strings.Fields(args)...)
			if len(w.asked) != 1 {
				t.Errorf("it is asked %q", w.asked)
			}
			if code != exitDone || !strings.Contains(stderr, ": no answer") {
				t.Errorf("exit code %d, %s", code, stderr)
			}
		})
	}
}

// A watcher of another network namespace is not ours.
func TestWatcherElsewhere(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	w := &pretender{netNS: 1}
	code, stdout, stderr := watched(t, site, w, config, "apply")
	if code != exitDone || strings.Contains(strings.Join(w.asked, " "), "applying") {
		t.Errorf("exit code %d, asked %v\n%s%s", code, w.asked, stdout, stderr)
	}
	_, stdout, _ = watched(t, site, w, config, "status")
	if !strings.Contains(stdout, "watcher: not running") {
		t.Errorf("status:\n%s", stdout)
	}
}

// What a watcher remembers is shown, and what it forgets as well.
func TestWatcherKnows(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	site.run(t, config, "apply")
	source := netip.MustParsePrefix("203.0.113.7/32")
	clock := book.ReadClock()
	w := &pretender{had: []netip.Prefix{source}, known: book.Row{
		Source: source, Step: 1, StepUntil: clock.Boot.Add(day), Offences: 3, First: clock.Boot.Add(-day), Last: clock.Boot, Proto: 6, Port: 3389,
	}}
	for args, want := range map[string]string{
		"why 203.0.113.7":        "  3 offences on record, the last at tcp/3389 on ",
		"why 203.0.113.7 --json": `"watched": true`,
		"status":                 "watcher: running since 2026-01-18 11:04:26, pid 42; remembers 3 sources\n",
	} {
		code, stdout, stderr := watched(t, site, w, config, strings.Fields(args)...)
		if args == "status" {
			stdout = strings.ReplaceAll(stdout, testNow.Local().Format(clockLayout), "2026-01-18 11:04:26")
		}
		if code != exitDone || !strings.Contains(stdout, want) {
			t.Errorf("%s: exit code %d, no %q in\n%s%s", args, code, want, stdout, stderr)
		}
	}
	code, stdout, stderr := watched(t, site, w, config, "unban", "203.0.113.7")
	if want := "portmon: 203.0.113.7 was not banned; its offences, if any, are forgotten\n"; code != exitDone || stdout != "" || stderr != want {
		t.Errorf("unban: exit code %d, %q, %q", code, stdout, stderr)
	}
}

// If the watcher cannot be told, then the table is not removed.
func TestRemoveNeedsTheWatcher(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	site.run(t, config, "apply")
	w := &pretender{}
	e, _, _ := hostEnv(site.Host)
	e.watcher = func(string) (watcher, error) { return refusing{w}, nil }
	var code int
	site.Host.Do(func() {
		w.netNS = book.Here(0).NetNS
		code = run(e, []string{"remove", "--config", config})
	})
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	site.run(t, config, "status")
}

type refusing struct{ *pretender }

func (refusing) Removing() error { return errors.New("not now") }

// What the watcher would undo is not applied, on trial or not: it goes by another
// file. A link to its file is none.
func TestApplyBesideTheWatchersFile(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	link := filepath.Join(filepath.Dir(config), "link.toml")
	if err := os.Symlink(config, link); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"apply"}, {"apply", "--confirm=5s"}, {"apply", "--boot"}} {
		for _, file := range []string{testConfig(t), "/etc/portmon/portmon.toml"} {
			w := &pretender{file: file}
			code, stdout, stderr := watched(t, site, w, config, args...)
			want := fmt.Sprintf("portmon: %s is not applied: the watcher, pid 42, goes by %s, and would undo it\nportmon: hint: ", config, file)
			if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, want) || slices.Contains(w.asked, "applying") {
				t.Errorf("%s: exit code %d, %s%s; want %s", args, code, stdout, stderr, want)
			}
		}
	}
	if code, _, stderr := watched(t, site, &pretender{file: link}, config, "apply"); code != exitDone {
		t.Errorf("the same file: exit code %d, %s", code, stderr)
	}
}

// An apply is no success if the watcher goes on with what it had, and it hears
// of one that takes long until it was asked to read the configuration.
func TestApplyNeedsTheReload(t *testing.T) {
	t.Parallel()
	site, config := newSite(t), testConfig(t)
	w := &pretender{}
	e, _, errs := hostEnv(site.Host)
	e.watcher = func(string) (watcher, error) { return deaf{w}, nil }
	var code int
	site.Host.Do(func() {
		w.netNS, w.file = book.Here(0).NetNS, config
		code = run(e, []string{"apply", "--config", config})
	})
	if code != exitFailed || !strings.Contains(errs.String(), "the watcher may undo that, as it goes on with its configuration: not now\nportmon: hint: ") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(config), "applied.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is the last good configuration: %v", err)
	}
}

type deaf struct{ *pretender }

func (deaf) Reload(*ruleset.Spec) error { return errors.New("not now") }

// swapped is a pretender that notes what the table traps when it is told that it
// is swapped.
type swapped struct {
	*pretender
	traps func() string
}

func (w *swapped) Swapping() error                  { return w.note("swapping " + w.traps()) }
func (w *swapped) Swapped(uint64, *book.Book) error { return w.note("swapped " + w.traps()) }

// A watcher is told before a trial is taken back, so that it leaves the table
// alone meanwhile, and afterwards.
func TestRevertPausesTheWatcher(t *testing.T) {
	t.Parallel()
	s := newTrial(t)
	s.configure(oldRules)
	s.does("apply")
	e, _, _ := hostEnv(s.Host)
	w := &swapped{pretender: &pretender{}}
	e.watcher = func(string) (watcher, error) { return w, nil }
	p := &cli{env: e, ui: newUI(e), configFile: s.config}
	s.Host.Do(func() {
		w.netNS = book.Here(0).NetNS
		c, err := p.dial()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		w.traps = func() string {
			h, err := ruleset.Open(c, tableName)
			if err != nil {
				return err.Error()
			}
			traps, err := h.Traps()
			return fmt.Sprint(traps.TCP, err)
		}
		s.configure(newRules)
		conf, _, err := p.loadConfig()
		if err != nil {
			t.Error(err)
			return
		}
		trial := lastgood.NewTrial(&lastgood.Config{Spec: p.written}, time.Hour)
		before, err := p.beginTrial(c, trial)
		if err == nil {
			_, err = ruleset.Apply(c, conf.Spec)
		}
		if err == nil {
			_, err = p.revert(c, trial, before)
		}
		if err != nil {
			t.Error(err)
		}
	})
	asked := slices.DeleteFunc(w.asked, func(what string) bool { return what == "status" })
	if got, want := strings.Join(asked, ", "), "book, swapping [2323] <nil>, reload, swapped [23] <nil>"; got != want {
		t.Errorf("the watcher is asked %q, want %q", got, want)
	}
}

// A watcher that does not know its state, and that no command can therefore
// reach, ends once the configuration tells, so that it is started with that.
func TestWatcherWithoutState(t *testing.T) {
	t.Parallel()
	s := newTrial(t)
	if err := os.WriteFile(s.config, []byte("trap.tcp = ["), 0o644); err != nil {
		t.Fatal(err)
	}
	log := new(screen)
	cmd := s.start(&exec.Cmd{Stderr: log}, "watch")
	lab.Await(t, "it runs", func() bool { return strings.Contains(log.String(), "waiting for `portmon apply`") })
	s.configure(oldRules)
	s.does("apply")
	lab.Await(t, "it ends", func() bool { return strings.Contains(log.String(), "tells again where its state is") })
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("exit code %d\n%s", code, log)
	}
	if out := s.does("apply", "--check"); !strings.Contains(out, "in force, as configured") {
		t.Errorf("it has undone what was applied: %s", out)
	}
}
