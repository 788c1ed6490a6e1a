package machine

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// FuzzPackets has no packet crash the machine, whichever end sends it.
func FuzzPackets(f *testing.F) {
	src, dst := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddrPort("192.0.2.2:23")
	src6, dst6 := netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddrPort("[2001:db8::2]:23")
	for _, p := range []netnstest.Packet{
		netnstest.SYN(src, dst), netnstest.SYN(src6, dst6), netnstest.Datagram(src, dst, "x"), netnstest.Ping(src6, dst6.Addr(), 1),
		netnstest.PortUnreachable(dst.Addr(), netnstest.Datagram(src, dst, "x")),
		netnstest.PortUnreachable(src6, netnstest.SYN(src6, dst6)),
	} {
		b, err := p.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, int64(0), uint8(0))
		f.Add(b, int64(1)<<62, uint8(3))
		f.Add(b[:len(b)-3], int64(-1), uint8(5))
		if b[0]>>4 == 6 { // behind extension headers
			with := append(append(append([]byte{}, b[:40]...), b[6], 0, 1, 4, 0, 0, 0, 0), b[40:]...)
			with[6] = unix.IPPROTO_HOPOPTS
			f.Add(with, int64(0), uint8(0))
		}
	}
	specs := []ruleset.Spec{agreeSpec(), agreeSpec(), ruleset.Default()}
	specs[1].Scan.Ports, specs[1].Knock.TCP, specs[1].Subnet4 = 1, []uint16{23, 80, 22}, 1
	specs[2].Size, specs[2].MaxRetry, specs[2].Interfaces = 1, 2, []string{"wg0", "br-*"}
	var machines []*Machine
	for _, spec := range specs {
		m, err := New(ruleset.Compile(spec))
		if err != nil {
			f.Fatal(err)
		}
		machines = append(machines, m)
	}
	h := NewHost(machines...)
	h.AddAddr(dst.Addr())
	h.AddAddr(dst6.Addr())
	h.Open(lab.OpenTCP, unix.IPPROTO_TCP)
	f.Fuzz(func(t *testing.T, b []byte, now int64, how uint8) {
		p := Packet{Now: now, In: []string{"", "lo", "eth0", "br-0123456789abcdefghi"}[how&3]}
		if !p.Parse(b) {
			return
		}
		h.Answers = how&4 != 0
		p.BearsData()
		if how&8 != 0 {
			h.Learn(&p)
			h.Send(&p)
		}
		for _, v := range h.Receive(&p) {
			if v.Dropped && v.Ban.Addr().IsValid() != (v.Set != "") {
				t.Errorf("a ban of %v in %q", v.Ban, v.Set)
			}
		}
	})
}
