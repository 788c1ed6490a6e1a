package watch

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// many bans that many sources, of both families, in a tier. It returns the times at which the bans end.
func (l *lab) many(n, tier int) map[place]time.Time {
	l.t.Helper()
	ends := make(map[place]time.Time)
	for _, first := range l.pair() {
		set := l.read().Set(ruleset.BanSet(first, tier))
		var els []nftset.Element
		for i := range n / 2 {
			a := first.As16()
			at := len(a) - 4
			if first.Is6() {
				at = 4
			}
			binary.BigEndian.PutUint32(a[at:], binary.BigEndian.Uint32(a[at:])+uint32(i)<<4)
			p := l.sourceAt(a)
			left := time.Hour + time.Duration(i)*time.Second
			els = append(els, nftset.Element{Interval: keyOf(p), Timeout: 8 * time.Hour, Expires: left})
			ends[place{set.Name, keyOf(p)}] = time.Now().Add(left)
		}
		if err := l.conn.Add(set, nftset.Each(els...)); err != nil {
			l.t.Fatal(err)
		}
	}
	return ends
}

func (l *lab) sourceAt(a [16]byte) netip.Prefix {
	addr := netip.AddrFrom16(a).Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = l.spec.Prefix6
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// wantAll fails the test unless all these bans are there, and end when they should.
func (l *lab) wantAll(ends map[place]time.Time) {
	l.t.Helper()
	const tolerance = 3 * time.Second // on a busy machine it takes that long from the one clock to the other
	wrong := 0
	for p, end := range ends {
		el, err := l.conn.Get(l.setOf(p.set), p.key.From)
		if d := time.Until(end) - el.Expires; err != nil || d.Abs() > tolerance {
			if wrong++; wrong < 5 {
				l.t.Errorf("%v of %v: error %v, it ends %v too early", p.key, p.set, err, d)
			}
		}
	}
	if wrong > 0 {
		l.t.Errorf("%d of %d bans are wrong", wrong, len(ends))
	}
}

func (l *lab) setOf(set string) *nftset.Set {
	for _, s := range banSets(nftset.Table{Family: nftset.FamilyINet, Name: l.spec.Table}) {
		if s.Name == set {
			return &s
		}
	}
	return nil
}

// awaitNews returns when there are such news, and passes over others.
func (w *watcher) awaitNews(kind Kind, n int) {
	w.t.Helper()
	for n > 0 {
		news, err := w.next()
		if err != nil {
			w.t.Fatalf("%v, want %v", err, kind)
		}
		if news.Kind == kind {
			n -= max(news.Count, 1)
		}
	}
}

// offendTwice leaves a pair of sources in the second tier, and returns when their bans end.
func (l *lab) offendTwice(w *watcher) ([]netip.Addr, map[place]time.Time) {
	l.t.Helper()
	offenders := l.pair()
	l.second(w, offenders...)
	ends := make(map[place]time.Time)
	for _, src := range offenders {
		var left time.Duration
		await(l.t, "it is in the second tier only", func() bool {
			var tiers []int
			tiers, left = l.bans(src)
			return slices.Equal(tiers, []int{2})
		})
		ends[place{ruleset.BanSet(src, 2), keyOf(l.read().Source(src))}] = time.Now().Add(left)
	}
	return offenders, ends
}

// ladder has a first tier that is over soon, and a second that lasts.
var ladder = []time.Duration{2 * time.Second, 9 * time.Hour, 30 * time.Hour}

func TestReload(t *testing.T) {
	const bans = 10_000
	for name, reload := range map[string]func(*lab){
		"flush, then apply": func(l *lab) {
			l.nft("flush ruleset")
			l.apply()
		},
		"one transaction": func(l *lab) {
			f, err := ruleset.Probe(l.conn)
			if err != nil {
				l.t.Fatal(err)
			}
			l.nft("flush ruleset\n" + ruleset.Compile(l.spec, f, nil).String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, ladder...)
			ends := l.many(bans, 1)
			w := l.watch()
			w.awaitNews(Banned, bans)
			offenders, more := l.offendTwice(w)
			maps.Copy(ends, more)
			bystanders := l.pair()
			for range 2 {
				reload(l)
				start := time.Now()
				w.awaitNews(Restored, bans+len(more))
				if d := time.Since(start); d > time.Second {
					t.Errorf("it took %v until the bans were back", d)
				} else {
					t.Logf("all bans were back after %v", d)
				}
				l.wantAll(ends)
				l.cut(offenders...)
				l.served(bystanders...)
			}
		})
	}
}

func TestReapply(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	w := l.watch()
	offenders, ends := l.offendTwice(w)
	prefix := netip.MustParsePrefix("203.0.113.0/24")
	if _, err := l.read().Ban(l.conn, prefix, time.Hour, "net"); err != nil {
		t.Fatal(err)
	}
	l.wantPrefix(w, ByHand, prefix, "net")
	ends[place{"net4", nftset.FromPrefix(prefix)}] = time.Now().Add(time.Hour)
	start := time.Now()
	l.nft("flush ruleset")
	w.awaitNews(TableGone, 1)
	w.awaitNews(Restored, len(ends))
	if d := time.Since(start); d < patience || d > patience+time.Second {
		t.Errorf("it took %v until the bans were back", d)
	}
	l.wantAll(ends)
	l.cut(offenders...)
	next := l.pair()
	l.served(next...)
	l.offend(next...)
	w.want(banned, 1, 1, next...)
	w.quiet()
}

func TestRemove(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	w := l.watch()
	offenders, _ := l.offendTwice(w)
	l.remove()
	w.awaitNews(Removed, 1)
	time.Sleep(patience + patience/2) // nothing happens, and nothing tells so
	if l.read().Exists {
		t.Fatal("the watcher made a table that its owner had removed")
	}
	l.apply()
	l.served(offenders...)
	l.offend(offenders...) // it is the third time all the same
	w.want(escalated, 3, 3, offenders...)
	w.quiet()
}

// remove does what `portmon remove` does, in a process of that name.
func (l *lab) remove() {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(l.t.TempDir(), remover)
	if err := os.Symlink(self, path); err != nil {
		l.t.Fatal(err)
	}
	l.host.Do(func() {
		cmd := exec.Command(path)
		cmd.Env = append(os.Environ(), roleVariable+"="+roleRemove)
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("%v: %s", err, out)
		}
	})
}
