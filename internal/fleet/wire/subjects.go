// Package wire holds what the hosts of a fleet and its hub say to each other:
// subjects, messages, tokens and the pin of the hub's certificate. It has no
// network in it. Whatever it decodes was checked and is bounded.
package wire

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// The streams of a fleet.
const (
	Sightings = "SIGHTINGS" // what hosts saw
	Bans      = "BANS"      // what hubs ban, the last word on each source
	Hosts     = "HOSTS"     // what hubs know of each host
)

// The subjects of a fleet; a name of a host, or the key of a source, follows.
const (
	SightingPrefix = "portmon.sighting."
	BanPrefix      = "portmon.ban."
	HostPrefix     = "portmon.host."
	TellPrefix     = "portmon.tell."
	HelloPrefix    = "portmon.hello."
	JoinPrefix     = "portmon.join."
)

// InboxPrefix returns the prefix of all subjects on which a host gets answers,
// without the dot that follows it.
func InboxPrefix(host string) string { return "_INBOX_" + host }

// Permissions returns what a host may publish and subscribe to. Its consumer of
// [Bans] has the name of the host.
func Permissions(host string) (publish, subscribe []string) {
	publish = []string{SightingPrefix + host, HelloPrefix + host, JoinPrefix + host, "$JS.FC." + Bans + "." + host + ".>"}
	for _, call := range []string{"CREATE", "INFO", "DELETE", "MSG.NEXT"} {
		publish = append(publish, "$JS.API.CONSUMER."+call+"."+Bans+"."+host)
	}
	publish = append(publish, "$JS.API.CONSUMER.CREATE."+Bans+"."+host+"."+BanPrefix+">")
	return publish, []string{InboxPrefix(host) + ".>", TellPrefix + host}
}

// CheckHost reports what is wrong with the name of a host.
func CheckHost(name string) error {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	if name == "" || len(name) > 63 || strings.ContainsFunc(name, odd) {
		return errors.New(`want a name of 1 to 63 lower-case letters, digits and hyphens, such as "web-1"`)
	}
	return nil
}

// HostOf returns the host in a subject with that prefix.
func HostOf(prefix, subject string) (string, error) {
	host, ok := strings.CutPrefix(subject, prefix)
	if !ok || CheckHost(host) != nil {
		return "", fmt.Errorf("not a subject %s<host>", prefix)
	}
	return host, nil
}

// SourceOf returns the source that stands for an address in a fleet: itself, or
// its /64.
func SourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}

var errSource = errors.New("want a global unicast IPv4 address, or a global unicast IPv6 /64")

// CheckSource reports whether a source may be seen and banned by a fleet: it is
// as [SourceOf] makes it, and is global unicast.
func CheckSource(p netip.Prefix) error {
	if !p.IsValid() || p != SourceOf(p.Addr()) || !global(p) {
		return errSource
	}
	return nil
}

// special are networks in which no source of the internet is: those of RFC 6890
// that netip does not tell.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

func global(p netip.Prefix) bool {
	a := p.Addr()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !globalUnicast6.Contains(a) {
		return false
	}
	for _, s := range special {
		if s.Overlaps(p) {
			return false
		}
	}
	return true
}

// Key returns the last token of the subject of a source's ban.
func Key(source netip.Prefix) string {
	b := source.Addr().AsSlice()
	if source.Addr().Is4() {
		return "4-" + hex.EncodeToString(b)
	}
	return "6-" + hex.EncodeToString(b[:8])
}

// ParseKey returns the source of a key.
func ParseKey(key string) (netip.Prefix, error) {
	var p netip.Prefix
	b, err := hex.DecodeString(key[min(2, len(key)):])
	switch {
	case err != nil:
	case strings.HasPrefix(key, "4-") && len(b) == 4:
		p = netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), 32)
	case strings.HasPrefix(key, "6-") && len(b) == 8:
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], binary.BigEndian.Uint64(b))
		p = netip.PrefixFrom(netip.AddrFrom16(a), 64)
	}
	if CheckSource(p) != nil || Key(p) != key {
		return netip.Prefix{}, errors.New("not the key of a source")
	}
	return p, nil
}
