package watch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const (
	ownPort   = 7
	otherPort = 8
)

// fixture is a core with a table that stands, at a moment.
type fixture struct {
	*core
	now ledger.Now
}

func newFixture() *fixture {
	spec := ruleset.Default()
	spec.BanTime = []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour}
	f := &fixture{newCore(spec, 24*time.Hour, ownPort), ledger.Now{Wall: time.Unix(1e9, 0), Mono: 1e15}}
	sets := make(map[string]bool)
	for _, s := range banSets(nftset.Table{}) {
		if tier, _ := ruleset.Tier(s.Name); tier <= len(spec.BanTime) {
			sets[s.Name] = true
		}
	}
	f.stands(1, sets)
	return f
}

func (f *fixture) pass(d time.Duration) {
	f.now.Wall, f.now.Mono = f.now.Wall.Add(d), f.now.Mono.Add(d)
}

func (f *fixture) offend(a netip.Addr) {
	f.heard(&nflog.Message{Src: a, Prefix: ruleset.LogPrefix, Time: f.now.Wall, Proto: 6, DstPort: 23}, f.now)
}

// transaction is one of another program.
func (f *fixture) transaction(process string, events ...nftset.Event) {
	for _, ev := range append(events, nftset.Event{Kind: nftset.Commit, Process: process}) {
		if ev.PortID == 0 {
			ev.PortID = otherPort
		}
		f.happened(ev, f.now)
	}
}

// told returns the kinds of the news since it was asked last.
func (f *fixture) told() (kinds []Kind, edits int) {
	e, news := f.take()
	for _, n := range news {
		kinds = append(kinds, n.Kind)
	}
	for _, bans := range e {
		edits += len(bans)
	}
	return kinds, edits
}

