package machine

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/lab/banlab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m, 4)) }

const (
	trapUDP = 161
	day     = 24 * time.Hour
)

// agreeSpec has limits that give nothing back within the time of a test: how
// long that takes is then of no consequence.
func agreeSpec() ruleset.Spec {
	s := ruleset.Default()
	s.TrapUDP = []ruleset.Ports{{From: trapUDP, To: trapUDP}}
	s.Whitelist = []netip.Prefix{whitelisted4, whitelisted6}
	s.BanTime = []time.Duration{7 * day, 8 * day, 9 * day}
	s.Scan.FindTime = 7 * day
	s.Grace = time.Hour
	s.Size = 1024
	return s
}

var (
	whitelisted4 = netip.MustParsePrefix("198.51.100.0/26")
	whitelisted6 = netip.MustParsePrefix("2001:db8:6400::/40")
	allowed4     = netip.MustParsePrefix("198.51.100.64/26")
	allowed6     = netip.MustParsePrefix("2001:db8:6500::/40")
)

// TestAgreement sends the same packets to the kernel's table and to the machine:
// both must come to the same bans, steps and counters, to the packet.
func TestAgreement(t *testing.T) {
	packets := 500 // of each kind and phase
	if os.Getenv("PORTMON_LONG") != "" {
		packets = 10_000
	}
	for _, tc := range []struct {
		name   string
		change func(*ruleset.Spec)
		times  int
	}{
		{"default", func(*ruleset.Spec) {}, 10},
		{"strict", func(s *ruleset.Spec) { s.Scan.Ports = 1 }, 1},
		{"traps alone", func(s *ruleset.Spec) { s.Scan.Ports = 0 }, 1},
		{"retries and subnets", func(s *ruleset.Spec) { s.MaxRetry, s.FindTime, s.Subnet4, s.Subnet6 = 3, 7*day, 3, 2 }, 1},
		// Without bans of subnets: the /48 of the link would be one, and the errors
		// that its router sends would be dropped, too.
		{"by address", func(s *ruleset.Spec) { s.Prefix6, s.Grace, s.Subnet6 = 128, 0, 0 }, 1},
		{"knocks", func(s *ruleset.Spec) {
			s.Knock = ruleset.Knock{TCP: []uint16{7001, 9003, 8002}, Within: 10 * time.Minute, Allow: time.Hour}
		}, 1},
		{"observe", func(s *ruleset.Spec) { s.Observe, s.MaxRetry, s.FindTime = true, 2, 7*day }, 1},
		{"fleet", func(s *ruleset.Spec) { s.Fleet = 64 }, 1},
		{"full sets", func(s *ruleset.Spec) { s.Size = 64 }, 1},
		{"tiny sets", func(s *ruleset.Spec) { s.Size = 5 }, 1},
		{"whitelisted interface", func(s *ruleset.Spec) { s.Interfaces = []string{"ve*"} }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			spec := agreeSpec()
			tc.change(&spec)
			a := newAgreement(t, spec)
			for range 3 { // steps of the ladder
				a.send(packets * tc.times)
				a.compare()
				a.endBans()
			}
		})
	}
}

// agreement is a kernel and a machine with the same table.
type agreement struct {
	*banlab.Lab
	machine *Machine
	host    *Host
	random  *rand.Rand
	now     int64
}

