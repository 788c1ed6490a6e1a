package netnstest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settings are those in which a host differs from the kernel's defaults, or
// which a new namespace may take from the machine's
// (net.core.devconf_inherit_init_net: by default it takes those of IPv4). An
// interface takes over "default".
var settings = []struct{ key, value string }{
	// Distributions filter reverse paths loosely. Spoofed packets must reach
	// the rules under test instead.
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	// Probe counts on answers to ARP for any address of the host; see fence.go.
	{"net.ipv4.conf.all.arp_ignore", "0"},
	{"net.ipv4.conf.default.arp_ignore", "0"},
	{"net.ipv4.conf.all.arp_filter", "0"},
	{"net.ipv4.conf.default.arp_filter", "0"},
	// No answer shall be missing for being one of many.
	{"net.ipv4.icmp_ratelimit", "0"},
	{"net.ipv4.icmp_ratemask", "0"},
	{"net.ipv6.icmp.ratelimit", "0"},
	{"net.ipv6.icmp.ratemask", ""}, // since Linux 5.2
	{"net.ipv4.conf.all.send_redirects", "0"},
	{"net.ipv4.conf.default.send_redirects", "0"},
	// Container engines turn IPv6 off by default.
	{"net.ipv6.conf.all.disable_ipv6", "0"},
	{"net.ipv6.conf.default.disable_ipv6", "0"},
	// Addresses are of use at once, and nobody asks for routers.
	{"net.ipv6.conf.all.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.all.accept_ra", "0"},
	{"net.ipv6.conf.default.accept_ra", "0"},
}

// configure makes a namespace into a host: settings, loopback, and the address
// that a fence asks for.
func (h *Host) configure() error {
	for _, s := range settings {
		err := h.sysctl(s.key, s.value)
		if errors.Is(err, fs.ErrNotExist) && s.key == "net.ipv6.icmp.ratemask" {
			continue
		}
		if err != nil {
			return err
		}
	}
	lo, err := h.rtnl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.rtnl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	// Of host scope, so that the kernel never chooses it as a source.
	dummy := &netlink.Addr{IPNet: netlink.NewIPNet(fenceAddr.AsSlice()), Scope: unix.RT_SCOPE_HOST}
	if err := h.rtnl.AddrAdd(lo, dummy); err != nil {
		return fmt.Errorf("add %s to lo: %w", fenceAddr, err)
	}
	return nil
}

// Sysctl sets a setting of the host's network, by the name that sysctl(8) uses:
// net.ipv4.ip_forward. Where the name of an interface has a dot in it, separate
// by slashes instead.
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	h.check(h.sysctl(key, value))
}

func (h *Host) sysctl(key, value string) (err error) {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	// The files of /proc/sys/net are those of the namespace of the thread that
	// opens them.
	enterErr := onThread(h.enter, func() {
		err = write("/proc/sys/"+path, value+"\n")
	})
	if err = errors.Join(enterErr, err); err != nil {
		return fmt.Errorf("set %s to %q: %w", key, value, err)
	}
	return nil
}

// write differs from os.WriteFile in not asking to create the file: in procfs
// that is EACCES where ENOENT tells more.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Forward makes the host a router, for IPv4 and IPv6.
func (h *Host) Forward() {
	h.t.Helper()
	h.Sysctl("net.ipv4.ip_forward", "1")
	h.Sysctl("net.ipv6.conf.all.forwarding", "1")
}
