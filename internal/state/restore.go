package state

import (
	"iter"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/ruleset"
)

// Restore decides what to put back of the records of a state, and tells l of the offenders, of which it was not told yet; l may be
// nil. Nothing is put back that the table has, and nothing that it has no longer though it is the same table as when the state was
// saved: that was lifted by hand, and the offences of its source do not count either. Any other table is a new one, after a
// reboot or a reload, and gets all bans whose time is not over.
//
// A state from another machine is not restored unless the policy says so; the error is then a [*MachineError]. A cloned image would
// otherwise ban on every copy of it whoever tried the traps of the original, as a rule its administrator. What is lost with it comes
// back with the next packet of each source.
func Restore(h Header, records iter.Seq[Record], p Policy, l *ledger.Ledger) (Restored, error) {
	if h.otherMachine(p.Here) && !p.Adopt {
		return Restored{}, &MachineError{h.Machine, p.Here.Machine}
	}
	r := restorer{Policy: p, ledger: l, sameTable: h.SameTable(p.Here), bans: make(map[netip.Prefix]int)}
	r.elapsed, r.ClockBehind = elapsed(h, p)
	for rec := range records {
		r.take(rec)
	}
	r.mergePrefixes()
	return r.Restored, nil
}

// elapsed returns how much time has passed since a state was saved.
func elapsed(h Header, p Policy) (d, behind time.Duration) {
	if h.SameBoot(p.Here) && p.Now.Mono >= h.Saved.Mono {
		return p.Now.Mono.Sub(h.Saved.Mono), 0
	}
	d = p.Now.Wall.Sub(h.Saved.Wall)
	return max(0, d), max(0, -d)
}

// restorer goes through the records of a state.
type restorer struct {
	Policy
	Restored
	ledger    *ledger.Ledger
	sameTable bool
	elapsed   time.Duration
	bans      map[netip.Prefix]int // place in Bans
}

// slack is how much the times of a ban that was saved may differ from those of the kernel. A ban with less left may have expired.
const slack = time.Second

// minLeft is the shortest time for which a ban is worth restoring. The kernel takes timeouts near 0 for none at all.
const minLeft = ruleset.MinBanTime

func (r *restorer) take(rec Record) {
	if r.Policy.Whitelisted != nil && r.Policy.Whitelisted(rec.Prefix) {
		if rec.Banned {
			r.Restored.Whitelisted++
		}
		return
	}
	if !rec.Banned {
		r.offender(rec, r.Now.Mono.Add(rec.Left-r.elapsed))
		return
	}
	b := r.ban(rec)
	end := r.Now.Mono.Add(b.Left)
	if b.Timeout == 0 {
		end = r.Now.Mono.Add(ruleset.MaxBanTime)
	}
	inForce, lifted := r.sort(b)
	if lifted {
		return
	}
	if rec.Offences > 0 {
		r.offender(rec, end)
	}
	if inForce && r.sameTable && r.Kept != nil && rec.Tier > 0 && rec.Timeout > 0 {
		r.Kept(Ban{rec.Prefix, rec.Tier, rec.Timeout, rec.Left - r.elapsed, rec.ByHand, rec.Comment}) // whatever the ladder is now
	}
	if inForce && b.ByHand && b.Tier > 0 && b.Timeout > 0 && r.ledger != nil {
		from := r.Now.Mono.Add(b.Left - b.Timeout)
		r.ledger.BannedByHand(ledger.Ban{Source: b.Prefix, Tier: b.Tier, From: from, Until: end}, r.Now.Mono)
	}
}

// ban returns the ban of a record as it is to be now.
func (r *restorer) ban(rec Record) Ban {
	b := Ban{Prefix: rec.Prefix, Tier: rec.Tier, Timeout: rec.Timeout, ByHand: rec.ByHand, Comment: rec.Comment}
	b.Tier = min(b.Tier, len(r.Ladder))
	if b.Prefix.Addr().Is6() && b.Prefix.Bits() != r.Prefix6 {
		b.Tier = 0 // the keys of the tiers are networks of another size now
	}
	if b.Timeout == 0 {
		return b
	}
	limit := ruleset.MaxBanTime
	if b.Tier > 0 && !b.ByHand {
		limit = r.Ladder[b.Tier-1]
	}
	b.Left = min(rec.Left, rec.Timeout) - r.elapsed
	if over := b.Left - limit; over > 0 {
		// What the ban has left and how long it is are cut alike, so that it does not seem to have begun at another time.
		b.Left, b.Timeout = b.Left-over, b.Timeout-over
	}
	b.Left = b.Left.Truncate(time.Millisecond)
	return b
}

// sort puts a ban where it belongs. It reports whether it is in force, or will be, and whether it was lifted by hand.
func (r *restorer) sort(b Ban) (inForce, lifted bool) {
	forever := b.Timeout == 0
	if !forever && b.Left < minLeft {
		r.Expired++
		return false, false
	}
	standing := false
	var left time.Duration
	if r.Policy.Standing != nil {
		tier := b.Tier
		if r.sameTable {
			// Found in a lower tier it was not lifted: an edit that was counted on was not made, and is asked for when a dump shows that.
			tier = min(tier, 1)
		}
		left, standing = r.Policy.Standing(b.Prefix, tier)
	}
	switch {
	case r.sameTable && !standing && !forever && b.Left < slack:
		r.Expired++
		return false, false
	case r.sameTable && !standing:
		r.Lifted++
		return false, true
	case r.sameTable, standing && (left == 0 || !forever && left >= b.Left-slack):
		r.Restored.Standing++
		return true, false
	}
	i, again := r.bans[b.Prefix]
	switch {
	case !again:
		r.bans[b.Prefix] = len(r.Bans)
		r.Bans = append(r.Bans, b)
	case longer(b, r.Bans[i]):
		r.Bans[i] = b
	}
	return true, false
}

// longer reports whether a ban has more time left than another.
func longer(a, b Ban) bool { return b.Timeout > 0 && (a.Timeout == 0 || a.Left > b.Left) }

// offender tells the ledger of a source whose last ban ends at that moment.
func (r *restorer) offender(rec Record, end ledger.Instant) {
	known := ledger.Record{
		Source: rec.Prefix, Offences: rec.Offences, Last: r.Now.Mono.Add(-(rec.Age + r.elapsed)), End: end,
		Proto: rec.Proto, Port: rec.Port,
	}
	if r.Now.Mono.Sub(end) > r.Forget {
		r.Forgotten++
		return
	}
	r.Offenders++
	if r.ledger == nil {
		return
	}
	if other, ok := r.ledger.Lookup(rec.Prefix, r.Now.Mono); ok && other.Offences >= rec.Offences {
		return // a second line about it
	}
	r.ledger.Put(known, r.Now.Mono)
}
