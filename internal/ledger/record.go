package ledger

import "net/netip"

// Record is what is held of an offender.
type Record struct {
	Source netip.Prefix
	// Offences is how many count, 1 or more.
	Offences int
	// Tier is the one that the last offence leads to, from 1.
	Tier int
	// Last is when the last offence was.
	Last Instant
	// End is when the ban for it ends or ended. The time after which the source is forgotten runs from here.
	End Instant
	// Proto and Port are the IP protocol and the port of the last offence; both 0 if it was only found in a set.
	Proto uint8
	Port  uint16
}

// depth is how many moments of a source are remembered. Reports may come out of order by fewer offences than that: more than
// enough, since two offences of a source are a ban apart.
const depth = 4

// record is a Record as it is kept, in 80 bytes without a pointer. A source without offences has one too if it was banned or
// unbanned by hand, so that a late report is not mistaken for an offence.
type record struct {
	key
	proto    uint8
	port     uint16
	offences uint32

	prev, next uint32 // neighbours in the list that the record is in

	tier    uint8
	n       uint8 // moments known
	byHand  uint8 // bit i: at[i] is a ban by hand, or the moment when the count was cleared; not an offence
	cleared bool  // at[0] is when the count was cleared: whatever is said to have happened before it does not matter
	missing uint8 // offences that must have been, because of the tier in which the source was found, but of which no moment is known
	base    uint8 // they were before at[base-1]; 0 if missing is 0

	end Instant
	at  [depth]Instant // at[:n], oldest first
}

func (r *record) export(tiers int) Record {
	last, _ := r.last()
	return Record{
		Source: r.prefix(), Offences: int(r.offences), Tier: min(int(r.tier), tiers),
		Last: last, End: r.end, Proto: r.proto, Port: r.port,
	}
}
