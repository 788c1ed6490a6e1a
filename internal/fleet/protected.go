package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/route"
)

// protected are the sources that a fleet must not ban, and why: whatever this
// host needs. Whom its table whitelists or allows is for that to know.
type protected map[netip.Prefix]string

// lookAround finds what is to be protected now.
func lookAround(hubs []netip.Addr) (protected, error) {
	p := make(protected)
	add := func(why string, addrs ...netip.Addr) {
		for _, a := range addrs {
			if source := wire.SourceOf(a); p[source] == "" {
				p[source] = why
			}
		}
	}
	facts, err := route.Read(0)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	add("own address", facts.Own...)
	for _, n := range facts.OnLink6 {
		add("own network", n.Addr())
	}
	add("gateway", facts.Gateways...)
	add("resolver", names.Resolvers()...)
	add("hub", hubs...)
	peers, err := peersOfOurs()
	if err != nil {
		return nil, err
	}
	add("connected", peers...)
	return p, nil
}

// peersOfOurs returns the far ends of the connections that this host has opened:
// those that do not end at a port where it listens. Who has connected to it is not
// safe for that.
func peersOfOurs() (peers []netip.Addr, err error) {
	listening, err := listeners.Read("tcp")
	if err != nil {
		return nil, fmt.Errorf("read sockets: %w", err)
	}
	ports := make(map[uint16]bool)
	for _, s := range listening {
		ports[s.Addr.Port()] = true
	}
	connected, err := listeners.Connected()
	if err != nil {
		return nil, fmt.Errorf("read sockets: %w", err)
	}
	for _, s := range connected {
		if !ports[s.Addr.Port()] {
			peers = append(peers, s.Peer.Addr())
		}
	}
	return peers, nil
}

// addrsOf returns the addresses that the URLs of hubs name, as far as they can be
// found out.
func addrsOf(ctx context.Context, urls []string) (addrs []netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil {
			found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
			addrs = append(addrs, found...)
		}
	}
	return addrs
}

// ignoreMissing returns an error but that there is no such file.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
