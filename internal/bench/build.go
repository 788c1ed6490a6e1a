package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// build builds portmon as it is released, unless there is one already.
func (b *bench) build() (err error) {
	if b.portmon != "" {
		b.portmon, err = filepath.Abs(b.portmon)
		return err
	}
	b.portmon = filepath.Join(b.dir, "portmon")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.portmon, "github.com/portmon/portmon/cmd/portmon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build portmon: %w\n%s", err, out)
	}
	return nil
}

// file writes a file that the commands read, and returns its name.
func (b *bench) file(name, text string) (string, error) {
	path := filepath.Join(b.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// open opens a connection to the nf_tables of a host, which ends with the
// scope.
func open(t *scope, h *netnstest.Host) (*nftset.Conn, error) {
	c, err := nftset.Dial(&nftset.Config{NetNS: h.FD()})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// compile returns the table of a Spec on a kernel that can do everything.
func compile(spec ruleset.Spec) *ruleset.Table {
	return ruleset.Compile(spec, ruleset.Features{Log: true}, ruleset.Asked{})
}
