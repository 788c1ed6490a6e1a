package watch

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// remember returns what is to be saved: a record for each prefix that is banned, or has offended, or both.
func (k *core) remember(now ledger.Now) *snapshot {
	banned := 0
	for _, b := range k.mir {
		banned += b.len()
	}
	s := &snapshot{recs: make([]shortRecord, 0, max(banned, k.led.Len()))}
	for set := range k.mir {
		for iv, h := range k.mir.live(set, now.Mono) {
			if src, tier, ok := k.sourceOf(place{set, iv}); ok { // a range that is no prefix has no record
				s.ban(src, tier, h, now.Mono)
			}
		}
	}
	s.merge()
	banned = len(s.recs)
	for off := range k.led.All(now.Mono) {
		s.offender(off, banned, now.Mono)
	}
	return s
}

// recalled takes in bans that the table does not have and should have. now is the moment that they are told for.
func (k *core) recalled(bans []state.Ban, now ledger.Now) {
	count := make(map[string]int)
	for _, b := range bans {
		p := place{ruleset.BanSet(b.Prefix.Addr(), b.Tier), nftset.FromPrefix(b.Prefix)}
		if b.Tier > 0 {
			p.key = keyOf(b.Prefix)
		}
		h := held{
			timeout: b.Timeout, until: now.Mono.Add(b.Left), comment: b.Comment, byHand: b.ByHand, round: k.round,
		}
		k.add(p.set, p.key, h)
		count[p.set]++
	}
	if k.table.state != standing {
		return // they are told of when there is a table to put them into
	}
	for set, n := range count {
		tier, _ := ruleset.Tier(set)
		k.tell(News{Kind: Restored, Set: set, Tier: tier, Count: n})
	}
}

// kept takes in a ban that is in the table since before the state was saved. now is the moment that it is told for, bans what a dump
// shows.
func (k *core) kept(b state.Ban, bans mirror, now ledger.Now) {
	set, key := ruleset.BanSet(b.Prefix.Addr(), b.Tier), keyOf(b.Prefix)
	const slack = time.Second // between the dump and now
	if h, ok := bans.get(set, key); ok && (time.Duration(h.until)-b.Left).Abs() < slack {
		k.mir.put(set, key, held{timeout: b.Timeout, until: now.Mono.Add(b.Left), comment: b.Comment, byHand: b.ByHand, round: k.round})
	}
}

// policy returns by what to restore a state. standing is what the sets of the tiers hold.
func (k *core) policy(
	here state.Origin, standing func(netip.Prefix, int) (time.Duration, bool), forget time.Duration, now ledger.Now,
) state.Policy {
	return state.Policy{
		Now: now, Here: here, Ladder: k.spec.BanTime, Forget: forget, Prefix6: k.spec.Prefix6,
		Whitelisted: k.whitelisted, Standing: standing,
	}
}

// whitelisted reports whether all of a prefix is in one entry of the whitelist.
func (k *core) whitelisted(p netip.Prefix) bool {
	for _, w := range k.spec.Whitelist {
		if w.Bits() <= p.Bits() && w.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
