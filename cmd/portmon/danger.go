package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// danger is what a ban would better not cover, and what would happen.
type danger struct {
	prefix netip.Prefix
	damage string
	// offends reports that it can be banned for an offence, too, and not by hand
	// alone.
	offends bool
}

func (d *danger) Error() string { return d.damage }
func (d *danger) Hint() string  { return "to ban it all the same, add --force" }

// dangers lists what is dangerous to ban, the worst first, and each once. What
// is exempt is not: no ban has an effect on it.
func (p *cli) dangers(facts route.Facts, exempt func(netip.Prefix) (bool, error)) (all []danger, err error) {
	seen := make(map[netip.Prefix]bool)
	add := func(offends bool, format string, prefixes ...netip.Prefix) {
		for _, prefix := range prefixes {
			if seen[prefix] {
				continue
			}
			seen[prefix] = true
			safe, fault := exempt(prefix)
			if err = cmp.Or(err, fault); !safe {
				all = append(all, danger{prefix, fmt.Sprintf(format, text.Prefix(prefix)), offends})
			}
		}
	}
	if peer, ok := p.sshPeer(); ok {
		add(true, "you are connected by SSH from %s, and would be locked out", alone(peer)...)
	}
	add(false, "%s is a network of this host: all its neighbours there would be locked out", slices.Concat(facts.OnLink4, facts.OnLink6)...)
	add(true, "%s is the default gateway: whatever comes in its name would be dropped, "+
		"translated connections included", alone(facts.Gateways...)...)
	add(false, "%s is a resolver of this host: all but its answers would be dropped", alone(names.Resolvers()...)...)
	add(false, "%s is an address of this host: another that takes it over would be locked out", alone(facts.Own...)...)
	return all, err
}

// alone returns the prefixes that are an address each.
func alone(addrs ...netip.Addr) (prefixes []netip.Prefix) {
	for _, a := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// adviseAllowing warns of who can be banned for an offence and should not be,
// once there is a table by that plan.
func (p *cli) adviseAllowing(h *ruleset.Handle, plan *ruleset.Plan, conf *config.Config, facts route.Facts) {
	if s := conf.Spec; s.Observe || len(s.TrapTCP)+len(s.TrapUDP)+s.Scan.Ports == 0 {
		return // nobody is
	}
	all, err := p.dangers(facts, func(prefix netip.Prefix) (bool, error) {
		if plan.Table.Whitelists(nftset.Prefix(prefix).Interval) || comesBy(conf.Spec.Interfaces, prefix.Addr()) != "" {
			return true, nil
		}
		reason, err := h.Exempt(prefix)
		return errors.As(reason, new(*ruleset.AllowedError)), err
	})
	if err != nil {
		p.warn("who is allowed is not known: %v", err)
	}
	var addrs, quoted []string
	for _, d := range all {
		if d.offends {
			p.warn("neither whitelisted nor allowed: %s", d.damage)
			addrs, quoted = append(addrs, d.prefix.Addr().String()), append(quoted, strconv.Quote(d.prefix.Addr().String()))
		}
	}
	if len(addrs) > 0 {
		p.hint("`portmon allow %s` for now; for good, add %s to whitelist in %s", strings.Join(addrs, " "), strings.Join(quoted, ", "),
			cmp.Or(conf.Source, config.DefaultPath+", which `portmon config init` writes"))
	}
}

// comesBy returns by which one of these interfaces packets from an address come
// in, as far as the route to it tells; "" if by another. A name may end in *.
func comesBy(interfaces []string, a netip.Addr) string {
	if len(interfaces) == 0 {
		return ""
	}
	back, err := route.Back(a, "")
	for _, name := range interfaces {
		begin, open := strings.CutSuffix(name, "*")
		if err == nil && (name == back.Device || open && strings.HasPrefix(back.Device, begin)) {
			return back.Device
		}
	}
	return ""
}

// markDangers gives an error to targets whose ban would do damage that was
// hardly meant.
func (p *cli) markDangers(h *ruleset.Handle, targets []*target) error {
	facts, err := p.routes()
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	dangers, err := p.dangers(facts, func(prefix netip.Prefix) (bool, error) {
		reason, err := h.Exempt(prefix)
		return reason != nil, err
	})
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

// nat64 is where NAT64 has all of IPv4 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// tooWide returns a danger if targets, which are the parts of one, cover more
// than hardly anybody means.
func tooWide(parts []*target) *danger {
	limit, damage := 8, "%.0f million addresses would be locked out"
	if parts[0].source.Addr().Is6() {
		limit, damage = 32, "the customers of %.0f providers or more would be locked out"
	}
	times := 0.0 // the limit
	for _, t := range parts {
		if bits := t.source.Bits(); nat64.Overlaps(t.source) && bits < nat64.Bits()+8 {
			return &danger{damage: fmt.Sprintf("%s is more than a /8 of IPv4, as NAT64 translates it: %.0f million addresses would be locked out",
				t.text, math.Ldexp(1, 128-max(bits, nat64.Bits()))/1e6)}
		}
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
	return &danger{damage: fmt.Sprintf("%s is more than a /%d: %s", parts[0].text, limit, damage)}
}
