package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// parseAddr reads an address. IPv4 that is written as IPv6 is taken as IPv4.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address (names and zones are not accepted)", s)
	}
	return addr.Unmap(), nil
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

// maxReason is the length of the longest comment that nft reads, in bytes.
const maxReason = 128

// checkReason refuses what nft could not read back: its comments stand in
// quotes, and there is no escaping. mark is what will stand before it.
func checkReason(s, mark string) error {
	longest := maxReason - len(mark)
	switch {
	case len(s) > longest:
		return fmt.Errorf("--reason is %d bytes long: at most %d are possible", len(s), longest)
	case strings.ContainsFunc(s, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) || !utf8.ValidString(s):
		return fmt.Errorf("--reason %s: must be printable text on one line, without double quotes", strconv.Quote(s))
	}
	return nil
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
