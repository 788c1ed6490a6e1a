package bench

import (
	"bufio"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/portmon/portmon/netnstest"
)

// BenchmarkReplay replays captures of 1 GB beside tcpdump, which reads and writes
// the same packets. To have it print them would take minutes, as it keeps a list
// of the addresses.
func BenchmarkReplay(b *testing.B) {
	s := newSite(b, standard, "")
	random := rand.New(rand.NewPCG(2026, 1))
	forged4 := func(port uint16) netnstest.Packet {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x10000000+random.Uint32N(0x50000000))
		return knock(netip.AddrFrom4(a), netip.MustParseAddr("192.0.2.2"), port, random)
	}
	forged6 := func(port uint16) netnstest.Packet {
		a := [16]byte{0: 0x2a, 15: 1}
		binary.BigEndian.PutUint64(a[1:], random.Uint64())
		return knock(netip.AddrFrom16(a), netip.MustParseAddr("2001:db8::2"), port, random)
	}
	for work, next := range map[string]func() netnstest.Packet{
		"forged SYNs to a trap":                   func() netnstest.Packet { return forged4(23) },
		"forged SYNs to all ports":                func() netnstest.Packet { return forged4(uint16(1 + random.Uint32N(65535))) },
		"forged SYNs to traps and ports, by IPv6": func() netnstest.Packet { return forged6(uint16(22 + random.Uint32N(2))) },
		"full segments": func() netnstest.Packet {
			p := knock(netip.AddrFrom4([4]byte{16, 0, 0, byte(random.Uint32())}), netip.MustParseAddr("192.0.2.2"), 443, random)
			p.Flags, p.Payload = netnstest.FlagACK, make([]byte, 1460)
			return p
		},
	} {
		name := writeCapture(b, size(1_000_000_000), next)
		compare(b, "replay 1 GB of "+work, *rounds,
			contender{"tcpdump -w", s.command("tcpdump", "-r", name, "-w", "/dev/null")},
			contender{"portmon replay", s.portmon("replay", "--json", "--open", "443", name)})
		check(b, os.Remove(name))
	}
}

func knock(src, dst netip.Addr, port uint16, random *rand.Rand) netnstest.Packet {
	p := netnstest.SYN(src, netip.AddrPortFrom(dst, port))
	p.Src = netip.AddrPortFrom(src, uint16(1024+random.Uint32N(60_000)))
	return p
}

// writeCapture writes a capture of so many bytes, with 100,000 packets a second.
func writeCapture(b *testing.B, bytes int, next func() netnstest.Packet) (name string) {
	f, err := os.Create(filepath.Join(b.TempDir(), "capture.pcap"))
	check(b, err)
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := pcapgo.NewWriter(buffered)
	check(b, w.WriteFileHeader(1<<16, layers.LinkTypeEthernet))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var frame []byte
	for n := 24; n < bytes; n += 16 + len(frame) {
		p := next()
		family := layers.EthernetTypeIPv4
		if p.Src.Addr().Is6() {
			family = layers.EthernetTypeIPv6
		}
		frame = binary.BigEndian.AppendUint16(append(frame[:0], make([]byte, 12)...), uint16(family))
		frame, err = p.AppendBinary(frame)
		check(b, err)
		now = now.Add(10 * time.Microsecond)
		check(b, w.WritePacket(gopacket.CaptureInfo{Timestamp: now, CaptureLength: len(frame), Length: len(frame)}, frame))
	}
	check(b, buffered.Flush())
	check(b, f.Close())
	return f.Name()
}
