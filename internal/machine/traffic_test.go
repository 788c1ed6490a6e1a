package machine

import (
	"net/netip"
	"slices"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// traffic returns n packets of each kind, mixed: those of a source stay in
// order.
func (a *agreement) traffic(n int) (out []netnstest.Packet) {
	kinds := [][]netnstest.Packet{a.scan(n), a.crawl(n), a.flood(n), a.visits(n)}
	for len(kinds) > 0 {
		i := a.random.IntN(len(kinds))
		out = append(out, kinds[i][0])
		if kinds[i] = kinds[i][1:]; len(kinds[i]) == 0 {
			kinds = slices.Delete(kinds, i, i+1)
		}
	}
	return out
}

// source returns one of about as many sources, of all kinds that rules tell
// apart.
func (a *agreement) source(of int) netip.Addr {
	n := a.random.IntN(of)
	if n%2 == 0 {
		return a.source4(n)
	}
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(n)}
	switch {
	case n%16 == 1: // a neighbour
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: 1, 15: byte(a.random.IntN(16))})
	case n%16 == 3: // behind NAT64
		return netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: 198, 13: 19, 14: byte(n >> 8), 15: byte(n)})
	case n%16 == 5: // whitelisted
		b[4] = 0x64
	case n%16 == 7: // allowed
		b[4] = 0x65
	case n%16 == 9: // many of one /48
		b[4], b[6], b[7] = 0x20, byte(n>>8), byte(n)
	default:
		b[4], b[5], b[7] = 0x10|byte(n>>12), byte(n>>4), byte(n>>2)
	}
	return netip.AddrFrom16(b)
}

func (a *agreement) source4(n int) netip.Addr {
	switch {
	case n%16 == 2: // whitelisted, or allowed
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(n>>4) % 128})
	case n%16 == 4: // which no host sends from
		return netip.AddrFrom4([4]byte{0, 0, 0, byte(n)})
	}
	return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
}

// syn returns a SYN from a port that is chosen at random.
func (a *agreement) syn(src netip.Addr, port uint16) netnstest.Packet {
	p := a.SYN(src, port)
	p.Src = netip.AddrPortFrom(src, uint16(1024+a.random.IntN(60000)))
	p.Seq = a.random.Uint32()
	return p
}

// scan has sources ask for many ports, by packets of all kinds.
func (a *agreement) scan(n int) (out []netnstest.Packet) {
	flags := []netnstest.TCPFlags{
		netnstest.FlagSYN, netnstest.FlagSYN, netnstest.FlagSYN, netnstest.FlagSYN, netnstest.FlagSYN | netnstest.FlagECE,
		0, netnstest.FlagFIN, netnstest.FlagFIN | netnstest.FlagPSH | netnstest.FlagURG, netnstest.FlagACK, netnstest.FlagRST,
		netnstest.FlagSYN | netnstest.FlagACK, netnstest.FlagRST | netnstest.FlagACK,
	}
	ports := []uint16{lab.TrapTCP, lab.OpenTCP, 443, 8080, 7001, 9003, 8002, 22, 3389, 445}
	for len(out) < n {
		p := a.syn(a.source(max(16, n/20)), uint16(a.random.Uint32()))
		switch p.Flags = flags[a.random.IntN(len(flags))]; a.random.IntN(8) {
		case 0:
			p = a.UDP(p.Src.Addr(), trapUDP)
		case 1, 2:
			p.Dst = netip.AddrPortFrom(p.Dst.Addr(), ports[a.random.IntN(len(ports))])
		case 3: // not to this host
			other := netip.MustParseAddr("192.0.2.255")
			if p.Dst.Addr().Is6() {
				other = netip.MustParseAddr("2001:db8::ffff")
			}
			p.Dst = netip.AddrPortFrom(other, lab.TrapTCP)
		}
		if p.Flags&netnstest.FlagACK != 0 && p.Dst.Port() == lab.OpenTCP {
			continue // of a connection or not: that depends on its numbers
		}
		out = append(out, p)
	}
	return out
}

// crawl has many sources ask for what they hope to find, few times each.
func (a *agreement) crawl(n int) (out []netnstest.Packet) {
	ports := []uint16{80, 80, 443, 22, 8000, 8080, 8443, 2222, 5900, 21, 25, 9200, 7001, 9003, 8002}
	for len(out) < n {
		out = append(out, a.syn(a.source(n/2), ports[a.random.IntN(len(ports))]))
	}
	return out
}

// flood has forged sources.
func (a *agreement) flood(n int) (out []netnstest.Packet) {
	for i := range n {
		b := [4]byte{32 | byte(a.random.IntN(32)), byte(a.random.IntN(256)), byte(a.random.IntN(256)), byte(i)}
		src := netip.AddrFrom4(b)
		if i%2 == 0 {
			src = netip.AddrFrom16([16]byte{0x30, b[0], b[1], b[2], b[3], 7: 1, 15: 1})
		}
		port := uint16(lab.TrapTCP)
		if i%4 < 2 {
			port = uint16(12000 + a.random.IntN(5000))
		}
		out = append(out, a.syn(src, port))
	}
	return out
}

// visits are those of ordinary visitors.
func (a *agreement) visits(n int) (out []netnstest.Packet) {
	for len(out) < n {
		// Not those who scan: what the kernel makes of a forged segment of a banned
		// source depends on its numbers. TestAgreementWithAnswers has real ones.
		n := a.random.IntN(n)
		src := netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})
		if n%2 == 0 {
			src = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb9, 6: byte(n >> 8), 7: byte(n), 15: 1})
		}
		syn := a.syn(src, lab.OpenTCP)
		ack, fin := syn, syn
		ack.Flags, ack.Seq, ack.Payload = netnstest.FlagACK|netnstest.FlagPSH, syn.Seq+1, []byte("GET / HTTP/1.0\r\n\r\n")
		fin.Flags, fin.Seq = netnstest.FlagFIN|netnstest.FlagACK, ack.Seq+uint32(len(ack.Payload))
		out = append(out, syn, ack, a.UDP(src, lab.OpenUDP), netnstest.Ping(src, syn.Dst.Addr(), uint32(len(out))), fin)
		if a.random.IntN(20) == 0 { // somebody mistypes
			out = append(out, a.syn(src, lab.Closed))
		}
	}
	return out[:n]
}
