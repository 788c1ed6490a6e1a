// Package ledger remembers which sources offended how often, and says to which tier of the ladder each belongs.
//
// It is pure: reports in, verdicts out; it has no clock, no lock and no goroutine. Whatever it says follows from the calls made and
// from the moments passed in, which are those of a clock that nobody can set ([Instant]): the wall clock may jump to any date
// without an offence lost or counted twice. [Now] converts; only what is on its way while the wall clock is set gets a wrong moment.
//
// # What counts
//
// An offence is what made the packet path ban a source. It may be heard ([Ledger.Offend]), found in a dump of a set
// ([Ledger.Seen]), or both, in any order, and counts once. While a source is banned it cannot offend, so two offences are at least
// the shortest ban apart; reports closer together than half of that, or than 30 seconds, are of the same one. The tiers in the
// kernel are memory too: a source in tier n has at least n offences.
//
// The tier is the number of offences, at most the number of tiers; another offence in the last tier begins that ban anew. A Verdict
// that asks for an edit tells how long the ban is and how much of that is left, so that the ban begins with the offence even when
// the news of it is late. That beginning is how a later dump is recognised.
//
// # What is forgotten
//
// A source that has been free and quiet for Config.Forget, counted from the end of its last ban, is forgotten: its next offence is
// its first. Were the time counted from the offence, then a source in a tier as long as Forget would always be forgotten the moment
// it is free, and begin at the bottom.
//
// A source that was unbanned by hand begins at the bottom as well.
//
// # What it costs
//
// At most Config.Max records are held, of 80 bytes and 8 to 16 more in the index: a million in about 90 MB. When that is full, the
// first-timer counted longest ago is forgotten for each new source, and a repeat offender only when no first-timer is left; a flood
// of sources that come once does not wash out those that come back. A report takes a constant number of steps: 0.1 µs with a few
// records, and up to 1 µs with a million, whose memory is seldom in the cache; but whenever the number of records has doubled, one report
// waits for a larger index: 0.2 s at half a million. Memory once used is kept for later records.
package ledger
