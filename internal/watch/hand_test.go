package watch

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

func (l *fixture) unban(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		if lifted, _, err := l.Open().Unban(l.source(src)); err != nil || len(lifted) == 0 {
			l.T.Fatalf("unban %v: lifted %v, error %v", src, lifted, err)
		}
	}
}

// What others lift, steps and all, is forgotten: the source begins anew.
func TestUnban(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour, 2*time.Hour)
	w := l.watch()
	offenders, bystanders := l.Sources(1), l.Sources(1)
	l.second(w, offenders...)
	for _, src := range offenders {
		l.unban(src)
		n, err := w.next()
		if err != nil || n.Kind != Lifted || n.Source != l.source(src) || n.Step != 2 {
			t.Fatalf("got %v %+v, error %v", n.Kind, n, err)
		}
	}
	w.quiet()
	if rows := w.rows(); len(rows) != 0 {
		t.Errorf("remembered are %v", rows)
	}
	l.Served(offenders...)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	l.Served(bystanders...)
	w.quiet()
}

// An unban of which the command tells stays one, whether the table is flushed,
// or the watcher killed, or both.
func TestUnbanned(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	path := t.TempDir() + "/state.jsonl"
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	offenders, kept := l.Sources(1), l.Sources(1)
	l.second(w, append(offenders, kept...)...)
	l.unban(offenders...)
	had, err := w.Unbanned(t.Context(), false, l.prefixes(append(offenders, l.Sources(1)...)...)...)
	if err != nil || len(had) > len(offenders) { // fewer, if the watcher has heard of it before
		t.Errorf("had %v, error %v, want at most %v", had, err, offenders)
	}
	l.FlushRuleset()
	l.apply()
	w.awaitNews(Restored, len(kept))
	l.Served(offenders...)
	l.Cut(kept...)
	w.stop()
	l.FlushRuleset()
	l.apply()
	w = l.watch(saves)
	w.awaitNews(Restored, len(kept))
	l.Served(offenders...)
	l.Cut(kept...)
	// Nor does it come back if the table cannot be asked to forget it.
	if err := w.call(t.Context(), func() {
		l.deleteTable()
		w.core.unbanned(l.prefixes(kept[0]), true, now())
	}); err != nil {
		t.Fatal(err)
	}
	w.awaitNews(Restored, 1)
	l.Served(kept[0])
	l.Cut(kept[1])
	// All of them, by two prefixes.
	if err := l.Open().UnbanAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Unbanned(t.Context(), false, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")); err != nil {
		t.Fatal(err)
	}
	l.FlushRuleset()
	l.apply()
	w.awaitNews(TableGone, 1)
	lab.Await(t, "the table is there", func() bool { return w.stats().Table && w.stats().TableCurrent })
	l.Served(kept...)
	if rows := w.rows(); len(rows) != 0 {
		t.Errorf("remembered are %v", rows)
	}
}

// What was unbanned is forgotten on the disk once that is answered, however soon
// after the last time it was written; and a disk that hangs is the answer.
func TestUnbannedOnDisk(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State = path })
	offenders := l.Sources(5)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, src := range offenders {
		l.unban(src)
		if _, err := w.Unbanned(t.Context(), true, l.source(src)); err != nil {
			t.Fatal(err)
		}
		if rows := l.saved(path); len(rows) != len(offenders)-i-1 {
			t.Fatalf("%d sources are saved after %d of %d were unbanned", len(rows), i+1, len(offenders))
		}
	}
	lab.Await(t, "it seems to wait for the disk", func() (hangs bool) {
		w.call(t.Context(), func() { hangs, w.syncing = !w.syncing, true })
		return hangs
	})
	defer w.call(context.Background(), func() { w.syncing = false })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.Unbanned(ctx, true, l.source(offenders[0])); err != ErrNotSaved {
		t.Errorf("while the disk hangs: got %v, want %v", err, ErrNotSaved)
	}
	w.stats() // the loop goes on
}

// To flush a set by hand is to lift what is in it.
func TestFlushSet(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	want := l.many(300, 2)
	w := l.watch()
	w.awaitNews(Escalated, len(want))
	l.NFT("flush set inet portmon ban4; flush set inet portmon ban6")
	w.awaitNews(Lifted, len(want))
	for _, row := range w.rows() {
		if row.Banned || row.Step != 2 {
			t.Fatalf("remembered is %+v, want its step and no ban", row)
		}
	}
	l.FlushRuleset()
	l.apply()
	lab.Await(t, "the steps are back", func() bool {
		for a := range want {
			if l.Lookup(a).Step != 2 {
				return false
			}
		}
		return true
	})
	for a := range want {
		if st := l.Lookup(a); len(st.Bans) > 0 || st.Step != 2 {
			t.Errorf("%v is %+v, want its step and no ban", a, st)
			break
		}
	}
	w.awaitNews(TableGone, 1)
	w.quiet()
}

func TestEditsOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	bystanders := l.Sources(1)
	for i, src := range l.Sources(1) {
		set, key := ruleset.RoleBan.Set(src, 0), l.source(src)
		l.NFT(fmt.Sprintf("add element inet portmon %s { %v timeout 1h comment \"seen %d\" }", set, key.Addr(), i))
		w.want(ByHand, 0, 0, src)
		l.Cut(src)
		l.put(ruleset.Record{Source: key, Banned: true, Timeout: 2 * time.Hour, Remaining: 2 * time.Hour, Comment: "again"})
		w.want(ByHand, 0, 0, src)
		row := w.rows(src)[key]
		if left := row.Remaining(book.ReadClock().Boot); left > 2*time.Hour+slack || left < 2*time.Hour-lab.Patience || row.Comment != "again" || !row.ByHand || row.Cause != ruleset.CauseHand {
			t.Errorf("%v is remembered as %+v", src, row)
		}
		l.NFT(fmt.Sprintf("delete element inet portmon %s { %v }", set, key.Addr()))
		w.want(Lifted, 0, 0, src)
		l.Served(src)
		l.Offend(src) // the ban by hand was no offence
		w.want(Banned, 1, 1, src)
		// In one transaction only the end counts.
		other := netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", i))
		l.NFT(fmt.Sprintf("add element inet portmon ban4 { %[1]v }; delete element inet portmon ban4 { %[1]v }", other))
	}
	l.Served(bystanders...)
	w.quiet()
}

func TestPrefixesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	bystanders := l.Sources(1)
	var forever []netip.Prefix
	for _, src := range l.Sources(1) {
		p, _ := src.Prefix(map[bool]int{true: 24, false: 48}[src.Is4()])
		l.put(ruleset.Record{Source: p, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "net"})
		l.wantPrefix(w, ByHand, p, "net")
		l.Cut(src)
		if _, _, err := l.Open().Unban(p); err != nil {
			t.Fatal(err)
		}
		l.wantPrefix(w, Lifted, p, "net")
		far := netip.PrefixFrom(netip.MustParseAddr(map[bool]string{true: "203.0.113.0", false: "2001:db8:ffff::"}[src.Is4()]), p.Bits())
		l.put(ruleset.Record{Source: far, Banned: true})
		l.wantPrefix(w, ByHand, far, "")
		forever = append(forever, far)
	}
	w.stop()
	l.FlushRuleset()
	l.apply()
	w = l.watch(saves)
	w.awaitNews(Restored, len(forever))
	for _, p := range forever {
		l.Cut(p.Addr().Next())
	}
	// Others are cut by what overlaps them, and nothing of that is lifted.
	for _, p := range forever {
		half := netip.PrefixFrom(p.Addr(), p.Bits()+1)
		l.NFT(fmt.Sprintf("delete element inet portmon %s { %v }; add element inet portmon %[1]s { %[3]v }",
			ruleset.RoleNet.Set(p.Addr(), 0), p, half))
		l.wantPrefix(w, ByHand, half, "")
		l.wantPrefix(w, Lifted, p, "") // and not the comment with which it was put back
	}
	l.Served(bystanders...)
	w.quiet()
}

// The kernel may take out prefixes that are over only when it is asked to
// (Linux 6.12), and find their addresses in others until then.
func TestPrefixesEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	bans := func(d time.Duration, from int) (prefixes []netip.Prefix) {
		var records []ruleset.Record
		for i := from; i < from+40; i += 2 {
			for _, p := range []string{fmt.Sprintf("198.51.%d.0/24", i), fmt.Sprintf("2001:db8:%x::/48", i)} {
				prefixes = append(prefixes, netip.MustParsePrefix(p))
				records = append(records, ruleset.Record{Source: prefixes[len(prefixes)-1], Banned: true, Timeout: d, Remaining: d})
			}
		}
		l.put(records...)
		return prefixes
	}
	long, short, shorter := bans(time.Hour, 100), bans(3*time.Second, 101), bans(time.Second, 151)
	over := now().Boot.Add(4 * time.Second) // tidied before that are the shorter ones
	lab.Await(t, "the watcher to tidy, and no end to wait for any more", func() (tidied bool) {
		if err := w.call(t.Context(), func() {
			k := w.core
			tidied = now().Boot > over && !k.changing && !k.nets && k.reading == nil &&
				len(k.netEnds) > 0 && k.netEnds[0] > over.Add(time.Minute)
		}); err != nil {
			t.Fatal(err)
		}
		return tidied
	})
	for _, p := range slices.Concat(short, shorter) {
		l.Served(p.Addr().Next())
	}
	for _, p := range long {
		l.Cut(p.Addr().Next())
	}
}

// awaitEnd returns when the bans of sources have ended, with the generation that
// the ruleset had before that.
func (l *fixture) awaitEnd(sources ...netip.Addr) (generation uint32) {
	l.T.Helper()
	lab.Await(l.T, "the bans end", func() bool {
		now := l.Open().Generation
		banned := slices.ContainsFunc(sources, func(src netip.Addr) bool { return len(l.Lookup(src).Bans) > 0 })
		if banned {
			generation = now
		}
		return !banned
	})
	return generation
}

// awaitTidied returns when the ruleset has another generation.
func (l *fixture) awaitTidied(generation uint32) {
	l.T.Helper()
	lab.Await(l.T, "the watcher tidies", func() bool { return l.Open().Generation != generation })
}

