package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// alwaysWhitelisted are the unspecified addresses, from which DHCP clients and
// duplicate address detection send, loopback, and link-local, from which
// neighbour discovery and DHCP servers send.
var alwaysWhitelisted = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/128", "::1/128", "fe80::/10")

// alwaysSingle are the prefixes of NAT64 (RFC 6052, RFC 8215): many hosts of
// IPv4 share each /64 of them.
var alwaysSingle = prefixes("64:ff9b::/96", "64:ff9b:1::/48")

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Priorities of the base chains.
const (
	// earlyPriority is that of nft's "raw": before conntrack (-200), whose work
	// for the SYN of a banned source is saved.
	earlyPriority = -300
	// guardPriority is just behind dstnat (-100): what was translated has its
	// new destination, so that a routing lookup shows whether it is for this
	// host itself. It is before the filter chains (0) of other tables, so that
	// they need not let packets to trap ports in.
	guardPriority = -99
)

const (
	// subnetTime is how long a subnet is banned.
	subnetTime = 3 * 24 * time.Hour
	// crowdTime is the time within which its sources must offend.
	crowdTime = 7 * 24 * time.Hour
	// maxSubnets bounds the subnets that are banned. Each covers up to 65,536
	// sources.
	maxSubnets = 4096
	// ownSize bounds the networks that this host has addresses in.
	ownSize = 1024
	// servedSize bounds the ports that are served.
	servedSize = 16384
	// ownLen is the prefix length of a network of this host.
	ownLen = 64
)

// memoryTime is how long the step is remembered of a source that is banned for
// it.
func (s Spec) memoryTime(step int) time.Duration { return s.BanTime[step-1] + s.Forget }

// after returns the step of the next offence of a source whose last was of a
// step, 0 for none.
func (s Spec) after(step int) int { return min(step+1, len(s.BanTime)) }

// counts reports whether sources are remembered that asked for closed ports.
func (s Spec) counts() bool { return s.Scan.Ports > 1 }

// lastBan is the longest ban of the ladder.
func (s Spec) lastBan() time.Duration { return s.BanTime[len(s.BanTime)-1] }

func (s Spec) hasTraps() bool { return len(s.TrapTCP)+len(s.TrapUDP) > 0 }

// offends reports whether there is any way to offend by a protocol.
func (s Spec) offends(proto byte) bool {
	if proto == unix.IPPROTO_UDP {
		return len(s.TrapUDP) > 0
	}
	return len(s.TrapTCP) > 0 || s.Scan.Ports > 0
}

// singles reports whether there are IPv6 sources that are banned one by one
// although others are not.
func (s Spec) singles() bool { return s.Prefix6 < 128 }

// subnetOf returns how many sources of a subnet must offend, 0 if that is off.
func (s Spec) subnetOf(f family) int {
	switch {
	case !f.is6():
		return s.Subnet4
	case s.Prefix6 > f.subnetLen:
		return s.Subnet6
	}
	return 0
}

// protocols are those that a source can offend by.
func (s Spec) protocols() []byte {
	return slices.DeleteFunc([]byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP}, func(p byte) bool { return !s.offends(p) })
}

// remembersServed reports whether there are sets of the open ports that are not
// traps.
func (s Spec) remembersServed() bool { return s.Grace > 0 && s.counts() }

// graceProtocols are those for which it is remembered where a program listened.
func (s Spec) graceProtocols() []byte {
	if s.Grace == 0 {
		return nil
	}
	return s.protocols()
}

// askedNets says which sets of prefixes hold something, so that the guard asks
// them. An empty one would cost every packet some 40 to 80 ns all the same.
type askedNets [len(families)]bool

// Compile makes the table of a valid Spec.
func Compile(s Spec) *Table { return compile(s, askedNets{}) }

