package machine

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// BenchmarkReceive is a packet through one machine.
func BenchmarkReceive(b *testing.B) {
	dst := netip.MustParseAddr("192.0.2.2")
	random := rand.New(rand.NewPCG(1, 1))
	syn := func(src netip.Addr, port uint16) []byte {
		p := netnstest.SYN(src, netip.AddrPortFrom(dst, port))
		p.Src = netip.AddrPortFrom(src, uint16(random.Uint32()))
		out, err := p.AppendBinary(nil)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	visitor := netip.MustParseAddr("203.0.113.7")
	packets := make(map[string][][]byte)
	for range 1 << 14 {
		v := random.Uint32()
		packets["scan"] = append(packets["scan"], syn(netip.AddrFrom4([4]byte{198, 18, byte(v), byte(v>>8) & 3}), uint16(random.Uint32())))
		packets["flood"] = append(packets["flood"], syn(netip.AddrFrom4([4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}), 23))
		packets["visit"] = append(packets["visit"], syn(visitor, 80))
		ack := syn(visitor, 80)
		ack[33] = byte(netnstest.FlagACK)
		packets["segment"] = append(packets["segment"], ack)
	}
	for _, kind := range []string{"scan", "flood", "visit", "segment"} {
		b.Run(kind, func(b *testing.B) {
			m, err := New(ruleset.Compile(ruleset.Default()))
			if err != nil {
				b.Fatal(err)
			}
			h := NewHost(m)
			h.AddAddr(dst)
			h.Open(80, unix.IPPROTO_TCP)
			p := Packet{Now: time.Now().UnixNano()}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p.Now += int64(time.Microsecond)
				if p.Parse(packets[kind][i&(1<<14-1)]) {
					h.Receive(&p)
				}
				i++
			}
		})
	}
}
