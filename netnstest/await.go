package netnstest

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// patience is how long is waited for what the kernel does in the background:
// long, since it ends a test that fails. One test makes it shorter.
var patience = 10 * time.Second

// askAgain is how long is waited for an announcement before asking without one:
// the kernel announces an IPv6 route a moment before a look-up finds it, and
// nothing comes after that.
const askAgain = 50 * time.Millisecond

// await does what act says, if not nil, and returns as soon as done says true.
// It asks done each time that the kernel announces a change to links, addresses
// or routes, since rtnetlink answers requests before all of their effect is
// there.
func (h *Host) await(what string, act func() error, done func() (bool, error)) error {
	var (
		events *nl.NetlinkSocket
		err    error
	)
	enterErr := onThread(h.enter, func() {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	})
	if err = errors.Join(enterErr, err); err != nil {
		return fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	defer events.Close()
	timeout := unix.NsecToTimeval(askAgain.Nanoseconds())
	if err := events.SetReceiveTimeout(&timeout); err != nil {
		return fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	if act != nil {
		if err := act(); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); ; {
		if ok, err := done(); ok || err != nil {
			return err
		}
		_, _, err := events.Receive()
		switch {
		case err == nil || errors.Is(err, unix.ENOBUFS): // an overrun is an announcement too
		case errors.Is(err, unix.EAGAIN) && time.Now().Before(deadline):
		default:
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// isLocal reports whether the host takes packets to ip for its own. An IPv6
// address gets there some time after it was added: the kernel leaves that to a
// work queue, even without duplicate address detection.
func (h *Host) isLocal(ip net.IP) (bool, error) {
	routes, err := h.rtnl.RouteGet(ip)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up route to %s: %w", ip, err)
	}
	return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
}

// whole repeats a listing until nothing changed while the kernel told it, which
// on slow machines happens to every new link: the kernel itself is still adding
// addresses and routes.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
}
