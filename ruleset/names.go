package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Counters of the table. Their names are part of the interface.
const (
	CounterTrapped    = "trapped"    // packets to trap ports that were held against their source
	CounterScanned    = "scanned"    // packets to closed ports that made an offence
	CounterBanned     = "banned"     // bans the packet path made
	CounterFull       = "full"       // offences without a ban, as a set had no room
	CounterHeldBack   = "held_back"  // first offences without a ban, as there were too many at a time
	CounterUncounted  = "uncounted"  // packets to closed ports not counted: too many at a time, or no room for them
	CounterUnroutable = "unroutable" // packets dropped as no route leads back to their source
	CounterDropped    = "dropped"    // packets dropped as their source is banned
	CounterFleet      = "fleet"      // those of them whose source is banned by the fleet
)

var counters = []string{
	CounterTrapped, CounterScanned, CounterBanned, CounterFull, CounterHeldBack, CounterUncounted,
	CounterUnroutable, CounterDropped,
}

// Counters returns the names of all counters that the table can have.
func Counters() []string { return append(slices.Clone(counters), CounterFleet) }

// CountsDrops reports whether a counter has packets that were dropped, none of
// which is in another such counter.
func CountsDrops(counter string) bool {
	switch counter {
	case CounterDropped, CounterBanned, CounterFull, CounterHeldBack, CounterUnroutable:
		return true
	}
	return false
}

// Names of the chains.
const (
	chainEarly        = "early"         // base: prerouting, before conntrack
	chainKnock        = "knock"         // what opens connections: is it a knock?
	chainKnockPort    = "knock_port"    // it is: in its turn?
	chainEarlyOpening = "early_opening" // what opens connections: is its source banned?
	chainEarlyBanned  = "early_banned"  // its source is banned: may the packet pass all the same?
	chainGuard        = "guard"         // base: prerouting, behind conntrack and DNAT
	chainBanned       = "banned"        // the source is banned: may the packet pass all the same?
	chainOpening      = "opening"       // what opens connections: is it an offence?
	chainTrap         = "trap"          // a packet to a trap port
	chainTrapUDP      = "trap_udp"      // the same, by UDP
	chainRetry        = "retry"         // counts packets to trap ports
	chainScan         = "scan"          // a packet to a port that may be closed
	chainExempt       = "exempt"        // accepts what is not an offence
	chainListens      = "listens"       // a program listens on the port
	chainOffence      = "offence"       // bans the source
	chainScanner      = "scanner"       // remembers that the offence was a scan
	chainNoScanner    = "no_scanner"    // forgets it: the offence was a packet to a trap port
	chainSubnet       = "ban_subnet"    // logs the ban of a subnet

	// Of IPv6 sources, some are counted and banned by their full address.
	singleSuffix   = "_single"
	chainBanPrefix = "ban_" // and the step: logs the ban
)

// Names of the sets that are not of one family.
const (
	setTrapTCP   = "trap_tcp"
	setTrapUDP   = "trap_udp"
	setIgnoreTCP = "ignore_tcp"
	setKnockTCP  = "knock_tcp"
	setSingle6   = "single6"  // prefixes whose addresses are banned one by one
	setOwn6      = "own6"     // the same: the networks of this host's own addresses
	setStarting  = "starting" // protocols whose traps are not armed yet
)

// families are the two address families, in the order of their rules.
var families = [...]family{
	{"ip", "4", nftset.IPv4Addr, nftset.IPv4AddrPort, 12, 16, 24},
	{"ip6", "6", nftset.IPv6Addr, nftset.IPv6AddrPort, 8, 24, 48},
}

// family is an address family within the inet table.
type family struct {
	nft       string         // the word before "saddr"
	suffix    string         // the end of its sets' names
	key       nftset.KeyType // an address
	pair      nftset.KeyType // an address and a port
	saddrAt   uint32         // offset of the source address in the header
	daddrAt   uint32
	subnetLen int // prefix length of what is banned when many of its sources offend
}

func (f family) is6() bool { return f.key == nftset.IPv6Addr }
func (f family) bits() int { return 8 * f.key.Len() }