func newAgreement(t *testing.T, spec ruleset.Spec) *agreement {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	m, err := New(ruleset.Compile(spec))
	if err != nil {
		t.Fatal(err)
	}
	a := &agreement{Lab: banlab.New(t), machine: m, host: NewHost(m), random: rand.New(rand.NewPCG(seed, 0)), now: time.Now().UnixNano()}
	for _, addr := range []netip.Addr{a.Link.B.IPv4, a.Link.B.IPv6} {
		a.host.AddAddr(addr)
	}
	a.host.Open(lab.OpenTCP, unix.IPPROTO_TCP)
	a.host.Open(lab.OpenUDP, unix.IPPROTO_UDP)
	a.Apply(spec)
	h := a.Open()
	tx := &nftset.Tx{}
	if s := h.Set("starting"); s != nil {
		tx.FlushSet(s)
	}
	add := func(name string, el nftset.Element) {
		el.Timeout = time.Hour
		tx.Add(h.Set(name), el)
		if err := m.Add(name, el, a.now); err != nil {
			t.Fatal(err)
		}
	}
	add("allow4", nftset.Prefix(allowed4))
	add("allow6", nftset.Prefix(allowed6))
	for _, src := range []netip.Addr{a.source4(6), a.source4(8), netip.MustParseAddr("2001:db8:1000:2::1"), netip.MustParseAddr("2001:db8:6500::1")} {
		if name := ruleset.RoleFleet.Set(src, 0); h.Set(name) != nil {
			add(name, nftset.Addr(ruleset.FleetSource(src).Addr()))
		}
	}
	if err := a.Conn.Commit(tx); err != nil {
		t.Fatal(err)
	}
	return a
}

// send sends n packets of each kind to both, in one order.
func (a *agreement) send(n int) {
	a.T.Helper()
	a.sendAll(a.traffic(n))
}

func (a *agreement) sendAll(packets []netnstest.Packet) {
	a.T.Helper()
	a.Internet.Send(packets...)
	for _, p := range packets {
		b, err := p.AppendBinary(nil)
		if err != nil {
			a.T.Fatal(err)
		}
		a.receive(b)
	}
}

func (a *agreement) receive(b []byte) {
	a.now += int64(time.Microsecond)
	p := Packet{Now: a.now, In: a.Link.B.Dev}
	if p.Parse(b) {
		a.host.Receive(&p)
	}
}

// compare fails the test unless both have the same counters and elements.
func (a *agreement) compare() {
	a.T.Helper()
	h := a.Open()
	for name, want := range h.Counters {
		got := a.machine.Counter(name)
		if a.host.Answers { // a sniffer skips TCP options
			got.Bytes = want.Bytes
		}
		if got != want {
			a.T.Errorf("counter %s: the machine has %d packets and %d bytes, the kernel %d and %d",
				name, got.Packets, got.Bytes, want.Packets, want.Bytes)
		}
	}
	var sizes []string
	for s := range a.machine.Sets() {
		kernel := make(map[string]time.Duration)
		for el, err := range a.Conn.Elements(h.Set(s.Name)) {
			if err != nil {
				a.T.Fatal(err)
			}
			kernel[el.Interval.String()] = el.Remaining
		}
		machine := make(map[string]time.Duration)
		for el := range s.Elements(a.now) {
			machine[el.Interval.String()] = el.Remaining
		}
		differences := 0
		for _, key := range slices.Sorted(maps.Keys(both(kernel, machine))) {
			k, inKernel := kernel[key]
			m, inMachine := machine[key]
			timed := s.Flags&nftset.FlagDynamic != 0
			if inKernel == inMachine && (!timed || (k-m).Abs() < time.Hour) {
				continue
			}
			if differences++; differences <= 3 {
				a.T.Errorf("set %s: %s is in the kernel %v for %v, in the machine %v for %v", s.Name, key, inKernel, k, inMachine, m)
			}
		}
		if differences > 3 {
			a.T.Errorf("set %s: %d differences", s.Name, differences)
		}
		if len(kernel) > 0 && s.Flags&nftset.FlagDynamic != 0 {
			sizes = append(sizes, fmt.Sprintf("%s %d", s.Name, len(kernel)))
		}
	}
	a.T.Logf("%v, %v", h.Counters, sizes)
}

