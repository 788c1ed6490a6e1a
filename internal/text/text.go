// Package text writes what several parts of portmon show to people, so that it
// looks the same everywhere.
package text

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Prefix writes a prefix the short way: a single address without its length,
// and "" for the zero value.
func Prefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return ""
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// Plural returns "1 ban", "2 bans".
func Plural(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}

// Protocol returns "tcp", "udp", the number of any other IP protocol, or "" for
// 0, which is one that is not known.
func Protocol(proto uint8) string {
	switch proto {
	case 0:
		return ""
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return strconv.Itoa(int(proto))
}
