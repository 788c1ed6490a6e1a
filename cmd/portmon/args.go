package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/ruleset"
)

// target is an address or a prefix that the user named.
type target struct {
	text   string // as it was written
	prefix netip.Prefix
	// address tells that it was an address: prefix holds it alone.
	address bool
}

// parseTarget reads an address or a prefix. Of a prefix, bits that it does not hold are dropped; prefix then says less than text.
func parseTarget(s string) (target, error) {
	if addr, err := parseAddr(s); err == nil {
		return target{s, netip.PrefixFrom(addr, addr.BitLen()), true}, nil
	} else if !strings.Contains(s, "/") {
		return target{}, err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return target{}, fmt.Errorf("%q is no prefix: want one such as 192.0.2.0/24 or 2001:db8::/48", s)
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return target{}, fmt.Errorf("%q is more than all of IPv4, written as IPv6", s)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return target{s, p.Masked(), false}, nil
}

// parseAddr reads an address. IPv4 that is written as IPv6 is taken as IPv4.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is no address: want one such as 192.0.2.7 or 2001:db8::7, not a name", s)
	case addr.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone, which no ban knows of: leave out %%%s", s, addr.Zone())
	}
	return addr.Unmap(), nil
}

// parseTargets reads all arguments, and tells all that are wrong.
func parseTargets(cmd *cobra.Command, args []string) ([]target, error) {
	var targets []target
	var errs []error
	for _, arg := range args {
		t, err := parseTarget(arg)
		targets, errs = append(targets, t), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage(cmd, "%w", err)
	}
	return targets, nil
}

// masked reports whether the target has bits set that its prefix does not hold.
func (t target) masked() bool {
	p, err := netip.ParsePrefix(t.text)
	return err == nil && p != p.Masked()
}

// source returns the prefix to ban or unban for a target: for an address, the prefix by which addresses are banned.
func (t target) source(s *ruleset.State) netip.Prefix {
	if t.address {
		return s.Source(t.prefix.Addr())
	}
	return t.prefix
}

// ban durations that the user may name in words.
const forever = "forever"

func parseBanTime(s string) (time.Duration, error) {
	if s == forever {
		return ruleset.Forever, nil
	}
	d, err := config.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf(`--for %s: %w, or "forever"`, s, err)
	}
	return d, nil
}

// noArgs is the check of arguments for a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(cmd, "%s takes no argument, but here is %q", cmd.Name(), args[0])
	}
	return nil
}

// noTwoOf returns an error if more than one of the flags is given.
func noTwoOf(cmd *cobra.Command, flags ...string) error {
	given := slices.DeleteFunc(flags, func(name string) bool { return !cmd.Flags().Changed(name) })
	if len(given) > 1 {
		return usage(cmd, "--%s and --%s do not go together", given[0], given[1])
	}
	return nil
}
