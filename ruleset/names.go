package ruleset

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/portmon/portmon/nftset"
)

// Names of what stands in the table. They are part of the interface: other tools add to these sets and read these counters.
const (
	counterTrapped = "trapped" // packets that hit a trap
	counterBanned  = "banned"  // bans the packet path made
	counterFull    = "full"    // trap packets dropped with no room left to ban their source
	counterDropped = "dropped" // packets dropped because their source is banned

	chainEarly   = "early"   // base: prerouting, before conntrack; SYNs of banned sources end here
	chainGuard   = "guard"   // base: prerouting, after conntrack
	chainSources = "sources" // is the source banned?
	chainBanned  = "banned"  // it is: may the packet pass all the same?
	chainTrap    = "trap"    // base: input
	chainOffence = "offence" // a trap packet: is it one to punish?
	chainBan     = "ban"     // it is

	setTrapTCP = "trap_tcp"
	setTrapUDP = "trap_udp"
)

// families are the two address families, in the order in which their rules stand.
var families = [...]family{
	{"ip", "4", nftset.IPv4Addr},
	{"ip6", "6", nftset.IPv6Addr},
}

// family is an address family within the inet table.
type family struct {
	nft    string // the word before "saddr"
	suffix string // the end of its sets' names
	key    nftset.KeyType
}

func (f family) whitelist() string { return "whitelist" + f.suffix }
func (f family) hits() string      { return "hits" + f.suffix }
func (f family) net() string       { return "net" + f.suffix }

// ban returns the name of the set of a tier, from 1: ban4, ban4_2, ban4_3 …
func (f family) ban(tier int) string {
	if tier == 1 {
		return "ban" + f.suffix
	}
	return "ban" + f.suffix + "_" + strconv.Itoa(tier)
}

// familyOf returns the family of a key type.
func familyOf(t nftset.KeyType) family {
	if t == nftset.IPv6Addr {
		return families[1]
	}
	return families[0]
}

// tierOf returns the family and the tier of a ban set by its name: 0 for the sets of prefixes; ok is false for other sets.
func tierOf(name string) (f family, tier int, ok bool) {
	for _, f := range families {
		if name == f.net() {
			return f, 0, true
		}
		if name == f.ban(1) {
			return f, 1, true
		}
		if rest, found := strings.CutPrefix(name, f.ban(1)+"_"); found {
			if n, err := strconv.Atoi(rest); err == nil && n >= 2 && n <= MaxSteps && f.ban(n) == name {
				return f, n, true
			}
		}
	}
	return family{}, 0, false
}

// BanSet returns the name of the set that holds bans of addresses like a in a tier, from 1; tier 0 is the set of prefixes.
func BanSet(a netip.Addr, tier int) string {
	f := familyOf(nftset.AddrKey(a).Type())
	if tier == 0 {
		return f.net()
	}
	return f.ban(tier)
}

// Tier returns the tier of a set by its name, 0 for the sets of prefixes; ok is false if the set holds no bans.
func Tier(set string) (tier int, ok bool) {
	_, tier, ok = tierOf(set)
	return tier, ok
}
