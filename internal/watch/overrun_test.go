package watch

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// The kernel's default for the buffer of a socket.
const smallBuffer = 212992 / 2

func TestBurst(t *testing.T) {
	n := 60_000
	l := newLab(t)
	over := make(chan struct{})
	w := l.watch(func(c *Config) {
		c.ReadBuffer = smallBuffer
		news := c.News
		// The watcher hangs with the first news, as one that is not scheduled does, so that more is lost than a fast one would lose.
		c.News = func(n []News) {
			<-over
			news(n)
		}
	})
	bystanders := l.pair()
	source := func(i int) netip.Addr {
		if i%2 == 0 {
			return netip.AddrFrom4([4]byte{198, 19, byte(i / 2 >> 8), byte(i / 2)})
		}
		a := netip.MustParseAddr("2001:db8:2::bad").As16()
		binary.BigEndian.PutUint16(a[6:], uint16(i/2))
		return netip.AddrFrom16(a)
	}
	start := time.Now()
	l.outside.Sender("").Burst(n, func(i int) netnstest.Packet { return netnstest.SYN(source(i), l.to(source(i), trapTCP)) })
	burst := time.Since(start)
	close(over)
	// Each offence is told once, whether it was heard or found.
	told := make(map[netip.Prefix]int)
	found := 0
	for len(told) < n {
		news, err := w.next()
		if err != nil {
			t.Fatalf("%v after %d of %d offences", err, len(told), n)
		}
		if told[news.Source]++; news.Kind != Banned || news.Offences != 1 || told[news.Source] > 1 {
			t.Fatalf("got %v %+v", news.Kind, news)
		}
		if news.Port == 0 {
			found++
		}
	}
	t.Logf("%d packets in %v; %d offences were found by reading the sets, the last after %v", n, burst, found, time.Since(start))
	if found == 0 {
		t.Error("nothing was lost: this was no test")
	}
	l.served(bystanders...)
	l.cut(source(0), source(1), source(n-2), source(n-1))
	w.quiet()
	next := l.pair() // how many were lost comes with the next message
	l.offend(next...)
	w.want(banned, 1, 1, next...)
	n += len(next)
	stats, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counted := uint64(0)
	for _, n := range stats.Offences {
		counted += n
	}
	if stats.LogOverruns == 0 || stats.LostMessages == 0 || stats.Resyncs < 2 || counted != uint64(n) || stats.Bans["ban4"]+stats.Bans["ban6"] != n {
		t.Errorf("stats are %+v, want an overrun, and %d offences and bans", stats, n)
	}
	w.stop()
	if got := w.loop.core.led.Len(); got != n {
		t.Errorf("the ledger has %d sources, want %d", got, n)
	}
	bans := 0
	for _, err := range l.read().Bans(l.conn) {
		if err != nil {
			t.Fatal(err)
		}
		bans++
	}
	if bans != n {
		t.Errorf("the kernel has %d bans, want %d", bans, n)
	}
}

// What others lift while nobody can hear it is found to be gone.
func TestEventsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch(func(c *Config) { c.ReadBuffer = 4096 })
	offenders, kept := l.pair(), l.pair()
	l.offend(append(offenders, kept...)...)
	w.want(banned, 1, 1, append(offenders, kept...)...)
	// One transaction with more elements than the buffer takes, which ends with what matters.
	tx := &nftset.Tx{}
	tx.AddElements(l.setOf("ban4"), func(yield func(nftset.Element) bool) {
		for i := range 20_000 {
			a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
			if !yield(nftset.Element{Interval: nftset.Single(nftset.AddrKey(a))}) {
				return
			}
		}
	})
	for _, src := range offenders {
		tx.DeleteElements(l.setOf(ruleset.BanSet(src, 1)), nftset.Singles(nftset.AddrKey(l.read().Source(src).Addr())))
	}
	if err := l.conn.Commit(tx); err != nil {
		t.Fatal(err)
	}
	lifted, heard := make(map[netip.Prefix]bool), 0
	for len(lifted) < len(offenders) {
		n, err := w.next()
		if err != nil {
			t.Fatalf("%v: lifted are %v, want %v", err, lifted, offenders)
		}
		switch n.Kind {
		case Lifted:
			lifted[n.Source] = true
		case ByHand:
			heard++
		}
	}
	if heard > 0 {
		t.Error("nothing was lost: this was no test")
	}
	for _, src := range offenders {
		if !lifted[l.read().Source(src)] {
			t.Errorf("%v was lifted unheard", src)
		}
	}
	l.served(offenders...)
	l.cut(kept...)
	l.offend(offenders...)
	for _, src := range offenders {
		await(t, "it is banned again", func() bool { tiers, _ := l.bans(src); return len(tiers) == 1 })
	}
}
