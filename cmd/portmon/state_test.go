package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

// mustRun runs a command on the host, which must succeed.
func (s *site) mustRun(t *testing.T, config string, args ...string) {
	t.Helper()
	e, _, stderr := hostEnv(s.Host)
	var code int
	s.Host.Do(func() { code = run(e, append(args, "--config", config)) })
	if code != exitDone {
		t.Fatalf("portmon %v: exit code %d, %s", args, code, stderr)
	}
}

// TestTableMadeAnewMeanwhile has other programs delete the table and make it
// again while a command that changes the state file is at work. What the new
// table lacks was not lifted: it stays on record, and is put back.
func TestTableMadeAnewMeanwhile(t *testing.T) {
	t.Parallel()
	offenders := []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:a::1")}
	other := netip.MustParsePrefix("198.18.0.0/24")
	for name, command := range map[string]func(p *cli, h *ruleset.Handle) error{
		"disallow": func(p *cli, h *ruleset.Handle) error {
			_, err := p.forgetAllowed(h, []netip.Prefix{other})
			return err
		},
		"unban": func(p *cli, h *ruleset.Handle) error {
			_, err := p.forgetInBook(h, nil, []netip.Prefix{other}, []ruleset.Entry{{Role: ruleset.RoleNet}})
			return err
		},
		"save": func(p *cli, h *ruleset.Handle) error { return p.save(h) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := newSite(t), lab.ShortDir(t)
			state, file := filepath.Join(dir, "state.jsonl"), filepath.Join(dir, "portmon.toml")
			text := "[trap]\ntcp = [" + strconv.Itoa(lab.TrapTCP) + "]\ngrace = \"0s\"\n[watch]\nstate = " + strconv.Quote(state) + "\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s.mustRun(t, file, "apply")
			for _, src := range offenders {
				s.Offend(src)
			}
			s.mustRun(t, file, "save")

			e, _, stderr := hostEnv(s.Host)
			p := &cli{env: e, ui: newUI(e), configFile: file}
			s.Host.Do(func() {
				err := errors.Join(p.findState(nil, nil), p.withTable(func(h *ruleset.Handle) error {
					c, err := e.dial()
					if err != nil {
						return err
					}
					defer c.Close()
					conf, err := config.Load(file)
					if err != nil {
						return err
					}
					if _, err = ruleset.Remove(c, tableName); err == nil {
						_, err = ruleset.Apply(c, conf.Spec)
					}
					return errors.Join(err, command(p, h))
				}))
				if err != nil {
					t.Errorf("error %v, %s", err, stderr)
				}
			})
			s.mustRun(t, file, "apply")
			s.Host.Do(func() {
				err := p.withTable(func(h *ruleset.Handle) error {
					for _, src := range offenders {
						if standing, err := h.Lookup(src); err != nil || standing.Step != 1 || len(standing.Bans) != 1 {
							t.Errorf("%v has %+v, error %v", src, standing, err)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRememberBansBesideOthers has the state file replaced while bans are made,
// as by portmon save, which does not wait for long, and one of them refused. Those
// made are remembered all the same, and no others.
func TestRememberBansBesideOthers(t *testing.T) {
	s, dir := newSite(t), lab.ShortDir(t)
	state, file := filepath.Join(dir, "state.jsonl"), filepath.Join(dir, "portmon.toml")
	if err := os.WriteFile(file, []byte("[watch]\nstate = \""+state+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.mustRun(t, file, "apply")
	s.mustRun(t, file, "ban", "203.0.113.1")
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
