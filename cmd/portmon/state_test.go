package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

// TestRememberBansBesideOthers has the state file replaced while bans are made,
// as by portmon save, which does not wait for long, and one of them refused. Those
// made are remembered all the same, and no others.
func TestRememberBansBesideOthers(t *testing.T) {
	s, dir := newSite(t), lab.ShortDir(t)
	state, file := filepath.Join(dir, "state.jsonl"), filepath.Join(dir, "portmon.toml")
	if err := os.WriteFile(file, []byte("[watch]\nstate = \""+state+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"apply"}, {"ban", "203.0.113.1"}} {
		e, _, stderr := hostEnv(s.Host)
		var code int
		s.Host.Do(func() { code = run(e, append(args, "--config", file)) })
		if code != exitDone {
			t.Fatal(stderr)
		}
	}
	e, _, stderr := hostEnv(s.Host)
	p := &cli{env: e, ui: newUI(e), configFile: file}
	record := ruleset.Record{
		Source: netip.MustParsePrefix("203.0.113.2/32"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: ruleset.CauseHand,
	}
	refused := record
	refused.Source = netip.MustParsePrefix("203.0.113.3/32") // since it was checked
	replace := func() ([]ruleset.Record, error) {
		text, err := os.ReadFile(state)
		return []ruleset.Record{record}, errors.Join(err, os.WriteFile(state+".other", text, 0o600), os.Rename(state+".other", state))
	}
	s.Host.Do(func() {
		err := errors.Join(p.findState(nil, nil), p.withTable(func(h *ruleset.Handle) error {
			made, err := p.rememberBans(h, []ruleset.Record{record, refused}, replace)
			if len(made) != 1 {
				t.Errorf("made %+v", made)
			}
			return err
		}))
		if err != nil || stderr.Len() > 0 {
			t.Errorf("error %v, %s", err, stderr)
		}
		kept, _, err := book.Read(book.Config{Path: state, Here: book.Here(0), Now: book.ReadClock()})
		if err != nil || kept.Len() != 2 {
			t.Errorf("error %v; kept %+v", err, kept)
		}
	})
}
