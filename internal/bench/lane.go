package main

import (
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// contender is one of those that are measured beside each other: a name, and what puts its ruleset into a host.
type contender struct {
	name string
	// drops tells whether the ruleset drops what comes from banned sources.
	drops   bool
	install func(*netnstest.Host) error
}

// lane is a client and a server with the ruleset of a contender, and what the client sends.
type lane struct {
	contender
	link  *netnstest.Link
	flows []*injector // in the order of the flows
}

// newLane makes the hosts.
func newLane(t *scope, c contender) (*lane, error) {
	client, server := netnstest.NewHost(t, "client"), netnstest.NewHost(t, "server")
	link := netnstest.Connect(t, client, server, "192.0.2.0/24", "2001:db8::/64")
	server.DefaultVia(link.A.IPv4, link.A.IPv6)
	client.AddAddr("lo", innocents.String()) // all of the network is the client's: it is on lo
	client.Sysctl("net.ipv4.tcp_timestamps", "0")

	if err := c.install(server); err != nil {
		return nil, fmt.Errorf("install %s: %w", c.name, err)
	}
	if c.drops {
		if err := loadNFT(server, elementsText(append(bannedAddrs(), randomAddrs(otherBans)...))); err != nil {
			return nil, fmt.Errorf("ban in %s: %w", c.name, err)
		}
	}
	l := &lane{contender: c, link: link}
	for _, f := range flows {
		frames, err := f.frames(t, l)
		if err != nil {
			return nil, fmt.Errorf("prepare %s for %s: %w", f.name, c.name, err)
		}
		in, err := newInjector(t, link.A, frames)
		if err != nil {
			return nil, err
		}
		l.flows = append(l.flows, in)
	}
	return l, nil
}

func bannedAddrs() []netip.Addr {
	addrs := make([]netip.Addr, sources)
	for i := range addrs {
		addrs[i] = nth(banned, i+1)
	}
	return addrs
}

// nth returns the i-th address of a prefix.
func nth(p netip.Prefix, i int) netip.Addr {
	a := p.Addr().AsSlice()
	if p.Addr().Is4() {
		a[3] += byte(i)
	} else {
		a[7] += byte(i) // sources of IPv6 differ in the /64, by which they are banned
		a[15]++
	}
	out, _ := netip.AddrFromSlice(a)
	return out
}

// loadNFT has nft load a ruleset into a host.
func loadNFT(h *netnstest.Host, text string) (err error) {
	h.Do(func() { err = runNFT(strings.NewReader(text), "-f", "-") })
	return err
}

func runNFT(stdin io.Reader, args ...string) error {
	cmd := exec.Command("nft", args...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %.500s", strings.Join(args, " "), err, out)
	}
	return nil
}

// apply installs the table of a Spec as portmon does.
func apply(h *netnstest.Host, spec ruleset.Spec) error {
	c, err := nftset.Dial(&nftset.Config{NetNS: h.FD()})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = ruleset.Apply(c, spec)
	return err
}
