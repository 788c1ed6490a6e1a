package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// portTrap is a trap port of the default.
const portTrap = 23

// target is a host with portmon's table, and a link to it from where sources knock on its trap ports.
type target struct {
	link *netnstest.Link // from A to B
	conn *nftset.Conn    // to the host's nf_tables
}

func newTarget(t *scope, ladder ...time.Duration) (*target, error) {
	outside, host := netnstest.NewHost(t, "outside"), netnstest.NewHost(t, "host")
	link := netnstest.Connect(t, outside, host, "192.0.2.0/24")
	host.DefaultVia(link.A.IPv4)
	conn, err := open(t, host)
	if err != nil {
		return nil, err
	}
	spec := ruleset.Default()
	if len(ladder) > 0 {
		spec.BanTime = ladder
	}
	_, err = ruleset.Apply(conn, spec)
	return &target{link, conn}, err
}

func (g *target) host() *netnstest.Host { return g.link.B.Host }

// burst returns what sends one trap packet from each source, as fast as they can be sent.
func (g *target) burst(t *scope, from []netip.Addr) (*injector, error) {
	frames := make([][]byte, len(from))
	for i, src := range from {
		p := netnstest.SYN(src, netip.AddrPortFrom(g.link.B.IPv4, portTrap))
		p.Src = netip.AddrPortFrom(src, 40000)
		var err error
		if frames[i], err = frame(g.link, p); err != nil {
			return nil, err
		}
	}
	return newInjector(t, g.link.A, frames)
}

// count returns how many elements a set of the table has.
func count(c *nftset.Conn, name string) (int, error) {
	sets, err := c.Sets(firstTier.Table)
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

// await returns when done does not return false. It asks again and again, with a pause after each time.
func await(what string, pause time.Duration, done func() (bool, error)) error {
	const patience = time.Minute
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pause) {
		if ok, err := done(); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: not within %v", what, patience)
}
