package watch

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Whenever the table is deleted and made again while its sets are read, nothing is taken to be lifted, and all comes back.
func TestSwappedWhileItIsRead(t *testing.T) {
	for name, at := range map[string]int{"before the sets are read": 1, "before it ends": 2} {
		for name, apply := range map[string]bool{name + ", made again": true, name + ", made again later": false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, ladder...)
				ends := l.many(1000, 2)
				w := l.watch()
				w.awaitNews(Banned, len(ends))
				prefix := netip.MustParsePrefix("203.0.113.0/24")
				if _, err := l.read().Ban(l.conn, prefix, ruleset.Forever, "net"); err != nil {
					t.Fatal(err)
				}
				l.wantPrefix(w, ByHand, prefix, "net")
				swap := func() {
					l.nft("flush ruleset")
					if apply {
						l.apply()
					}
				}
				if err := w.ask(t.Context(), func(loop *loop) {
					r, err := loop.look()
					if at == 1 {
						swap()
					}
					if err == nil {
						err = loop.gather(r)
					}
					if at == 2 {
						swap()
					}
					if err == nil {
						err = loop.conclude(r)
					}
					if err != nil {
						t.Error(err)
					}
				}); err != nil {
					t.Fatal(err)
				}
				if !apply {
					l.apply()
				}
				for back := 0; back < len(ends)+1; {
					n, err := w.next()
					if err != nil {
						t.Fatalf("%v, with %d of %d bans back", err, back, len(ends)+1)
					}
					switch n.Kind {
					case Restored:
						back += n.Count
					case TableGone:
					default:
						t.Fatalf("got %v %+v", n.Kind, n)
					}
				}
				await(t, "they are in the kernel", func() bool { n, _ := l.count(); return n == len(ends)+1 })
				l.wantAll(ends)
				l.cut(netip.MustParseAddr("203.0.113.9"))
				l.served(l.pair()...)
			})
		}
	}
}

// count returns how many bans the kernel has.
func (l *lab) count() (n int, err error) {
	for _, err := range l.read().Bans(l.conn) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Of a table that was flushed and made again unheard, and of which only the making of some sets was heard, all sets are filled again.
func TestSwappedHalfHeard(t *testing.T) {
	f := newFixture()
	for _, a := range pair {
		f.offend(a)
	}
	f.want(t, 0, Banned, Banned)
	set := ruleset.BanSet(pair[0], 1)
	deleted, added := nftset.Event{Kind: nftset.SetDeleted, Set: set}, nftset.Event{Kind: nftset.SetAdded, Set: set}
	f.transaction("nft", deleted) // the rest of the transaction was lost
	f.transaction("nft", added)
	f.want(t, 1, Restored)
	for set := range f.stands(2, f.table.sets) {
		f.restore(set, f.now)
	}
	edits, _ := f.take()
	if len(edits) != len(pair) {
		t.Errorf("the sets that are filled again are %v, want those of both families", edits)
	}
}

// `portmon remove` counts as such also when a reading has found the table gone before the event came.
func TestRemovedAfterItWasFoundGone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	w := l.watch(func(c *Config) { c.State = path })
	offenders := l.pair()
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	if err := w.ask(t.Context(), func(loop *loop) {
		l.remove()
		if err := loop.resync(); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	w.awaitNews(TableGone, 1)
	w.awaitNews(Removed, 1)
	time.Sleep(patience + 200*time.Millisecond) // nothing tells that nothing will happen
	if l.read().Exists {
		t.Error("the table was made again")
	}
	l.apply()
	await(t, "the table is heard of", func() bool { s, err := w.Stats(t.Context()); return err == nil && s.Table })
	l.served(offenders...)
}
