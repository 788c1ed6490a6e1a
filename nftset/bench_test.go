package nftset

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// bareDump asks for a dump of a set and reads it with no look at the elements.
func bareDump(t testing.TB, fd int, buf []byte, s *Set) {
	var e encoder
	at := e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, s.Table.Family, 1)
	e.b = append(e.b, listOf(s)...)
	e.finish(at)
	if err := unix.Sendto(fd, e.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) >= nfnl.HeaderLen; b = b[binary.NativeEndian.Uint32(b):] {
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return
			case unix.NLMSG_ERROR:
				t.Fatal("error instead of a dump")
			}
		}
	}
}

// BenchmarkElements compares with a bare loop, in turns, for what the machine
// does meanwhile. The ratio is of the best times.
func BenchmarkElements(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		for _, kind := range []struct {
			name  string
			flags Flags
		}{{"hash", FlagTimeout}, {"interval", FlagInterval}} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				l := newLab(b)
				elems := slices.Collect(spread(uint64(n)))
				if kind.flags&FlagTimeout != 0 {
					for i := range elems {
						elems[i].Timeout = time.Hour
					}
				}
				s := l.addSet(&Set{Name: "s", Type: IPv4Addr, Flags: kind.flags}, elems...)
				fd := -1
				l.host.Do(func() {
					var err error
					if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
						b.Fatal(err)
					}
				})
				defer unix.Close(fd)
				buf := make([]byte, 64<<10)
				if n := len(l.read(s)); n != len(elems) { // and the kernel's table is what it will be
					b.Fatalf("%d elements", n)
				}

				bare, own := time.Hour, time.Hour
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					begin := time.Now()
					bareDump(b, fd, buf, s)
					bare = min(bare, time.Since(begin))
					b.StartTimer()
					begin = time.Now()
					count := 0
					for _, err := range l.Elements(s) {
						if err != nil {
							b.Fatal(err)
						}
						count++
					}
					own = min(own, time.Since(begin))
					if count != n {
						b.Fatalf("%d elements", count)
					}
				}
				b.ReportMetric(float64(own)/float64(bare), "×bare")
				b.ReportMetric(float64(own.Nanoseconds())/float64(n), "ns/element")
			})
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, kind := range []struct {
		name  string
		flags Flags
		n     int
	}{{"one", FlagTimeout, 1}, {"hash", FlagTimeout, 100_000}, {"interval", FlagInterval, 100_000}} {
		b.Run(fmt.Sprintf("%s/%d", kind.name, kind.n), func(b *testing.B) {
			l := newLab(b)
			s := l.addSet(&Set{Name: "s", Type: IPv4Addr, Flags: kind.flags, Size: uint32(2 * kind.n)})
			elems := slices.Collect(spread(uint64(kind.n)))
			b.ReportAllocs()
			for b.Loop() {
				if err := l.AddSeq(s, each(elems...)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				var tx Tx
				tx.FlushSet(s)
				l.commit(&tx)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(kind.n), "ns/element")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	l := newLab(b)
	for name, flags := range map[string]Flags{"hash": 0, "interval": FlagInterval} {
		b.Run(name, func(b *testing.B) {
			elems := slices.Collect(spread(50_000))
			s := l.set(name, IPv4Addr, flags, elems...)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := l.Get(s, elems[i%len(elems)].From); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.StopTimer()
			var tx Tx
			tx.DeleteSet(s)
			l.commit(&tx)
		})
	}
}

// BenchmarkGetMany asks for all keys of a set.
func BenchmarkGetMany(b *testing.B) {
	l := newLab(b)
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			elems := slices.Collect(spread(uint64(n)))
			s := l.set(fmt.Sprint(n), IPv4Addr, 0, elems...)
			b.ReportAllocs()
			for b.Loop() {
				count := 0
				for _, err := range l.GetMany(s, keysOf(elems)) {
					if err != nil {
						b.Fatal(err)
					}
					count++
				}
				if count != n {
					b.Fatalf("%d elements", count)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/key")
			b.StopTimer()
			var tx Tx
			tx.DeleteSet(s)
			l.commit(&tx)
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	r := random(b)
	for _, n := range []int{1000, 100_000} {
		var in []Interval
		for range n {
			in = append(in, randomInterval(r, IPv4Addr))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Merge(in)
			}
		})
	}
}
