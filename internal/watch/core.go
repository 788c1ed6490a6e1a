package watch

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// core turns reports into edits. It is pure: the clock is passed in, and nothing is asked of the kernel.
type core struct {
	spec  ruleset.Spec
	led   *ledger.Ledger
	mir   mirror
	table table
	port  uint32 // the netlink port id of our own edits
	round uint32 // number of the dump that runs or ran last
	stats counters
	// dumpEnd is the generation of the ruleset after the dump that ran last: events up to there may be of what it has overtaken.
	dumpEnd uint32
	// ask are elements to be asked the kernel for, because of such events.
	ask []place
	// full are the sets that are known to have no room.
	full map[string]bool

	// pending are the events of a transaction whose end has not come yet.
	pending []nftset.Event

	// edits are the bans to add, by set, since they were last taken.
	edits map[string]map[nftset.Interval]held
	// fresh are sets that held nothing a moment ago: what is to be added to them is not there yet.
	fresh map[string]bool
	// reread are sets of intervals that others have edited: they must be read to know what they hold.
	reread map[string]bool
	// news are what happened since they were last taken.
	news []News
}

func newCore(spec ruleset.Spec, forget time.Duration, port uint32) *core {
	k := &core{spec: spec, mir: make(mirror), port: port, reread: make(map[string]bool), full: make(map[string]bool)}
	k.led = ledger.New(k.ledgerConfig(forget))
	k.table.sets = make(map[string]bool)
	k.take()
	return k
}

func (k *core) ledgerConfig(forget time.Duration) ledger.Config {
	return ledger.Config{Ladder: k.spec.BanTime, Forget: forget}
}

// reconfigure makes the core work by a new configuration from now on.
func (k *core) reconfigure(spec ruleset.Spec, forget time.Duration) {
	k.spec = spec
	k.led.Reconfigure(k.ledgerConfig(forget))
}

// source returns the prefix by which an address is banned.
func (k *core) source(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := a.BitLen()
	if a.Is6() {
		bits = k.spec.Prefix6
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// heard takes in a message of the log group: the packet path has banned a source.
func (k *core) heard(m *nflog.Message, now ledger.Now) {
	if !m.Src.IsValid() || m.Prefix != ruleset.LogPrefix {
		return
	}
	at := now.Mono
	if !m.Time.IsZero() {
		at = now.Instant(m.Time)
		k.stats.Lag = now.Mono.Sub(at)
	}
	src, timeout := k.source(m.Src), k.spec.BanTime[0]
	v := k.led.Offend(ledger.Offence{Source: src, At: at, Proto: m.Proto, Port: m.DstPort}, now.Mono)
	if !v.Counted {
		return // a dump has shown it before, or somebody has lifted it meanwhile
	}
	set := ruleset.BanSet(src.Addr(), 1)
	until := at.Add(timeout)
	k.tell(News{
		Kind: Banned, Source: src, Set: set, Tier: 1, Offences: v.Offences, Proto: m.Proto, Port: m.DstPort, Until: until, Reason: trap,
	})
	if k.table.state == resting && at <= k.table.since {
		return // this ban went with the table
	}
	// If there is no table then the news of it are late, being of another socket. The bans are put into it when they come.
	k.mir.put(set, keyOf(src), held{timeout: timeout, until: until, round: k.round})
	k.escalate(src, v, now)
}

// escalate adds a source to the set of the tier it belongs in. It stays in the shorter one and expires there: moved, it would be
// in neither for the packet that looks into one before the move and into the other after it.
func (k *core) escalate(src netip.Prefix, v ledger.Verdict, now ledger.Now) {
	set := ruleset.BanSet(src.Addr(), v.Tier)
	if !v.Edit || k.table.state == standing && !k.table.sets[set] {
		return // there is no such set: the table may be of an older configuration, with a shorter ladder
	}
	first, _ := k.mir.get(ruleset.BanSet(src.Addr(), 1), keyOf(src))
	reason, ok := offence(1, first.comment)
	if !ok {
		first.comment, reason = "", trap
	}
	h := held{timeout: v.Timeout, until: now.Mono.Add(v.Left), round: k.round, comment: first.comment}
	if have, ok := k.mir.get(set, keyOf(src)); ok && have.round == k.round && have.close(h) {
		return
	}
	k.add(set, keyOf(src), h)
	rec, _ := k.led.Lookup(src, now.Mono)
	k.tell(News{
		Kind: Escalated, Source: src, Set: set, Tier: v.Tier, Offences: v.Offences, Proto: rec.Proto, Port: rec.Port,
		Until: h.until, Reason: reason,
	})
}

// keyOf returns the key by which a source stands in the sets of the tiers.
func keyOf(src netip.Prefix) nftset.Interval { return nftset.Single(nftset.AddrKey(src.Addr())) }

// close reports whether two bans end at the same time, but for what the clocks differ in.
func (h held) close(o held) bool {
	const tolerance = 250 * time.Millisecond
	if h.timeout == 0 || o.timeout == 0 {
		return h.timeout == o.timeout
	}
	return h.until.Sub(o.until).Abs() < tolerance
}

// add notes a ban to be added to its set.
func (k *core) add(set string, iv nftset.Interval, h held) {
	k.mir.put(set, iv, h)
	if k.edits[set] == nil {
		k.edits[set] = make(map[nftset.Interval]held)
	}
	k.edits[set][iv] = h
}

// drop takes a ban back that is noted, if it is, and to be added, if it is.
func (k *core) drop(set string, iv nftset.Interval) {
	k.mir.drop(set, iv)
	delete(k.edits[set], iv)
}

func (k *core) tell(n News) { k.news = append(k.news, n) }

// take returns the edits and the news collected so far, and forgets them.
func (k *core) take() (edits map[string]map[nftset.Interval]held, news []News) {
	edits, news = k.edits, k.news
	k.edits, k.news, k.fresh = make(map[string]map[nftset.Interval]held), nil, make(map[string]bool)
	return edits, news
}
