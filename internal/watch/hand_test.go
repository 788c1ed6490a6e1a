package watch

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// second makes sources repeat offenders. The first tier must be short.
func (l *lab) second(w *watcher, sources ...netip.Addr) {
	l.t.Helper()
	l.offend(sources...)
	w.want(banned, 1, 1, sources...)
	l.awaitFree(sources...)
	l.offend(sources...)
	w.want(escalated, 2, 2, sources...)
}

func (l *lab) unban(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		s := l.read()
		if lifted, _, err := s.Unban(l.conn, s.Source(src)); err != nil || len(lifted) == 0 {
			l.t.Fatalf("unban %v: lifted %v, error %v", src, lifted, err)
		}
	}
}

func TestUnbanClearsTheCount(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour, 2*time.Hour)
	w := l.watch()
	offenders := l.pair()
	l.second(w, offenders...)
	for _, src := range offenders {
		l.awaitTier(src, 2, time.Hour, time.Now().Add(-deadline))
		l.unban(src)
		// One for each of the two tiers that it was in: tier 2 is the first that is asked.
		w.want([]Kind{Lifted, Lifted}, 1, 0, src)
	}
	l.served(offenders...)
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	for _, src := range offenders {
		if tiers, _ := l.bans(src); len(tiers) != 1 || tiers[0] != 1 {
			t.Errorf("%v is in tiers %v, want only 1", src, tiers)
		}
	}
	w.quiet()
}

func TestEditsOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	bystanders := l.pair()
	for i, src := range l.pair() {
		set, key := ruleset.BanSet(src, 1), l.read().Source(src)
		l.nft(fmt.Sprintf("add element inet portmon %s { %v timeout 1h comment \"seen %d\" }", set, key.Addr(), i))
		w.want([]Kind{ByHand}, 1, 0, src)
		l.cut(src)
		// `portmon ban` of what is banned adds it, deletes it and adds it anew, in one transaction.
		if _, err := l.read().Ban(l.conn, key, 2*time.Hour, "again"); err != nil {
			t.Fatal(err)
		}
		w.want([]Kind{ByHand}, 1, 0, src)
		l.nft(fmt.Sprintf("delete element inet portmon %s { %v }", set, key.Addr()))
		w.want([]Kind{Lifted}, 1, 0, src)
		l.served(src)
		l.offend(src) // the ban by hand was no offence
		w.want(banned, 1, 1, src)
	}
	l.served(bystanders...)
	w.quiet()
}

func TestPrefixesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	for _, src := range l.pair() {
		bits := 24
		if src.Is6() {
			bits = 48
		}
		p, _ := src.Prefix(bits)
		if _, err := l.read().Ban(l.conn, p, time.Hour, "net"); err != nil {
			t.Fatal(err)
		}
		l.wantPrefix(w, ByHand, p, "net")
		l.cut(src)
		if _, _, err := l.read().Unban(l.conn, p); err != nil {
			t.Fatal(err)
		}
		l.wantPrefix(w, Lifted, p, "net")
		if _, err := l.read().Ban(l.conn, p, ruleset.Forever, ""); err != nil {
			t.Fatal(err)
		}
		l.wantPrefix(w, ByHand, p, "")
	}
	w.quiet()
}

func (l *lab) wantPrefix(w *watcher, kind Kind, p netip.Prefix, reason string) {
	l.t.Helper()
	n, err := w.next()
	if err != nil || n.Kind != kind || n.Source != p || n.Tier != 0 || n.Reason != reason {
		l.t.Fatalf("got %v %+v, error %v; want %v of %v", n.Kind, n, err, kind, p)
	}
}

func TestBansBeforeTheStart(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3*time.Second, time.Hour)
	heard, byHand, prefix := l.pair(), l.pair(), netip.MustParsePrefix("203.0.113.0/24")
	start := time.Now()
	l.offend(heard...)
	for _, src := range byHand {
		s := l.read()
		if _, err := s.Ban(l.conn, s.Source(src), time.Hour, "by hand"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.read().Ban(l.conn, prefix, time.Hour, ""); err != nil {
		t.Fatal(err)
	}
	w := l.watch()
	w.want(banned, 1, 1, heard...) // only they offended
	l.awaitFree(heard...)
	if time.Since(start) < 3*time.Second-10*time.Millisecond { // the kernel counts in jiffies, of 10 ms at most
		t.Error("the watcher shortened a ban")
	}
	l.offend(heard...)
	w.want(escalated, 2, 2, heard...)
	w.quiet()
	w.stop()
	w = l.watch() // another finds what the first has left: who is in tier 2 has two offences
	w.want(banned, 2, 2, heard...)
	w.quiet()
}

func TestOwnEditsAreNotHeard(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	offenders := l.pair()
	l.second(w, offenders...)
	// What somebody does after the escalation is heard after it.
	other := l.pair()[0]
	l.nft(fmt.Sprintf("add element inet portmon ban4 { %v }", other))
	w.want([]Kind{ByHand}, 1, 0, other)
	w.quiet()
	w.stop()
	for _, src := range offenders {
		rec, ok := w.loop.core.led.Lookup(w.loop.core.source(src), state.Clock().Mono)
		if !ok || rec.Offences != 2 || rec.Port != trapTCP {
			t.Errorf("%v: the ledger has %+v, want 2 offences", src, rec)
		}
		if _, ok := w.loop.core.mir.get(ruleset.BanSet(src, 2), keyOf(w.loop.core.source(src))); !ok {
			t.Errorf("%v is not known to be in tier 2", src)
		}
	}
	if _, ok := w.loop.core.mir.get("ban4", nftset.Single(nftset.AddrKey(other))); !ok {
		t.Errorf("%v is not known to be banned", other)
	}
}

// A program that has seen sources do wrong can say so, and they climb as those that a trap has caught.
func TestOffencesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	bystanders, sources := l.pair(), l.pair()
	ban := func(src netip.Addr) {
		s := l.read()
		if _, err := s.Ban(l.conn, s.Source(src), 2*time.Second, ruleset.OffenceMark+"guesses passwords"); err != nil {
			t.Fatal(err)
		}
	}
	for _, src := range sources {
		ban(src)
		w.want(banned, 1, 1, src)
		l.cut(src)
	}
	l.awaitFree(sources...)
	w.stop() // the next is not heard, but found
	for _, src := range sources {
		ban(src)
	}
	w = l.watch(saves)
	w.want(escalated, 2, 2, sources...)
	for _, src := range sources {
		st, err := l.read().Lookup(l.conn, src)
		if err != nil || st.Bans[0].Tier != 2 || st.Bans[0].Comment != ruleset.OffenceMark+"guesses passwords" {
			t.Errorf("%v has bans %+v, error %v, want one in tier 2 with its reason", src, st.Bans, err)
		}
	}
	for range 2 { // nor is anything counted twice
		w.stop()
		w = l.watch(saves)
		w.quiet()
	}
	for src, rec := range l.remembered(path) {
		if rec.Offences != 2 || rec.ByHand {
			t.Errorf("%v is remembered as %+v, want 2 offences", src, rec)
		}
	}
	l.served(bystanders...)
}
