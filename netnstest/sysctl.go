package netnstest

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settings are those in which a host differs from the kernel's defaults, or
// which a new namespace may take from the machine's
// (net.core.devconf_inherit_init_net: by default it takes those of IPv4). "*"
// stands for both "all" and "default", which an interface takes over.
var settings = []struct{ key, value string }{
	// Distributions filter reverse paths loosely. Spoofed packets must reach
	// the rules under test instead.
	{"net.ipv4.conf.*.rp_filter", "0"},
	// Probe counts on answers to ARP for any address of the host; see send.go.
	{"net.ipv4.conf.*.arp_ignore", "0"},
	{"net.ipv4.conf.*.arp_filter", "0"},
	// No answer shall be missing for being one of many.
	{"net.ipv4.icmp_ratelimit", "0"},
	{"net.ipv4.icmp_ratemask", "0"},
	{"net.ipv6.icmp.ratelimit", "0"},
	{"net.ipv6.icmp.ratemask", ""},
	{"net.ipv4.conf.*.send_redirects", "0"},
	// Container engines turn IPv6 off by default.
	{"net.ipv6.conf.*.disable_ipv6", "0"},
	// Addresses are of use at once, nobody asks for routers, and link-local
	// addresses are those of Connect.
	{"net.ipv6.conf.*.accept_dad", "0"},
	{"net.ipv6.conf.*.accept_ra", "0"},
	{"net.ipv6.conf.default.addr_gen_mode", "1"},
}

// configure makes a namespace into a host: settings, loopback, and the address
// that a fence asks for.
func (h *Host) configure() error {
	for _, s := range settings {
		for _, interfaces := range []string{"all", "default"} {
			if err := h.sysctl(strings.Replace(s.key, "*", interfaces, 1), s.value); err != nil {
				return err
			}
		}
	}
	if err := upLoopback(h.rtnl); err != nil {
		return err
	}
	// Of host scope, so that the kernel never chooses it as a source.
	dummy := &netlink.Addr{IPNet: netlink.NewIPNet(fenceAddr.AsSlice()), Scope: unix.RT_SCOPE_HOST}
	if err := h.rtnl.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}, dummy); err != nil {
		return fmt.Errorf("add %s to lo: %w", fenceAddr, err)
	}
	return nil
}

// Sysctl sets a setting of the host's network, by the name that sysctl(8) uses:
// net.ipv4.ip_forward.
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	h.check(h.sysctl(key, value))
}

func (h *Host) sysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	// The files of /proc/sys/net are those of the namespace of the thread that
	// opens them.
	err := h.do(func() error { return os.WriteFile(path, []byte(value+"\n"), 0) })
	if err != nil {
		return fmt.Errorf("set %s to %q: %w", key, value, err)
	}
	return nil
}

// Forward makes the host a router, for IPv4 and IPv6.
func (h *Host) Forward() {
	h.t.Helper()
	h.Sysctl("net.ipv4.ip_forward", "1")
	h.Sysctl("net.ipv6.conf.all.forwarding", "1")
}
