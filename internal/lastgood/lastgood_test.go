package lastgood

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/ruleset"
)

func open(t *testing.T, state string) *Store {
	t.Helper()
	s, err := Open(state, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestRoundTrip(t *testing.T) {
	state := filepath.Join(t.TempDir(), "new", "state.jsonl")
	if good, err := Good(state); good != nil || err != nil {
		t.Errorf("before there is a folder: %v, %v", good, err)
	}
	s := open(t, state)
	if _, err := Open(state, 0); !errors.Is(err, folder.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	c := &Config{Spec: ruleset.Default(), At: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), File: "portmon.toml"}
	c.Spec.TrapUDP, c.Spec.BanTime, c.Spec.Whitelist = []ruleset.Ports{{From: 53, To: 54}}, []time.Duration{time.Hour}, nil
	c.Names = []string{"a.example.org", "b.example.org"}
	trial := NewTrial(c, time.Minute)
	if trial.Config.Trial != trial.ID || trial.ID == NewTrial(c, time.Minute).ID {
		t.Errorf("its configuration is of the trial %q, want %q, which no other has", trial.Config.Trial, trial.ID)
	}
	if err := errors.Join(s.Confirm(c), s.SetTrial(trial)); err != nil {
		t.Fatal(err)
	}
	if got, err := Good(state); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, c)
	}
	got, err := ReadTrial(state)
	if err != nil || !reflect.DeepEqual(got, trial) || !got.Config.Says(&c.Spec, c.Names) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, trial)
	}
	if got.Config.Says(&c.Spec, c.Names[:1]) {
		t.Error("a trial of other names")
	}
	if c.Spec.Observe = true; !got.Config.Says(&c.Spec, c.Names) {
		t.Error("the same in another mode is no other configuration")
	}
	if c.Spec.Prefix6++; got.Config.Says(&c.Spec, c.Names) {
		t.Error("a trial of another configuration")
	}
	if err := errors.Join(s.Confirm(c), s.Confirm(c)); err != nil {
		t.Error(err)
	}
	if got, err := ReadTrial(state); got != nil || err != nil {
		t.Errorf("after its end: %+v, %v", got, err)
	}
}

// A trial goes on until its end and a little longer, in one boot, unless it has
// failed.
func TestLeft(t *testing.T) {
	now := book.ReadClock()
	for name, tt := range map[string]struct {
		change func(*Trial)
		on     bool
	}{
		"it goes on":             {func(*Trial) {}, true},
		"it is at its end":       {func(t *Trial) { t.Until = now.Boot.Add(-time.Second) }, true},
		"nobody ended it":        {func(t *Trial) { t.Until = now.Boot.Add(-Grace - time.Second) }, false},
		"no trial takes so long": {func(t *Trial) { t.Until = now.Boot.Add(MaxTrial + time.Minute) }, false},
		"another boot":           {func(t *Trial) { t.Boot = "00000000-0000-4000-8000-000000000000" }, false},
		"it has failed":          {func(t *Trial) { t.Failed = now.Wall }, false},
	} {
		trial := NewTrial(&Config{}, time.Minute)
		tt.change(trial)
		if left, on := trial.Left(); on != tt.on || left < 0 || left > time.Minute {
			t.Errorf("%s: %v, %v", name, left, on)
		}
	}
	if _, on := (*Trial)(nil).Left(); on {
		t.Error("a trial that is not there goes on")
	}
}

// What another user of the folder has put there is neither read nor replaced.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	state, other := filepath.Join(dir, "state.jsonl"), filepath.Join(dir, "other")
	s := open(t, state)
	if err := s.Confirm(&Config{Spec: ruleset.Default()}); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, goodFile)
	put := map[string]func() error{
		"a link":      func() error { return os.Symlink(other, good) },
		"a hard link": func() error { return os.Link(other, good) },
	}
	if os.Geteuid() == 0 {
		put["somebody else's"] = func() error {
			return errors.Join(os.WriteFile(good, []byte("{}"), 0o644), os.Chown(good, 4242, 4242))
		}
	}
	if err := os.Rename(good, other); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, put := range put {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		_, readErr := Good(state)
		for _, err := range []error{readErr, s.Confirm(&Config{})} {
			if !errors.As(err, new(*folder.RefusedError)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.Remove(good); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.ReadFile(other); err != nil || string(after) != string(before) {
		t.Errorf("the other file: %q, %v", after, err)
	}
}

// Names that no configuration can have are not followed.
func TestNamesRefused(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s := open(t, state)
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("host%02d.example.org", i)
	}
	for _, names := range [][]string{{"home example"}, {"203.0.113.7"}, {"b.example", "a.example"}, {"a.example", "a.example"}, many} {
		if err := s.Confirm(&Config{Spec: ruleset.Default(), Names: names}); err != nil {
			t.Fatal(err)
		}
		if good, err := Good(state); err == nil {
			t.Errorf("read: %q", good.Names)
		}
	}
	if err := s.Confirm(&Config{Spec: ruleset.Default(), Names: many[:64]}); err != nil {
		t.Fatal(err)
	}
	if good, err := Good(state); err != nil || len(good.Names) != 64 {
		t.Errorf("got %+v, %v", good, err)
	}
}
