package netnstest

import (
	"net/netip"
	"testing"
)

func BenchmarkProbe(b *testing.B) {
	client, server, link := pair(b)
	server.Listen("tcp", "[::]:80")
	server.Listen("udp", "[::]:53")
	for name, p := range map[string]Packet{
		"SYN+ACK":       SYN(link.A.IPv4, at(link.B.IPv4, 80)),
		"RST":           SYN(link.A.IPv4, at(link.B.IPv4, 81)),
		"UDP":           Datagram(link.A.IPv4, at(link.B.IPv4, 53), "x"),
		"none":          SYN(v4a.Addr(), at(link.B.IPv4, 80)),
		"none from UDP": Datagram(netip.MustParseAddr("203.0.113.1"), at(link.B.IPv4, 53), "x"),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				client.With(b).Probe(p)
			}
		})
	}
}

// BenchmarkBurst sends to a closed port from sources that the far end has no route to, so that nothing is answered.
func BenchmarkBurst(b *testing.B) {
	client, _, link := pair(b)
	b.ResetTimer()
	client.Burst(b.N, func(i int) Packet {
		src := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		return Datagram(src, at(link.B.IPv4, 9), "x")
	})
}
