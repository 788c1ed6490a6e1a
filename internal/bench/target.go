package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// target is a host with a ruleset, and a link to it from where packets come.
type target struct {
	link *netnstest.Link // from A to B
	conn *nftset.Conn    // to the host's nf_tables
}

func newTarget(t *scope, c contender) (*target, error) {
	outside, host := netnstest.NewHost(t, "outside"), netnstest.NewHost(t, "host")
	link := netnstest.Connect(t, outside, host, "192.0.2.0/24", "2001:db8::/64")
	host.DefaultVia(link.A.IPv4, link.A.IPv6)
	conn, err := open(t, host)
	if err == nil {
		err = c.install(host)
	}
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", c.name, err)
	}
	return &target{link, conn}, nil
}

func (g *target) host() *netnstest.Host { return g.link.B.Host }

// address returns that of the host in the family of a source.
func (g *target) address(src netip.Addr) netip.Addr {
	if src.Is4() {
		return g.link.B.IPv4
	}
	return g.link.B.IPv6
}

// fill adds sources to a set, if the table has it.
func (g *target) fill(set *nftset.Set, addrs []netip.Addr) error {
	if ok, err := g.has(set); !ok {
		return err
	}
	return g.conn.AddSeq(set, elements(addrs))
}

// has tells whether the table has a set.
func (g *target) has(set *nftset.Set) (bool, error) {
	sets, err := g.conn.Sets(set.Table)
	return slices.ContainsFunc(sets, func(s nftset.Set) bool { return s.Name == set.Name }), err
}

// banned returns how many of these sources are in the set of those banned.
func (g *target) banned(addrs []netip.Addr) (n int, err error) {
	for _, a := range addrs {
		switch _, err := g.conn.Get(banSet(a.Is6()), key(a)); {
		case err == nil:
			n++
		case !errors.Is(err, os.ErrNotExist):
			return n, err
		}
	}
	return n, nil
}

// burst sends frames once, as fast as one CPU does, and returns the CPU time of
// one frame in nanoseconds.
func (g *target) burst(t *scope, frames [][]byte) (ns float64, err error) {
	in, err := newInjector(t, g.link.A, frames)
	if err != nil {
		return 0, err
	}
	err = pinned(func() error { ns, err = in.send(1); return err })
	return ns, err
}

// count returns how many elements a set of portmon's table has, if it is there.
func count(c *nftset.Conn, name string) (int, error) {
	sets, err := c.Sets(banSet(false).Table)
	if err != nil {
		return 0, err
	}
	for i := range sets {
		switch set := &sets[i]; {
		case set.Name != name:
		case set.Count >= 0:
			return set.Count, nil
		default: // before Linux 6.16
			n := 0
			for _, err := range c.Elements(set) {
				if err != nil {
					return 0, err
				}
				n++
			}
			return n, nil
		}
	}
	return 0, nil
}

// wantCount is the error that a set has another number of elements.
func wantCount(c *nftset.Conn, name string, want int) error {
	got, err := count(c, name)
	if err == nil && got != want {
		err = fmt.Errorf("set %s has %d elements, want %d", name, got, want)
	}
	return err
}