func both(a, b map[string]time.Duration) map[string]time.Duration {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func removeAll[K oneOf](s *hash[K]) {
	for k := range s.store.rows {
		s.store.delete(k, 1<<s.lane)
	}
}

// endBans ends all bans in both: what is banned next is a step further.
func (a *agreement) endBans() {
	a.T.Helper()
	tx := &nftset.Tx{}
	for _, name := range []string{"ban4", "ban6"} {
		tx.FlushSet(a.Open().Set(name))
		switch s := a.machine.sets[name].set.(type) {
		case *hash[uint64]:
			removeAll(s)
		case *hash[words]:
			removeAll(s)
		}
	}
	if err := a.Conn.Commit(tx); err != nil {
		a.T.Fatal(err)
	}
}

// TestAgreementOfExtensions has SYNs to a trap behind the headers that IPv6 may
// have before them.
func TestAgreementOfExtensions(t *testing.T) {
	t.Parallel()
	a := newAgreement(t, agreeSpec())
	pad := []byte{unix.IPPROTO_TCP, 0, 1, 4, 0, 0, 0, 0}
	var packets []netnstest.Packet
	for i, headers := range []struct {
		first netnstest.Proto
		bytes []byte
	}{
		{unix.IPPROTO_HOPOPTS, pad},
		{unix.IPPROTO_DSTOPTS, pad},
		{unix.IPPROTO_HOPOPTS, append([]byte{unix.IPPROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0}, pad...)},
		{unix.IPPROTO_AH, append([]byte{unix.IPPROTO_TCP, 4}, make([]byte, 22)...)},
		{unix.IPPROTO_ESP, pad},
		{135, pad}, // mobility
	} {
		src := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x70, byte(i), 15: 1})
		syn, err := netnstest.SYN(src, netip.AddrPortFrom(a.Link.B.IPv6, 23)).AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, netnstest.Packet{
			Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(a.Link.B.IPv6, 0), Proto: headers.first,
			Payload: append(headers.bytes, syn[40:]...),
		})
	}
	a.sendAll(packets)
	a.compare()
	if n := a.machine.Counter(ruleset.CounterTrapped).Packets; n != 3 {
		t.Errorf("%d of the packets were offences, want 3", n)
	}
}

// TestAgreementOfCapture does the same with the packets that came in of a capture
// or a log, which PORTMON_CAPTURE names.
func TestAgreementOfCapture(t *testing.T) {
	name := os.Getenv("PORTMON_CAPTURE")
	if name == "" {
		t.Skip("no PORTMON_CAPTURE: not tested: agreement about a capture")
	}
	in, err := capture.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	spec := agreeSpec()
	spec.Size = 1 << 16
	a := newAgreement(t, spec)
	var packets []netnstest.Packet
	for {
		p, err := in.Read()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if q, ok := sendable(p.Data); ok && p.Path == capture.Received {
			packets = append(packets, q)
			if !a.host.IsLocal(q.Dst.Addr()) && a.host.AddAddr(q.Dst.Addr()) {
				a.Host.AddAddr(a.Link.B.Dev, netip.PrefixFrom(q.Dst.Addr(), q.Dst.Addr().BitLen()).String())
			}
		}
	}
	for part := range slices.Chunk(packets, len(packets)/3+1) {
		a.sendAll(part)
		a.compare()
		a.endBans()
	}
}

// sendable returns what can be sent of a packet: its headers.
func sendable(data []byte) (q netnstest.Packet, ok bool) {
	var p Packet
	if !p.Parse(data) || !isUnicast(p.Src) || !isUnicast(p.Dst) {
		return q, false
	}
	src, dst, _ := p.ports()
	flags, _ := p.flags()
	return netnstest.Packet{
		Src: netip.AddrPortFrom(p.Src, src), Dst: netip.AddrPortFrom(p.Dst, dst), Proto: netnstest.Proto(p.Proto), Flags: netnstest.TCPFlags(flags),
	}, p.Proto == unix.IPPROTO_TCP || p.Proto == unix.IPPROTO_UDP
}

func isUnicast(a netip.Addr) bool {
	return !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
