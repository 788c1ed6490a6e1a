package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/addrlist"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// target is an address or a prefix that the user named.
type target struct {
	text   string // as it was written
	prefix netip.Prefix
	// address reports that it was an address: prefix holds it alone.
	address bool
	// source is the prefix to ban or unban: of an address the prefix by which it
	// is banned. See resolve.
	source netip.Prefix
	// line is its line in the list that it is from; 0 for an argument.
	line int
}

// parseTarget reads an address, a prefix, or a range, which becomes one or more
// prefixes. Bits beyond the length of a prefix are dropped.
func parseTarget(s string) ([]target, error) {
	if !strings.ContainsAny(s, "/-") {
		addr, err := parseAddr(s)
		if err != nil {
			return nil, err
		}
		return []target{{text: s, prefix: netip.PrefixFrom(addr, addr.BitLen()), address: true}}, nil
	}
	prefixes, err := addrlist.Parse(s)
	if err != nil {
		return nil, badTarget(s, err)
	}
	var all []target
	for _, p := range prefixes {
		all = append(all, target{text: s, prefix: p})
	}
	return all, nil
}

// badTarget explains an error of addrlist.
func badTarget(s string, err error) error {
	what := "address"
	switch {
	case errors.Is(err, addrlist.ErrSyntax):
		return fmt.Errorf("%q is not an IP address, a prefix or a range", s)
	case strings.Contains(s, "/"):
		what = "prefix"
	case strings.Contains(s, "-"):
		what = "range"
	}
	return fmt.Errorf("%q is not a valid %s: %w", s, what, err)
}

// parseAddr reads an address. IPv4 that is written as IPv6 is taken as IPv4.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address (hostnames are not accepted)", s)
	case addr.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone, but bans hold on all interfaces: leave out %%%s", s, addr.Zone())
	}
	return addr.Unmap(), nil
}

// parseTargets reads all arguments, and reports all that are wrong.
func parseTargets(cmd *cobra.Command, args []string) ([]target, error) {
	var targets []target
	var errs []error
	for _, arg := range args {
		t, err := parseTarget(arg)
		targets, errs = append(targets, t...), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage(cmd, "%w", err)
	}
	return targets, nil
}

// resolve fills in the sources of targets.
func resolve(h *ruleset.Handle, targets []target) (err error) {
	for i := range targets {
		t := &targets[i]
		if t.source = t.prefix; t.address {
			if t.source, err = h.Source(t.prefix.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// name returns the source and, if that is not what the user wrote, why.
func (t target) name() string {
	p, err := netip.ParsePrefix(t.text)
	switch {
	case t.address && !t.source.IsSingleIP():
		return text.Prefix(t.source) + ", the network of " + t.prefix.Addr().String() + ","
	case err == nil && p != p.Masked():
		return text.Prefix(t.source) + ", the network of " + t.text + ","
	}
	return text.Prefix(t.source)
}

// forever is a ban duration that the user may name in words.
const forever = "forever"

func parseBanTime(s string) (time.Duration, error) {
	if s == forever {
		return ruleset.Forever, nil
	}
	d, err := text.ParseDuration(s, time.Second, ruleset.MaxBanTime)
	if err != nil {
		return 0, fmt.Errorf(`--for %s: %w, or "forever"`, s, err)
	}
	return d, nil
}

// noArgs is the check of arguments for a command that takes none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(cmd, "%s takes no arguments: unexpected %q", cmd.Name(), args[0])
	}
	return nil
}

// noTwoOf returns an error if more than one of the flags is given.
func noTwoOf(cmd *cobra.Command, flags ...string) error {
	given := slices.DeleteFunc(flags, func(name string) bool { return !cmd.Flags().Changed(name) })
	if len(given) > 1 {
		return usage(cmd, "--%s and --%s cannot be combined", given[0], given[1])
	}
	return nil
}
