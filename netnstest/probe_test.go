package netnstest

import (
	"net/netip"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	start := time.Now()
	a, b := NewHost(t, "client"), NewHost(t, "server")
	l := Connect(t, a, b, "192.0.2.0/24", "2001:db8::/64")
	t.Log(time.Since(start), l.A, l.B)
	tcp := b.ListenTCP("[::]:80")
	udp := b.ListenUDP("[::]:53")
	for _, at := range [][2]netip.Addr{{l.A.IPv4, l.B.IPv4}, {l.A.IPv6, l.B.IPv6}} {
		for port, want := range map[uint16]string{80: "SYN+ACK", 81: "RST"} {
			start := time.Now()
			if got := a.Probe(SYN(at[0], netip.AddrPortFrom(at[1], port))); got.String() != want {
				t.Errorf("SYN to %d: %v, want %s", port, got, want)
			}
			t.Log(time.Since(start))
		}
		for port, want := range map[uint16]string{53: `UDP "hello"`, 54: "port unreachable"} {
			start := time.Now()
			if got := a.Probe(Datagram(at[0], netip.AddrPortFrom(at[1], port), "hello")); got.String() != want {
				t.Errorf("UDP to %d: %v, want %s", port, got, want)
			}
			t.Log(time.Since(start))
		}
		t.Log(a.Probe(Ping(at[0], at[1], 77)))
		start := time.Now()
		t.Log(a.Probe(SYN(netip.MustParseAddr("198.51.100.1"), netip.AddrPortFrom(l.B.IPv4, 80))))
		t.Log(time.Since(start))
		if err := a.DialTCP(netip.Addr{}, netip.AddrPortFrom(at[1], 80), time.Second); err != nil {
			t.Error(err)
		}
		if err := a.ExchangeUDP(netip.Addr{}, netip.AddrPortFrom(at[1], 53), time.Second); err != nil {
			t.Error(err)
		}
		if err := a.ExchangeUDP(netip.Addr{}, netip.AddrPortFrom(at[1], 54), time.Second); err == nil {
			t.Error("no error")
		} else {
			t.Log(err)
		}
	}
	t.Log(tcp.Count(), udp.Count())
	s := b.Sniff("eth0")
	a.Send(SYN(netip.MustParseAddr("203.0.113.1"), netip.AddrPortFrom(l.B.IPv4, 80)))
	t.Log(s.Next(0))
	t.Log(s.Next(0))
	start = time.Now()
	a.Sender("").Burst(100000, func(i int) Packet {
		return Datagram(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), netip.AddrPortFrom(l.B.IPv4, 9999), "")
	})
	t.Log(time.Since(start))
}