func (f *fixture) want(t *testing.T, edits int, want ...Kind) {
	t.Helper()
	got, n := f.told()
	if n != edits || len(got) != len(want) {
		t.Fatalf("%v and %d edits, want %v and %d", got, n, want, edits)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

var pair = []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("2001:db8:1:2::bad")}

func (f *fixture) event(kind nftset.EventKind, a netip.Addr, left time.Duration) nftset.Event {
	el := nftset.Element{Interval: keyOf(f.source(a)), Timeout: left, Expires: left}
	return nftset.Event{Kind: kind, Set: ruleset.BanSet(a, 1), Element: el}
}

func TestTransactions(t *testing.T) {
	for _, a := range pair {
		added := func(f *fixture) nftset.Event { return f.event(nftset.ElementAdded, a, time.Hour) }
		deleted := func(f *fixture) nftset.Event { return f.event(nftset.ElementDeleted, a, time.Hour) }
		for name, do := range map[string]func(*testing.T, *fixture){
			"added": func(t *testing.T, f *fixture) {
				f.transaction("nft", added(f))
				f.want(t, 0, ByHand)
			},
			"deleted and added": func(t *testing.T, f *fixture) {
				f.transaction("portmon", added(f), deleted(f), added(f))
				f.want(t, 0, ByHand)
			},
			"added and deleted": func(t *testing.T, f *fixture) {
				f.transaction("nft", added(f), deleted(f))
				f.want(t, 0, Lifted)
			},
			"own": func(t *testing.T, f *fixture) {
				ev := added(f)
				ev.PortID = ownPort
				f.transaction("portmon", ev)
				f.want(t, 0)
			},
			"not committed yet": func(t *testing.T, f *fixture) {
				f.happened(added(f), f.now)
				f.want(t, 0)
			},
			"its end lost": func(t *testing.T, f *fixture) {
				f.happened(added(f), f.now)
				f.happened(nftset.Event{Kind: nftset.Overrun}, f.now)
				f.transaction("nft")
				f.want(t, 0)
			},
			"lifted before it is escalated": func(t *testing.T, f *fixture) {
				f.offend(a)
				f.pass(2 * time.Hour)
				f.want(t, 0, Banned)
				f.offend(a)
				f.pass(time.Millisecond)
				ev := deleted(f)
				ev.Set = ruleset.BanSet(a, 2)
				f.transaction("nft", deleted(f), ev)
				if _, n := f.told(); n != 0 {
					t.Error("it is banned again after it was lifted")
				}
			},
			"lifted before it is heard": func(t *testing.T, f *fixture) {
				late := &nflog.Message{Src: a, Prefix: ruleset.LogPrefix, Time: f.now.Wall}
				f.pass(time.Millisecond)
				f.transaction("nft", deleted(f))
				f.want(t, 0, Lifted)
				f.heard(late, f.now)
				f.want(t, 0)
				if _, ok := f.mir.get(ruleset.BanSet(a, 1), keyOf(f.source(a))); ok {
					t.Error("it is taken to be banned")
				}
			},
			"put back as it is known": func(t *testing.T, f *fixture) {
				f.offend(a)
				f.want(t, 0, Banned)
				f.transaction("portmon", added(f))
				f.want(t, 0)
			},
			"another's prefix in the log": func(t *testing.T, f *fixture) {
				f.heard(&nflog.Message{Src: a, Prefix: "other", Time: f.now.Wall}, f.now)
				f.heard(&nflog.Message{Prefix: ruleset.LogPrefix}, f.now)
				f.want(t, 0)
			},
		} {
			t.Run(name, func(t *testing.T) { do(t, newFixture()) })
		}
	}
}

func TestTableInTransactions(t *testing.T) {
	deleted := []nftset.Event{{Kind: nftset.TableDeleted}}
	var added []nftset.Event
	for set := range newFixture().table.sets {
		deleted = append([]nftset.Event{{Kind: nftset.SetDeleted, Set: set}}, deleted...)
		added = append(added, nftset.Event{Kind: nftset.SetAdded, Set: set})
	}
	added = append([]nftset.Event{{Kind: nftset.TableAdded}}, added...)
	a := pair[0]
	for name, do := range map[string]func(*testing.T, *fixture){
		"deleted, later added": func(t *testing.T, f *fixture) {
			f.transaction("nft", deleted...)
			f.want(t, 0, TableGone)
			f.pass(time.Minute)
			f.transaction("nft", added...)
			f.want(t, 1, Restored)
		},
		"deleted and added": func(t *testing.T, f *fixture) {
			f.transaction("nft", append(deleted, added...)...)
			f.want(t, 1, Restored)
		},
		"deleted and added with an old ban": func(t *testing.T, f *fixture) {
			old := f.event(nftset.ElementAdded, a, time.Hour)
			f.pass(time.Minute)
			f.transaction("nft", append(append(deleted, added...), old)...)
			f.want(t, 1, Restored)
		},
		"deleted, and added without its sets": func(t *testing.T, f *fixture) {
			f.transaction("nft", append(deleted, added[0])...)
			f.want(t, 0, TableGone)
		},
		"added in pieces": func(t *testing.T, f *fixture) {
			f.transaction("nft", deleted...)
			for _, ev := range added {
				f.transaction("nft", ev)
			}
			f.want(t, 1, TableGone, Restored)
		},
		"sets changed": func(t *testing.T, f *fixture) {
			f.transaction("portmon", added...)
			f.want(t, 0)
		},
		"removed, later added": func(t *testing.T, f *fixture) {
			f.transaction(remover, deleted...)
			f.want(t, 0, Removed)
			f.transaction(remover, added...)
			f.want(t, 0)
		},
		"removed, and the next offence heard before the next table": func(t *testing.T, f *fixture) {
			f.pass(2 * time.Hour)
			late := &nflog.Message{Src: pair[1], Prefix: ruleset.LogPrefix, Time: f.now.Wall}
			f.pass(time.Millisecond)
			f.transaction(remover, deleted...)
			f.heard(late, f.now)
			f.want(t, 0, Removed, Banned)
			f.pass(time.Millisecond)
			f.offend(a)
			f.want(t, 1, Banned, Escalated) // in vain, as there is no table
			f.transaction(remover, added...)
			f.want(t, 2, Restored, Restored) // in both tiers; the other went with the table
		},
		"expired meanwhile": func(t *testing.T, f *fixture) {
			f.transaction("nft", deleted...)
			f.pass(time.Hour)
			f.transaction("nft", added...)
			f.want(t, 0, TableGone)
		},
		"replaced unheard": func(t *testing.T, f *fixture) {
			for set := range f.stands(2, f.table.sets) {
				f.restore(set, f.now)
			}
			f.want(t, 1, Restored)
		},
		"read, and still the same": func(t *testing.T, f *fixture) {
			if reborn := f.stands(1, f.table.sets); len(reborn) > 0 {
				t.Errorf("%v are taken for new", reborn)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			f.offend(a)
			f.want(t, 0, Banned)
			do(t, f)
		})
	}
}

func TestDoubts(t *testing.T) {
	f := newFixture()
	for _, a := range pair {
		f.offend(a)
	}
	f.beginDump()
	shown := f.event(nftset.ElementAdded, pair[0], time.Hour)
	f.dumped(shown.Set, shown.Element, f.now)
	f.want(t, 0, Banned, Banned) // it was known
	doubts := f.doubts(f.now)
	if len(doubts) != 1 || doubts[0] != (place{"ban6", keyOf(f.source(pair[1]))}) {
		t.Fatalf("in doubt are %v, want the one that was not shown", doubts)
	}
	f.absent(doubts[0], f.now)
	f.want(t, 0, Lifted)
	f.pass(time.Hour - margin)
	f.beginDump()
	if doubts := f.doubts(f.now); len(doubts) > 0 {
		t.Errorf("in doubt are %v, which are about to expire", doubts)
	}
}

// A deletion that is heard of after a dump may be older than what the dump has shown.
func TestDeletionOvertakenByDump(t *testing.T) {
	for _, a := range pair {
		f := newFixture()
		f.offend(a)
		f.want(t, 0, Banned)
		f.beginDump()
		f.dumpEnd = 7
		shown, gone := f.event(nftset.ElementAdded, a, time.Hour), f.event(nftset.ElementDeleted, a, time.Hour)
		f.dumped(shown.Set, shown.Element, f.now)
		for _, generation := range []uint32{6, 7} {
			f.happened(gone, f.now)
			f.happened(nftset.Event{Kind: nftset.Commit, Generation: generation}, f.now)
			f.want(t, 0)
			if want := (place{shown.Set, shown.Element.Interval}); len(f.ask) != 1 || f.ask[0] != want {
				t.Fatalf("to ask for are %v, want %v", f.ask, want)
			}
			f.ask = nil
		}
		f.happened(gone, f.now)
		f.happened(nftset.Event{Kind: nftset.Commit, Generation: 8}, f.now)
		f.want(t, 0, Lifted)
	}
}

// What we have added begins a little later in the kernel, and is no other offence for that.
func TestLateTransaction(t *testing.T) {
	for _, a := range pair {
		f := newFixture()
		f.spec.BanTime = []time.Duration{2 * time.Second, 2 * time.Hour}
		f.reconfigure(f.spec, 24*time.Hour)
		f.offend(a)
		f.want(t, 0, Banned)
		f.pass(3 * time.Second)
		f.offend(a)
		f.want(t, 1, Banned, Escalated)
		set, key := ruleset.BanSet(a, 2), keyOf(f.source(a))
		timeout := f.spec.BanTime[1]
		f.pass(10 * time.Second)
		f.beginDump()
		f.dumped(set, nftset.Element{Interval: key, Timeout: timeout, Expires: timeout}, f.now)
		f.want(t, 0)
		if rec, _ := f.led.Lookup(f.source(a), f.now.Mono); rec.Offences != 2 {
			t.Errorf("%v has %d offences, want 2", a, rec.Offences)
		}
	}
}

// Before Linux 6.12, when the ban time has changed, a ban that began before is told with the new one.
func TestToldWithNewBanTime(t *testing.T) {
	for i, now := range []time.Duration{20 * time.Minute, 3 * time.Hour, 20 * time.Minute, 3 * time.Hour} {
		for _, a := range pair {
			restarted := i >= 2
			f := newFixture()
			was := f.spec.BanTime[0]
			f.offend(a)
			f.want(t, 0, Banned)
			f.spec.BanTime = []time.Duration{now, 100 * time.Hour}
			f.reconfigure(f.spec, 24*time.Hour)
			f.pass(was - 10*time.Minute)
			if restarted {
				f = f.restarted(state.Ban{Prefix: f.source(a), Tier: 1, Timeout: was, Left: 10 * time.Minute})
			}
			el := nftset.Element{Interval: keyOf(f.source(a)), Timeout: now, Expires: 10 * time.Minute}
			for range 2 {
				f.beginDump()
				f.dumped(ruleset.BanSet(a, 1), el, f.now)
				f.want(t, 0)
			}
			if rec, _ := f.led.Lookup(f.source(a), f.now.Mono); rec.Offences != 1 {
				t.Errorf("%v has %d offences, want 1", a, rec.Offences)
			}
			// Another ban is another offence.
			f.pass(11 * time.Minute)
			f.beginDump()
			el.Expires = now - time.Minute
			f.dumped(ruleset.BanSet(a, 1), el, f.now)
			f.want(t, 1, Banned, Escalated)
		}
	}
}

// restarted returns a watcher that has what this one knows from a state file: a ban that was kept, and who has offended.
func (f *fixture) restarted(kept state.Ban) *fixture {
	next := newFixture()
	next.now = f.now
	next.spec = f.spec
	next.reconfigure(f.spec, 24*time.Hour)
	for rec := range f.led.All(f.now.Mono) {
		next.led.Put(rec, f.now.Mono)
	}
	set := ruleset.BanSet(kept.Prefix.Addr(), kept.Tier)
	dump := make(mirror)
	dump.put(set, keyOf(kept.Prefix), held{until: ledger.Instant(kept.Left)})
	next.kept(kept, dump, f.now)
	return next
}
