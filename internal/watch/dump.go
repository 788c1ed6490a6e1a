package watch

import (
	"cmp"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
)

// beginDump must come before the first [core.dumped] of a dump.
func (k *core) beginDump() { k.round++ }

// late is how long a transaction may take at most, on a busy machine. The packet path adds to the first tier only, so that in the
// others a ban that is a little later than we know it is no other ban.
const late = 30 * time.Second

// dumped takes in one element of a dump. A set of intervals must be read on its own, see [core.read].
func (k *core) dumped(set string, el nftset.Element, now ledger.Now) {
	p := place{set, el.Interval}
	h := k.heldOf(set, el, now)
	have, known := k.mir.get(set, p.key)
	src, tier, ok := k.sourceOf(p)
	if known && have.timeout > 0 && have.close(h) {
		// Before Linux 6.12, a ban of its set's usual time is told with what is usual now, though it ends when it did.
		h.timeout = have.timeout
	}
	if known && tier > 1 && h.timeout == have.timeout && h.until.Sub(have.until).Abs() < late {
		h.until = have.until // the ban that we have added: in the kernel it began when the transaction was done
	}
	// Neither the packet path nor the watcher comments, and nobody else is in a tier without an offence.
	reason, offence := offence(tier, h.comment)
	h.byHand = tier == 0 || h.comment != "" && !offence || known && have.byHand && have.close(h)
	if !ok || tier == 0 || h.timeout == 0 {
		k.mir.put(set, p.key, h)
		return
	}
	if h.byHand {
		k.mir.put(set, p.key, h)
		k.led.BannedByHand(h.ban(src, tier), now.Mono)
		return
	}
	v := k.led.Seen(h.ban(src, tier), now.Mono)
	h.byHand = v.Offences == 0
	k.mir.put(set, p.key, h)
	if v.Counted {
		k.tell(News{
			Kind: Banned, Source: src, Set: set, Tier: tier, Offences: v.Offences, Until: h.until, Reason: cmp.Or(reason, trap),
		})
	}
	k.escalate(src, v, now)
}

// read takes in all that a set of intervals holds. Others have edited it since it was read last, or the first is true.
func (k *core) read(set string, els []nftset.Element, first bool, now ledger.Now) {
	before := k.mir[set]
	delete(k.mir, set)
	for _, el := range els {
		h := k.heldOf(set, el, now)
		h.byHand = true
		k.mir.put(set, el.Interval, h)
		if have, known := before.get(el.Interval); !first && (!known || !have.close(h)) {
			src, _, _ := k.sourceOf(place{set, el.Interval})
			k.tell(News{Kind: ByHand, Source: src, Set: set, Until: h.until, Forever: h.timeout == 0, Reason: h.comment})
		}
		before.drop(el.Interval)
	}
	for iv, h := range before.all() {
		if h.lasts(now.Mono.Add(margin)) {
			k.lifted(place{set, iv}, h, now)
		}
	}
}

// margin is how long a ban must still last for its absence to be of meaning. What has less left may have expired: the time by which
// its end is reckoned may be that of the news of it.
const margin = 5 * time.Second

// doubts returns the bans of the tiers that the dump should have shown. A dump may miss what is there: ask for each of them.
func (k *core) doubts(now ledger.Now) []place {
	var out []place
	for set := range k.table.sets {
		for iv, h := range k.mir[set].all() {
			if isTier(set) && h.round != k.round && h.lasts(now.Mono.Add(margin)) {
				out = append(out, place{set, iv})
			}
		}
	}
	return out
}

// absent takes in that a ban is not there although it should be: somebody lifted it while we could not hear.
func (k *core) absent(p place, now ledger.Now) {
	if h, ok := k.mir.get(p.set, p.key); ok {
		k.lifted(p, h, now)
	}
}
