package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/ruleset"
)

// inherit puts the bans of tiers that are gone, because the ladder has become shorter, into what is now the longest tier, and for no
// longer than a ban there is. Sets of such tiers are kept by `portmon apply` while they hold bans; it is a flush that ends them.
func (k *core) inherit(now ledger.Now) {
	top := len(k.spec.BanTime)
	longest := k.spec.BanTime[top-1]
	for _, any := range [...]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		heir := ruleset.BanSet(any, top)
		if k.table.state != standing || !k.table.sets[heir] {
			continue
		}
		n := 0
		for tier := top + 1; tier <= ruleset.MaxSteps; tier++ {
			gone := ruleset.BanSet(any, tier)
			if k.table.sets[gone] {
				continue
			}
			for iv, h := range k.mir.live(gone, now.Mono) {
				if h.timeout > longest {
					h.timeout, h.until = longest, min(h.until, now.Mono.Add(longest))
				}
				h.round = k.round
				if have, ok := k.mir.get(heir, iv); ok && have.lasts(h.until) {
					continue
				}
				k.add(heir, iv, h)
				n++
			}
			delete(k.mir, gone)
		}
		if n > 0 {
			k.tell(News{Kind: Restored, Set: heir, Tier: top, Count: n})
		}
	}
}
