// Package banlab is the lab with portmon's table on its host.
package banlab

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Lab is a lab with a connection to the kernel of its host.
type Lab struct {
	*lab.Lab
	Conn *nftset.Conn
}

// New makes a lab whose host serves, and has no table yet.
func New(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{Lab: lab.New(t)}
	l.Serve()
	l.Conn = Dial(t, l.Host)
	return l
}

// Dial opens a connection to the kernel of a host.
func Dial(t testing.TB, h *netnstest.Host) *nftset.Conn {
	t.Helper()
	c, err := nftset.Dial(&nftset.Config{NetNS: h.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Apply puts the table of a Spec in force.
func (l *Lab) Apply(spec ruleset.Spec) {
	l.T.Helper()
	if _, err := ruleset.Apply(l.Conn, spec); err != nil {
		l.T.Fatal(err)
	}
}

// Open returns a handle of the table, which has the default name.
func (l *Lab) Open() *ruleset.Handle {
	l.T.Helper()
	h, err := ruleset.Open(l.Conn, ruleset.Default().Table)
	if err != nil {
		l.T.Fatal(err)
	}
	return h
}

// Lookup returns what the table has of an address.
func (l *Lab) Lookup(a netip.Addr) ruleset.Standing {
	l.T.Helper()
	st, err := l.Open().Lookup(a)
	if err != nil {
		l.T.Fatal(err)
	}
	return st
}

// AwaitFree returns when none of the sources is banned any more. The kernel
// makes no event of that.
func (l *Lab) AwaitFree(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		lab.Await(l.T, fmt.Sprint(src, " is free"), func() bool { return !l.Lookup(src).Banned() })
	}
}