func compile(s Spec, asked askedNets) *Table {
	t := &Table{
		Table:    nftset.Table{Family: nftset.FamilyINet, Name: s.Table},
		Counters: slices.Clone(counters),
		Prefix6:  s.Prefix6,
		Observe:  s.Observe,
	}
	if s.Fleet > 0 {
		t.Counters = append(t.Counters, CounterFleet)
	}
	t.compileSets(s)
	t.Chains = chains(s, askedNets{})
	h := sha256.New()
	t.Write(h) // a hash never fails to write
	t.Digest = hex.EncodeToString(h.Sum(nil)[:8])
	if asked != (askedNets{}) { // which has no part in the digest
		t.Chains = chains(s, asked)
	}
	// Of all comments in a table only those of rules can change later.
	guard := findChain(t.Chains, chainGuard)
	guard.Rules[len(guard.Rules)-1].Comment = sealComment(t.Digest, t.Prefix6, t.Observe)
	return t
}

func (t *Table) compileSets(s Spec) {
	for _, f := range families {
		t.static(f.whitelist(), f.key, nftset.FlagInterval, s.whitelist(f))
	}
	if s.singles() {
		single := families[1].merge(slices.Concat(alwaysSingle, s.Single6))
		t.static(setSingle6, nftset.IPv6Addr, nftset.FlagInterval, single)
		t.add(nftset.Set{Name: setOwn6, Type: nftset.IPv6Addr, Flags: nftset.FlagDynamic, Size: ownSize})
	}
	for _, f := range families {
		t.add(nftset.Set{Name: f.allow(), Type: f.key, Flags: nftset.FlagInterval | nftset.FlagTimeout})
		t.dynamic(f.ban(), f.key, s.BanTime[0], s.Size)
		t.add(nftset.Set{Name: f.net(), Type: f.key, Flags: nftset.FlagInterval | nftset.FlagTimeout})
		t.dynamic(f.cut(), f.pair, s.lastBan(), s.Size)
		if s.subnetOf(f) > 0 {
			t.dynamic(f.subnet(), f.key, subnetTime, min(s.Size, maxSubnets))
			t.dynamic(f.crowd(), f.key, crowdTime, s.Size)
		}
		for step := 1; step <= len(s.BanTime); step++ {
			t.dynamic(f.tier(step), f.key, s.memoryTime(step), 2*s.Size)
		}
		if s.Scan.Ports > 0 {
			t.dynamic(f.scanner(), f.key, s.memoryTime(len(s.BanTime)), 2*s.Size)
		}
		if s.counts() {
			t.dynamic(f.probed(), f.pair, s.Scan.FindTime, 4*s.Size)
			t.dynamic(f.score(), f.key, s.Scan.FindTime, 4*s.Size)
		}
		if s.MaxRetry > 1 {
			t.dynamic(f.hits(), f.key, s.FindTime, s.Size)
		}
		if s.remembersServed() {
			t.dynamic(f.served(), f.pair, s.Grace, servedSize)
		}
		for _, proto := range s.graceProtocols() {
			t.dynamic(f.grace(proto), f.pair, s.Grace, servedSize)
		}
		if s.knocks() {
			for stage := 1; stage < len(s.Knock.TCP); stage++ {
				t.dynamic(f.knock(stage), f.key, s.Knock.Within, s.Size)
			}
			t.dynamic(f.knocked(), f.key, s.Knock.Allow, s.Size)
		}
		if s.Fleet > 0 {
			t.add(nftset.Set{Name: f.fleet(), Type: f.key, Flags: nftset.FlagTimeout, Size: s.Fleet})
		}
	}
	t.ports(setTrapTCP, s.TrapTCP)
	t.ports(setTrapUDP, s.TrapUDP)
	if s.Scan.Ports > 0 {
		t.ports(setIgnoreTCP, s.Scan.Ignore)
	}
	if s.knocks() {
		t.ports(setKnockTCP, s.Knock.ports())
	}
	if s.Grace > 0 {
		t.add(nftset.Set{Name: setStarting, Type: nftset.InetProto, Flags: nftset.FlagTimeout})
	}
}

