package book

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/ruleset"
)

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{65_536, 500_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := bigFile(b, n)
			defer cpu(b)()
			for b.Loop() {
				book, _, err := Open(config(path, 0))
				if err != nil || book.Len() != n {
					b.Fatal(err)
				}
				book.Close()
			}
		})
	}
}

func BenchmarkRewrite(b *testing.B) {
	book, _, err := Open(config(bigFile(b, 500_000), 0))
	if err != nil {
		b.Fatal(err)
	}
	defer book.Close()
	defer cpu(b)()
	for b.Loop() {
		book.store.replace()
		if err := book.Sync(clock); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	path := bigFile(b, 500_000)
	source := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 1, 2, 3}), 32)
	defer cpu(b)()
	for b.Loop() {
		book, _, err := Read(config(path, 0), source)
		if err != nil || book.Len() != 1 {
			b.Fatal(err)
		}
	}
}

func BenchmarkAmend(b *testing.B) {
	path := bigFile(b, 500_000)
	source := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 1, 2, 3}), 32)
	defer cpu(b)()
	for b.Loop() {
		if err := amend(config(path, 0), nil, []netip.Prefix{source}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	path := bigFile(b, 65_536)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		book, _, err := Open(config(path, 131_072))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB")
		runtime.KeepAlive(book)
		book.Close()
	}
}

// cpu reports how much time the processors spend on an operation, which hardly
// depends on what else they do.
func cpu(b *testing.B) func() {
	spent := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := spent()
	return func() {
		b.ReportMetric(float64((spent()-before).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
	}
}

func bigFile(t testing.TB, n int) string {
	path := filepath.Join(t.TempDir(), "state.jsonl")
	b, _, err := Open(config(path, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		b.Put(Row{
			Source: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 32),
			Banned: true, Timeout: 8 * time.Hour, Until: clock.Boot.Add(time.Hour + time.Duration(i)*time.Millisecond), Step: 1,
			StepUntil: clock.Boot.Add(24 * time.Hour), Cause: ruleset.CauseTrap, Offences: 1, Last: clock.Boot.Add(-7 * time.Hour), Proto: 6, Port: uint16(i),
		})
	}
	if err := b.Sync(clock); err != nil {
		t.Fatal(err)
	}
	b.Close()
	return path
}
