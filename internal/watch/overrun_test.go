package watch

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// hang keeps the loop from hearing anything, as one that is not scheduled,
// until the function that it returns is called.
func (w *watcher) hang() (release func()) {
	w.t.Helper()
	hangs, hold, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { done <- w.call(w.t.Context(), func() { close(hangs); <-hold }) }()
	<-hangs
	goOn := sync.OnceFunc(func() { close(hold) })
	w.t.Cleanup(goOn) // if the test ends early
	return func() {
		w.t.Helper()
		goOn()
		if err := <-done; err != nil {
			w.t.Fatal(err)
		}
	}
}

// In a burst that is too much for the log's buffer, each offence is told once,
// whether it was heard or found.
func TestBurst(t *testing.T) {
	t.Parallel()
	const n = 8_000
	l := newLab(t)
	w := l.watch(func(c *Config) { c.ReadBuffer = 8192 })
	bystanders := l.Sources(1)
	source := func(i int) netip.Addr {
		if i%2 == 0 {
			return netip.AddrFrom4([4]byte{198, 19, byte(i / 2 >> 8), byte(i / 2)})
		}
		a := netip.MustParseAddr("2001:db8::bad").As16()
		binary.BigEndian.PutUint32(a[2:], uint32(i/2)<<16|0xdb80) // no /48 has two
		return netip.AddrFrom16(a)
	}
	release := w.hang()
	start := time.Now()
	l.Internet.Burst(n, func(i int) netnstest.Packet { return netnstest.SYN(source(i), l.To(source(i), lab.TrapTCP)) })
	burst := time.Since(start)
	release()
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
	l.Served(bystanders...)
	l.Cut(source(0), source(1), source(n-2), source(n-1))
	next := l.Sources(1) // how many were lost comes with the next message
	l.Offend(next...)
	w.want(Banned, 1, 1, next...)
	lab.Await(t, "the sets are read again", func() bool { return w.stats().Resyncs >= 3 })
	s := w.stats()
	counted := uint64(0)
	for _, n := range s.Offences {
		counted += n
	}
	if all := n + len(next); s.LogOverruns == 0 || s.LostMessages == 0 || counted != uint64(all) ||
		s.Bans[Place{4, 1}]+s.Bans[Place{6, 1}] != all || s.Offenders != all {
		t.Errorf("stats are %+v, want an overrun, and %d offences and bans", s, all)
	}
	w.quiet()
}

// What others lift while nobody can hear it is found to be gone.
func TestEventsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch(func(c *Config) { c.ReadBuffer = 4096 })
	offenders, kept := l.Sources(1), l.Sources(1)
	l.Offend(append(offenders, kept...)...)
	w.want(Banned, 1, 1, append(offenders, kept...)...)
	h := l.Open()
	// One transaction with more elements than the buffer takes, which ends with
	// what matters.
	tx := &nftset.Tx{}
	tx.AddSeq(h.Set("ban4"), func(yield func(nftset.Element) bool) {
		for i := range 5_000 {
			a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
			if !yield(nftset.Addr(a)) {
				return
			}
		}
	})
	for _, src := range offenders {
		tx.Delete(h.Set(ruleset.RoleBan.Set(src, 0)), nftset.Addr(l.source(src).Addr()))
	}
	release := w.hang()
	err := l.Conn.Commit(tx)
	release()
	if err != nil {
		t.Fatal(err)
	}
	w.awaitNews(Lifted, len(offenders))
	if s := w.stats(); s.EventOverruns == 0 {
		t.Error("nothing was lost: this was no test")
	}
	l.Served(offenders...)
	l.Cut(kept...)
	lab.Await(t, "all are known", func() bool { return len(w.rows()) == 5_000+len(offenders)+len(kept) })
}

// A table that is deleted and made again unheard is found to be another one.
func TestSwapUnheard(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	want := l.many(1000, 2)
	w := l.watch(func(c *Config) { c.ReadBuffer = 4096 })
	w.awaitNews(Escalated, len(want))
	release := w.hang()
	set := l.Open().Set("ban4")
	add := func(i int) {
		t.Helper()
		tx := &nftset.Tx{}
		tx.AddSeq(set, func(yield func(nftset.Element) bool) {
			for j := range 50 {
				a := netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), byte(j)})
				if !yield(nftset.Element{Interval: nftset.Addr(a).Interval, Timeout: time.Second}) {
					return
				}
			}
		})
		if err := l.Conn.Commit(tx); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	lab.Await(t, "no more is taken from the socket", func() bool { n++; add(n); return len(w.reports) == backlog })
	for range 50 {
		n++
		add(n) // until its buffer is full
	}
	for range 20 { // these are lost for certain
		l.FlushRuleset()
		l.apply()
	}
	release()
	w.awaitNews(Restored, len(want))
	if s := w.stats(); s.EventOverruns == 0 || s.News[TableGone] != 0 {
		t.Errorf("%d overruns, and the table was heard to be gone %d times: this was no test", s.EventOverruns, s.News[TableGone])
	}
	l.wantAll(want, 2)
	l.Served(l.Sources(1)...)
}

// While the sets are read, everything else goes on, and what changes meanwhile
// is right in the end.
func TestBesideAReading(t *testing.T) {
	t.Parallel()
	l := newLab(t, time.Hour, 2*time.Hour) // longer than this takes on any machine
	want := l.many(40_000, 2)
	w := l.watch()
	w.awaitNews(Escalated, len(want))
	var lifted []netip.Addr
	for a := range want {
		if lifted = append(lifted, a); len(lifted) == 20 {
			break
		}
	}
	offenders := l.Sources(10)
	reads := func() (running bool, count uint64) {
		if err := w.call(t.Context(), func() { running, count = w.core.reading != nil, w.core.counters.Resyncs }); err != nil {
			t.Fatal(err)
		}
		return running, count
	}
	_, before := reads()
	if err := w.call(t.Context(), func() { w.core.resync(now()) }); err != nil {
		t.Fatal(err)
	}
	asked := 0
	if running, _ := reads(); running {
		asked++
	}
	for i, src := range offenders {
		l.unban(lifted[i])
		l.Offend(src)
		if running, n := reads(); running && n < before+2 {
			asked++
		}
	}
	if asked == 0 {
		t.Error("nothing could be asked while the sets were read")
	}
	lab.Await(t, "they are read twice", func() bool { _, n := reads(); return n >= before+2 })
	w.awaitNews(Banned, len(offenders))
	for _, a := range lifted[:len(offenders)] {
		delete(want, a)
	}
	lab.Await(t, "the book is what the kernel has", func() bool { w.Save(t.Context()); return len(w.rows()) == len(want)+len(offenders) })
	banned := make(map[netip.Prefix]bool)
	for a := range want {
		banned[l.source(a)] = true
	}
	for src, row := range w.rows() {
		if !banned[src] && row.Step != 1 || !row.Banned {
			t.Errorf("%v is remembered as %+v", src, row)
		}
	}
	l.Served(lifted[:len(offenders)]...)
}

// A ban whose source cannot be asked for when its message comes is found in the
// sets.
func TestSourceUnknown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	faults := make(chan error, 100)
	w := l.watch(func(c *Config) { c.Fault = func(err error) { faults <- err } })
	offenders := l.Sources(1)
	w.sources.Close()
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	if len(faults) == 0 {
		t.Error("nothing was wrong: this was no test")
	}
	l.Cut(offenders...)
	l.Served(l.Sources(1)...)
}