// A single address is in a set of prefixes if its own set is full.
func TestAddressesInPrefixesEnd(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	l.spec.Size = 1
	l.apply()
	w := l.watch()
	for _, src := range l.Sources(4) {
		l.put(ruleset.Record{Source: l.source(src), Banned: true, Timeout: time.Hour, Remaining: time.Hour})
	}
	short := l.Sources(1)
	for _, src := range short {
		l.put(ruleset.Record{Source: l.source(src), Banned: true, Timeout: 6 * time.Second, Remaining: 6 * time.Second})
		if bans := l.Lookup(src).Bans; len(bans) != 1 || bans[0].Role != ruleset.RoleNet {
			t.Fatalf("%v is under %v", src, bans)
		}
	}
	w.awaitNews(ByHand, 5*len(short))
	l.awaitTidied(l.awaitEnd(short...))
	l.Served(short...)
}

// What ends while no watcher runs is taken out at the next start.
func TestPrefixesEndUnwatched(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	record := func(p string, d time.Duration) ruleset.Record {
		return ruleset.Record{Source: netip.MustParsePrefix(p), Banned: true, Timeout: d, Remaining: d}
	}
	l.put(record("198.51.100.0/24", time.Hour), record("2001:db8:a::/48", time.Hour), record("198.51.101.0/24", time.Second), record("2001:db8:b::/48", time.Second))
	over := []netip.Addr{netip.MustParseAddr("198.51.101.1"), netip.MustParseAddr("2001:db8:b::1")}
	before := l.awaitEnd(over...)
	l.watch()
	l.awaitTidied(before)
	l.Served(over...)
	l.Cut(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:a::1"))
}

func (l *fixture) wantPrefix(w *watcher, kind Kind, p netip.Prefix, comment string) {
	l.T.Helper()
	n, err := w.next()
	if err != nil || n.Kind != kind || n.Source != p || n.Step != 0 || n.Comment != comment {
		l.T.Fatalf("got %v %+v, error %v; want %v of %v", n.Kind, n, err, kind, p)
	}
}

// What was banned before the start is found, and only offences are told.
func TestBansBeforeTheStart(t *testing.T) {
	t.Parallel()
	l := newLab(t, 5*time.Second, time.Hour)
	offenders, byHand, prefix := l.Sources(1), l.Sources(1), netip.MustParsePrefix("203.0.113.0/24")
	for _, p := range append(l.prefixes(byHand...), prefix) {
		l.put(ruleset.Record{Source: p, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "by hand"})
	}
	l.Offend(offenders...) // last, as the bans must not be over before the watcher reads them
	path := t.TempDir() + "/state.jsonl"
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	w.want(Banned, 1, 1, offenders...)
	w.quiet()
	l.AwaitFree(offenders...)
	l.Offend(offenders...)
	w.want(Escalated, 2, 2, offenders...)
	for range 2 {
		w.stop()
		w = l.watch(saves)
		w.quiet() // nothing is counted twice
		for src, row := range w.rows(byHand...) {
			if !row.ByHand || row.Offences != 0 || row.Cause != ruleset.CauseHand || !row.Banned {
				t.Errorf("%v is remembered as %+v", src, row)
			}
		}
		for src, row := range w.rows(offenders...) {
			if row.Step != 2 || row.Offences != 2 || row.Port != lab.TrapTCP {
				t.Errorf("%v is remembered as %+v", src, row)
			}
		}
	}
	l.Cut(offenders...)
	l.Cut(byHand...)
	l.Served(l.Sources(1)...)
}

// What is lifted while no watcher runs stays lifted, in the table and over a
// new one.
func TestLiftedUnwatched(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	path := t.TempDir() + "/state.jsonl"
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	offenders, lifted, bystanders := l.Sources(1), l.Sources(1), l.Sources(1)
	l.second(w, append(offenders, lifted...)...)
	w.stop()
	l.unban(lifted...)
	w = l.watch(saves) // learns that
	w.want(Lifted, 2, 0, lifted...)
	w.stop()
	l.FlushRuleset()
	l.apply()
	w = l.watch(saves)
	w.awaitNews(Restored, len(offenders))
	l.Cut(offenders...)
	l.Served(lifted...)
	l.Offend(lifted...)
	w.want(Banned, 1, 1, lifted...)
	l.Served(bystanders...)
	w.quiet()
}

// A ban that is lifted between the decision to lengthen it and the doing is
// lifted all the same.
func TestLiftedWhileItClimbs(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	for _, src := range l.Sources(1) {
		for range 20 {
			l.NFT(fmt.Sprintf("add element inet portmon %s { %v timeout 1m comment \"offence: x\" }", ruleset.RoleBan.Set(src, 0), l.source(src).Addr()))
			if _, _, err := l.Open().Unban(l.source(src)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Unbanned(t.Context(), false, l.source(src)); err != nil {
				t.Fatal(err)
			}
			lab.Await(t, "it is free", func() bool {
				w.Save(t.Context()) // all is taken in
				return len(l.Lookup(src).Bans) == 0
			})
		}
	}
}
