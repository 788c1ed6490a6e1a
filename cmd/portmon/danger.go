package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/portmon/portmon/ruleset"
)

// danger is what a ban by hand would better not cover, and what would happen.
type danger struct {
	prefix netip.Prefix
	error  string
}

func (d *danger) Error() string { return d.error }
func (d *danger) Hint() string  { return "to ban it all the same, add --force" }

// dangers lists what is dangerous to ban, the worst first. What is whitelisted
// is not: no ban has an effect on it.
func (p *cli) dangers(h *ruleset.Handle) ([]danger, error) {
	facts, err := p.routes()
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	var all []danger
	add := func(format string, addrs ...netip.Addr) {
		for _, a := range addrs {
			all = append(all, danger{netip.PrefixFrom(a, a.BitLen()), fmt.Sprintf(format, a)})
		}
	}
	if peer, ok := p.sshPeer(); ok {
		add("you are connected by SSH from %s, and would be locked out", peer)
	}
	for _, network := range slices.Concat(facts.OnLink4, facts.OnLink6) {
		all = append(all, danger{network, network.String() + " is a network of this host: all its neighbours there would be locked out"})
	}
	add("%s is the default gateway: whatever comes in its name would be dropped, as from those behind it "+
		"whose addresses it translates", facts.Gateways...)
	add("%s is a resolver of this host: all but its answers would be dropped", resolvers()...)
	add("%s is an address of this host: another that takes it over would be locked out", facts.Own...)
	prefixes := make([]netip.Prefix, len(all))
	for i, d := range all {
		prefixes[i] = d.prefix
	}
	harmless, err := h.Check(prefixes...)
	for i := range harmless {
		if harmless[i] != nil {
			all[i].error = ""
		}
	}
	return slices.DeleteFunc(all, func(d danger) bool { return d.error == "" }), err
}

// markDangers gives an error to targets whose ban would do damage that was
// hardly meant.
func (p *cli) markDangers(h *ruleset.Handle, targets []*target) error {
	dangers, err := p.dangers(h)
	if err != nil {
		return err
	}
	worst := make(map[netip.Prefix]*danger) // by each prefix that covers one
	for i, d := range dangers {
		for bits := d.prefix.Bits(); bits >= 0; bits-- {
			around := netip.PrefixFrom(d.prefix.Addr(), bits).Masked()
			if worst[around] == nil {
				worst[around] = &dangers[i]
			}
		}
	}
	for len(targets) > 0 {
		n, first := 1, targets[0] // a range is several, and is banned as a whole or not at all
		for n < len(targets) && targets[n].text == first.text && targets[n].line == first.line {
			n++
		}
		found := tooWide(targets[:n])
		for _, t := range targets[:n] {
			if d := worst[t.source]; d != nil {
				found = d
				break
			}
		}
		for _, t := range targets[:n] {
			if t.err == nil && found != nil {
				if t.err = found; t.line == 0 {
					break // that is reported once, and nothing is banned
				}
			}
		}
		targets = targets[n:]
	}
	return nil
}

// tooWide returns a danger if targets, which are the parts of one, cover more
// than hardly anybody means.
func tooWide(parts []*target) *danger {
	limit, damage := 8, "%.0f million addresses would be locked out"
	if parts[0].source.Addr().Is6() {
		limit, damage = 32, "the customers of %.0f providers or more would be locked out"
	}
	times := 0.0 // the limit
	for _, t := range parts {
		times += math.Ldexp(1, limit-t.source.Bits())
	}
	switch {
	case times <= 1:
		return nil
	case limit == 8:
		damage = fmt.Sprintf(damage, math.Ldexp(times, 24)/1e6)
	default:
		damage = fmt.Sprintf(damage, times)
	}
	return &danger{error: fmt.Sprintf("%s is more than a /%d: %s", parts[0].text, limit, damage)}
}

// resolvers returns those that this host asks for names. Behind the one that
// systemd runs on this host are those that it asks in turn.
func resolvers() []netip.Addr {
	stub := netip.AddrFrom4([4]byte{127, 0, 0, 53})
	found := resolversIn("/etc/resolv.conf")
	if slices.Contains(found, stub) {
		found = append(found, resolversIn("/run/systemd/resolve/resolv.conf")...)
	}
	return found
}

// resolversIn reads a resolv.conf(5); none if there is no such file.
func resolversIn(file string) (found []netip.Addr) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "nameserver" {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				found = append(found, a.Unmap().WithZone(""))
			}
		}
	}
	return found
}