func (t *Table) add(s nftset.Set) {
	s.Table = t.Table
	t.Sets = append(t.Sets, Set{Set: s})
}

func (t *Table) dynamic(name string, key nftset.KeyType, timeout time.Duration, size uint32) {
	flags := nftset.FlagDynamic | nftset.FlagTimeout
	t.add(nftset.Set{Name: name, Type: key, Flags: flags, Timeout: timeout, Size: size})
}

// whitelist returns the whitelist of a family, merged.
func (s Spec) whitelist(f family) []nftset.Interval {
	return f.merge(slices.Concat(alwaysWhitelisted, s.Whitelist))
}

// merge returns those of some prefixes that are of the family, merged.
func (f family) merge(list []netip.Prefix) []nftset.Interval {
	var ivs []nftset.Interval
	for _, p := range list {
		if iv := nftset.Prefix(p).Interval; iv.From.Type() == f.key {
			ivs = append(ivs, iv)
		}
	}
	return nftset.Merge(ivs)
}

func (t *Table) ports(name string, list []Ports) {
	ivs, flags := portSet(list)
	t.static(name, nftset.InetService, flags, ivs)
}

func (t *Table) static(name string, key nftset.KeyType, flags nftset.Flags, ivs []nftset.Interval) {
	t.Sets = append(t.Sets, Set{
		Set:    nftset.Set{Table: t.Table, Name: name, Type: key, Flags: flags},
		Static: true, Elements: ivs,
	})
}

const (
	sealFormat   = "portmon %16s /%d"
	sealObserves = " observe"
)

// sealComment is the rule comment that identifies the configuration that a
// table was made of.
func sealComment(digest string, prefix6 int, observe bool) string {
	seal := fmt.Sprintf(sealFormat, digest, prefix6)
	if observe {
		seal += sealObserves
	}
	return seal
}

// parseSeal reads such a comment; ok is false for any other comment.
func parseSeal(comment string) (digest string, prefix6 int, observe, ok bool) {
	plain, observe := strings.CutSuffix(comment, sealObserves)
	n, err := fmt.Sscanf(plain, sealFormat, &digest, &prefix6)
	ok = err == nil && n == 2 && len(digest) == 16 && 1 <= prefix6 && prefix6 <= 128
	return digest, prefix6, observe, ok && comment == sealComment(digest, prefix6, observe)
}

// own returns the keys of the set of networks of this host's own addresses,
// sorted.
func (s Spec) own() []nftset.Interval {
	var out []nftset.Interval
	for _, p := range s.Own6 {
		if p.Bits() <= ownLen {
			out = append(out, nftset.Addr(p.Addr()).Interval)
		}
	}
	slices.SortFunc(out, nftset.Interval.Compare)
	return slices.Compact(out)
}

// maxSinglePorts is the most ports that are listed one by one. The kernel keeps
// a set of single ports as a bitmap, in which a lookup costs next to nothing;
// in one of intervals it costs some 100 ns.
const maxSinglePorts = 4096

// portSet returns the elements and the flags of a set that holds the ports.
func portSet(ports []Ports) ([]nftset.Interval, nftset.Flags) {
	n := 0
	for _, p := range ports {
		n += int(p.To) - int(p.From) + 1
	}
	var ivs []nftset.Interval
	for _, p := range ports {
		ivs = append(ivs, nftset.Ports(p.From, p.To).Interval)
	}
	ivs = nftset.Merge(ivs)
	if n > maxSinglePorts {
		return ivs, nftset.FlagInterval
	}
	single := make([]nftset.Interval, 0, n)
	for _, iv := range ivs {
		for port := int(iv.From.Port()); port <= int(iv.To.Port()); port++ {
			single = append(single, nftset.Single(nftset.PortKey(uint16(port))).Interval)
		}
	}
	return single, 0
}
