package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// fleetSite is a host that belongs to a fleet whose hub cannot be reached, with
// its table.
type fleetSite struct {
	*site
	t           *testing.T
	conn        *nftset.Conn
	dir, config string // the folder of the state
}

func newFleetSite(t *testing.T) *fleetSite {
	t.Helper()
	t.Parallel()
	top := lab.ShortDir(t)
	s := &fleetSite{site: newSite(t), t: t, dir: filepath.Join(top, "state"), config: filepath.Join(top, "portmon.toml")}
	s.conn = banlab.Dial(t, s.Host)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.configure("")
	s.file("fleet.json", `{"urls":["tls://127.0.0.1:1"],"host":"web-1"}`)
	s.file("fleet.nk", "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4\n")
	s.run(t, s.config, "apply")
	return s
}

// configure writes the configuration, with more at its beginning.
func (s *fleetSite) configure(more string) {
	s.t.Helper()
	text := fmt.Sprintf("%s\n[trap]\ngrace = 0\n[watch]\nstate = %q\n", more, filepath.Join(s.dir, "state.jsonl"))
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *fleetSite) file(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *fleetSite) table() *ruleset.Handle {
	s.t.Helper()
	h, err := ruleset.Open(s.conn, tableName)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s *fleetSite) hasSets() bool {
	s.t.Helper()
	h := s.table()
	return h.Set("fleet4") != nil && h.Set("fleet6") != nil
}

// TestUnknownMembership has the folder of the state be no folder: the sets of the
// fleet stay, as its host may well belong to one.
func TestUnknownMembership(t *testing.T) {
	s := newFleetSite(t)
	if !s.hasSets() {
		t.Fatal("a host of a fleet has no sets for it")
	}
	away := s.dir + ".away"
	if err := os.Rename(s.dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.configure(`whitelist = ["198.51.100.0/24"]`)
	if _, errs := s.run(t, s.config, "apply"); !strings.Contains(errs, "the table keeps its sets of the fleet as they are: ") {
		t.Errorf("apply says %q", errs)
	}
	if !s.hasSets() {
		t.Error("the sets of the fleet are gone")
	}
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	s.run(t, s.config, "apply")
	if s.hasSets() {
		t.Error("a host of no fleet has sets for one")
	}
}