// number returns NFPROTO_IPV4 or NFPROTO_IPV6.
func (f family) number() byte {
	if f.is6() {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func protoName(proto byte) string {
	switch proto {
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_TCP:
		return "tcp"
	}
	return "th"
}

// graceOf returns the name of a family's set of ports where a program listened.
func graceOf(proto byte) func(family) string {
	return func(f family) string { return f.grace(proto) }
}

func (f family) whitelist() string       { return "whitelist" + f.suffix }
func (f family) allow() string           { return "allow" + f.suffix }
func (f family) knock(stage int) string  { return "knock" + f.suffix + "_" + strconv.Itoa(stage) }
func (f family) knocked() string         { return "knocked" + f.suffix }
func (f family) ban() string             { return "ban" + f.suffix }
func (f family) net() string             { return "net" + f.suffix }
func (f family) fleet() string           { return "fleet" + f.suffix }
func (f family) subnet() string          { return "subnet" + f.suffix }
func (f family) crowd() string           { return "crowd" + f.suffix }
func (f family) cut() string             { return "cut" + f.suffix }
func (f family) scanner() string         { return "scanner" + f.suffix }
func (f family) hits() string            { return "hits" + f.suffix }
func (f family) probed() string          { return "probed" + f.suffix }
func (f family) score() string           { return "score" + f.suffix }
func (f family) served() string          { return "served_tcp" + f.suffix }
func (f family) grace(proto byte) string { return "grace_" + protoName(proto) + f.suffix }
func (f family) tier(step int) string    { return "tier" + f.suffix + "_" + strconv.Itoa(step) }
func (f family) offenceChain() string    { return chainOffence + strings.TrimPrefix(f.suffix, "4") }
func chainBan(step int) string           { return chainBanPrefix + strconv.Itoa(step) }

// familyOf returns the family of a key type, which may be that of pairs.
func familyOf(t nftset.KeyType) family {
	if t == nftset.IPv6Addr || t == nftset.IPv6AddrPort {
		return families[1]
	}
	return families[0]
}

func familyOfAddr(a netip.Addr) family { return familyOf(nftset.AddrKey(a).Type()) }

// Role is what a set of the table remembers of sources.
type Role uint8

// The roles. Sets that remember nothing of sources have none.
const (
	RoleNone    Role = iota
	RoleBan          // ban4, ban6: banned now
	RoleNet          // net4, net6: prefixes and ranges that were banned by hand, and what found ban4 or ban6 full
	RoleSubnet       // subnet4, subnet6: banned as many sources of theirs offended
	RoleStep         // tier4_1, tier6_1, tier4_2, …: offended at that step of the ladder
	RoleScanner      // scanner4, scanner6: banned for a scan, and not for a packet to a trap port
	RoleAllow        // allow4, allow6: never banned and never dropped, for a time
	RoleKnocked      // knocked4, knocked6: the same, as they have knocked
	RoleFleet        // fleet4, fleet6: banned as other hosts of the fleet have seen them offend
)

// Bans reports whether what a set of the role holds is banned by this host. What
// the fleet bans has offended elsewhere, and is no part of what is known here.
func (r Role) Bans() bool { return r == RoleBan || r == RoleNet || r == RoleSubnet }

// Allows reports whether what a set of the role holds is allowed.
func (r Role) Allows() bool { return r == RoleAllow || r == RoleKnocked }

// roles are the roles of all sets that have one, by name. They are asked for
// with each element that is read.
var roles = func() map[string]roleAndStep {
	all := make(map[string]roleAndStep)
	for _, f := range families {
		for _, role := range []Role{RoleBan, RoleNet, RoleSubnet, RoleScanner, RoleAllow, RoleKnocked, RoleFleet} {
			all[role.of(f, 0)] = roleAndStep{role, 0}
		}
		for step := 1; step <= MaxSteps; step++ {
			all[f.tier(step)] = roleAndStep{RoleStep, step}
		}
	}
	return all
}()

type roleAndStep struct {
	role Role
	step int
}

// RoleOf returns the role of a set by its name, and of a RoleStep the step,
// from 1.
func RoleOf(set string) (role Role, step int) {
	p := roles[set]
	return p.role, p.step
}

// Set returns the name of the set of the role that holds addresses like a; step
// counts for a RoleStep only.
func (r Role) Set(a netip.Addr, step int) string { return r.of(familyOfAddr(a), step) }

func (r Role) of(f family, step int) string {
	switch r {
	case RoleBan:
		return f.ban()
	case RoleNet:
		return f.net()
	case RoleSubnet:
		return f.subnet()
	case RoleScanner:
		return f.scanner()
	case RoleStep:
		return f.tier(step)
	case RoleAllow:
		return f.allow()
	case RoleKnocked:
		return f.knocked()
	case RoleFleet:
		return f.fleet()
	}
	return ""
}

// Cause is why a source is banned, or by whom it is allowed.
type Cause uint8

// The causes.
const (
	CauseUnknown Cause = iota
	CauseTrap          // a packet to a trap port
	CauseScan          // packets to closed ports
	CauseSubnet        // offences of many sources of one subnet
	CauseHand          // an administrator
	CauseOther         // another program
	CauseLogin         // it has logged in
	CauseName          // a name in the configuration has this address
	CauseKnock         // it has knocked
	CauseFleet         // other hosts of the fleet
)

var causes = [...]string{"", "trap", "scan", "subnet", "hand", "other", "login", "name", "knock", "fleet"}

// String returns "trap", "scan", "subnet", "hand", "other", "login", "name",
// "knock" or "fleet"; "" if the cause is not known.
func (c Cause) String() string { return causes[c] }

// MarshalText implements [encoding.TextMarshaler].
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// ParseCause is the inverse of [Cause.String].
func ParseCause(s string) (Cause, bool) {
	for c, name := range causes {
		if s == name {
			return Cause(c), true
		}
	}
	return CauseUnknown, false
}

// logPrefix is how log messages of bans begin: "portmon trap 1". The step of a
// subnet is 0 and is left out.
func logPrefix(c Cause, step int) string {
	if step == 0 {
		return "portmon " + c.String()
	}
	return fmt.Sprintf("portmon %s %d", c, step)
}

// ParseLogPrefix reads the prefix of a message of the log group: why the packet
// path has banned a source, and by which step of the ladder, 0 for a subnet. ok
// is false for a message that is not portmon's.
func ParseLogPrefix(prefix string) (c Cause, step int, ok bool) {
	for _, c := range []Cause{CauseTrap, CauseScan} {
		for step := 1; step <= MaxSteps; step++ {
			if prefix == logPrefix(c, step) {
				return c, step, true
			}
		}
	}
	return CauseSubnet, 0, prefix == logPrefix(CauseSubnet, 0)
}
