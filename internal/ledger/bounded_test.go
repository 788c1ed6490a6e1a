package ledger

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// source returns a different one for each number, every other an IPv6 network.
func source(n int) netip.Prefix {
	if n%2 == 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(n))
		return netip.PrefixFrom(netip.AddrFrom4(a), 32)
	}
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(a[4:], uint32(n))
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// A flood of sources that come once does not wash out those that came back.
func TestFull(t *testing.T) {
	l := New(Config{Ladder: []time.Duration{time.Second, time.Minute}, Forget: day, Max: 100})
	for i := range 50 { // repeaters 0 to 49
		offend(l, source(i), 0)
		offend(l, source(i), time.Second)
	}
	for i := range 10000 {
		offend(l, source(100+i), time.Minute+time.Duration(i)*time.Millisecond)
	}
	known := func(n int) bool {
		_, ok := l.Lookup(source(n), at(2*time.Minute))
		return ok
	}
	for i := range 50 {
		if !known(i) || !known(10050+i) {
			t.Fatalf("of the repeater %d and the %d most recent first-timers, one is forgotten", i, i)
		}
	}
	if l.Len() != 100 || known(10049) {
		t.Errorf("%d records, want 100 without an older first-timer", l.Len())
	}
	// Without first-timers, the repeater counted longest ago goes.
	for i := range 50 {
		offend(l, source(10050+i), time.Hour)
	}
	offend(l, source(0), time.Hour)
	offend(l, source(200), time.Hour)
	if l.Len() != 100 || !known(0) || known(1) || !known(2) || !known(200) {
		t.Errorf("%d records: repeaters 0 %v, 1 %v, 2 %v", l.Len(), known(0), known(1), known(2))
	}
	l.Reconfigure(Config{Ladder: []time.Duration{time.Second}, Forget: day, Max: 10})
	if l.Len() != 10 || known(200) || !known(0) {
		t.Errorf("%d records after making it smaller", l.Len())
	}
}

// A week in which a scanner comes every second and some come back: the memory stays within its bounds, and a month later all are
// forgotten.
func TestWeek(t *testing.T) {
	rng := random(t)
	c := usual
	c.Max = 200000 // two and a half days of newcomers: nobody stays away for longer
	l := New(c)
	banned := make(map[int]Instant)
	truth := make(map[int]int)
	now := at(0)
	for second := range 7 * 24 * 3600 {
		now = at(time.Duration(second) * time.Second)
		n := 100000 + second // never seen
		if rng.IntN(10) == 0 {
			n = rng.IntN(1000) // an old friend
		}
		if now < banned[n] {
			continue
		}
		v := l.Offend(Offence{Source: source(n), At: now}, now)
		if !v.Counted {
			t.Fatalf("an offence of source %d was not counted: %+v", n, v)
		}
		if n < 1000 {
			banned[n] = now.Add(v.Timeout)
			truth[n]++
		}
		if second%3600 == 0 {
			l.Forget(now)
		}
		if l.Len() > c.Max {
			t.Fatalf("%d records", l.Len())
		}
	}
	if records := chunk * len(l.slab.chunks); records > c.Max+2*chunk {
		t.Errorf("room for %d records", records)
	}
	repeaters := 0
	for n, want := range truth {
		rec, ok := l.Lookup(source(n), now)
		switch {
		case want > 1 && (!ok || rec.Offences != want):
			t.Errorf("repeater %d: %d offences, want %d", n, rec.Offences, want)
		case want > 1:
			repeaters++
		}
	}
	if repeaters < 900 {
		t.Errorf("%d repeaters", repeaters)
	}
	if l.Forget(now.Add(30*day)) == 0 || l.Len() == 0 {
		t.Error("after 30 days, those in the first tier are to be forgotten, and no others")
	}
	l.Forget(now.Add(60*day + 1))
	if l.Len() != 0 {
		t.Errorf("%d records after two months", l.Len())
	}
}

// The default of a million records takes less than 100 MB, in any place of the growth of the index.
func TestMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := New(usual)
	for i := range DefaultMax + 1000 {
		offend(l, source(i), 0)
	}
	n, bytes := l.Len(), heap()-before
	t.Logf("%d records in %d MB, %d bytes each", n, bytes>>20, bytes/uint64(n))
	if n != DefaultMax || bytes > 100<<20 {
		t.Errorf("%d records in %d bytes", n, bytes)
	}
	if perRecord := bytes / uint64(n); perRecord > 97 {
		t.Errorf("%d bytes for a record", perRecord)
	}
	runtime.KeepAlive(l)
}

func benchmarkOffend(b *testing.B, records int) {
	l := New(usual)
	all := make([]netip.Prefix, records)
	for i := range all {
		all[i] = source(i)
		offend(l, all[i], 0)
	}
	b.ReportAllocs()
	now := 8 * time.Hour
	for i := 0; b.Loop(); i++ {
		if i%records == 0 {
			now += 30 * day
		}
		// Far from the one before, as sources are.
		offend(l, all[i*7919%records], now)
	}
}

func BenchmarkOffend1000(b *testing.B)    { benchmarkOffend(b, 1000) }
func BenchmarkOffend65536(b *testing.B)   { benchmarkOffend(b, 65536) }
func BenchmarkOffend1000000(b *testing.B) { benchmarkOffend(b, DefaultMax) }

// Every source is new and takes the place of another.
func BenchmarkOffendFull(b *testing.B) {
	c := usual
	c.Max = 65536
	l := New(c)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		offend(l, source(i), time.Duration(i))
	}
}

func BenchmarkSeenKnown(b *testing.B) {
	l := New(usual)
	offend(l, home, 0)
	ban := Ban{home, 1, 0, at(8 * time.Hour)}
	b.ReportAllocs()
	for b.Loop() {
		l.Seen(ban, at(time.Hour))
	}
}

func BenchmarkForget1000000(b *testing.B) {
	l := New(usual)
	for i := range DefaultMax {
		offend(l, source(i), 0)
	}
	for b.Loop() {
		l.Forget(0)
	}
}
