package replay

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	host4 = netip.MustParseAddr("192.0.2.2")
	host6 = netip.MustParseAddr("2001:db8::2")
)

// scene is a replay of packets that tests make up.
type scene struct {
	*testing.T
	*Replay
	now time.Time
}

func newScene(t *testing.T, change func(*Config)) *scene {
	c := Config{Spec: ruleset.Default()}
	if change != nil {
		change(&c)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &scene{t, r, start}
}

// send adds a packet, a while after the one before.
func (s *scene) send(p netnstest.Packet, path capture.Path, after time.Duration) {
	s.Helper()
	b, err := p.AppendBinary(nil)
	if err != nil {
		s.Fatal(err)
	}
	s.now = s.now.Add(after)
	s.Add(&capture.Packet{Time: s.now, Data: b, Path: path})
}

func syn(src string, dst netip.Addr, port uint16) netnstest.Packet {
	p := netnstest.SYN(netip.MustParseAddr(src), netip.AddrPortFrom(dst, port))
	p.Src = netip.AddrPortFrom(p.Src.Addr(), 40000)
	return p
}

// reply returns what goes the other way.
func reply(p netnstest.Packet, flags netnstest.TCPFlags) netnstest.Packet {
	p.Src, p.Dst, p.Flags = p.Dst, p.Src, flags
	return p
}

// exchange is a SYN and its answer: of a program that listens, or a reset.
func (s *scene) exchange(p netnstest.Packet, listens bool) {
	s.Helper()
	s.send(p, capture.PathUnknown, time.Second)
	answer := netnstest.FlagRST | netnstest.FlagACK
	if listens {
		answer = netnstest.FlagSYN | netnstest.FlagACK
	}
	s.send(reply(p, answer), capture.PathUnknown, time.Millisecond)
}

func (s *scene) result() *Result {
	s.Finish()
	return s.Result()
}

func (r *Result) offender(t *testing.T, source string) Offender {
	t.Helper()
	for _, o := range r.Offenders {
		if o.Source.Prefix == netip.MustParsePrefix(source) {
			return o
		}
	}
	t.Fatalf("%s is not among the offenders %v", source, r.Offenders)
	return Offender{}
}

// TestListeners has a port on which a program listens by the answers that come
// after the first SYN, so that it is not a closed one.
func TestListeners(t *testing.T) {
	s := newScene(t, nil)
	for i := range 20 {
		s.exchange(syn(fmt.Sprintf("198.51.100.%d", i), host4, 23), true)
		s.exchange(syn(fmt.Sprintf("2001:db8:%x::1", i+1), host6, 22), true)
	}
	s.exchange(syn("203.0.113.1", host4, 3389), false)
	r := s.result()
	if len(r.Addrs) != 2 || r.Addrs[0] != host4 || r.Addrs[1] != host6 {
		t.Errorf("the host has the addresses %v, want %v and %v", r.Addrs, host4, host6)
	}
	if len(r.Services) != 2 || !r.Answers {
		t.Errorf("services %v, want those at ports 22 and 23", r.Services)
	}
	if r.Unwanted != 1 || len(r.Offenders) != 1 {
		t.Errorf("%d SYNs to closed ports, offenders %v, want one", r.Unwanted, r.Offenders)
	}
	if o := r.offender(t, "203.0.113.1/32"); o.Kind != (Kind{1, ruleset.CauseTrap}) || o.Port != 3389 || o.Protocol != "tcp" {
		t.Errorf("got %+v", o)
	}
}

// TestOpen names the ports, as a log does not show them.
func TestOpen(t *testing.T) {
	s := newScene(t, func(c *Config) { c.Open = []Port{{23, unix.IPPROTO_TCP}} })
	s.send(syn("203.0.113.1", host4, 23), capture.Received, 0)
	s.send(syn("203.0.113.2", host4, 445), capture.Received, 0)
	r := s.result()
	if r.offender(t, "203.0.113.2/32"); len(r.Offenders) != 1 {
		t.Errorf("offenders are %v, want one", r.Offenders)
	}
}

// TestLadder has a source come again whenever its ban has ended, with what other
// settings make of it.
func TestLadder(t *testing.T) {
	s := newScene(t, nil)
	for _, wait := range []time.Duration{0, time.Minute, 11 * time.Minute, time.Hour, 9 * time.Hour, 24 * time.Hour} {
		s.send(syn("203.0.113.1", host4, 23), capture.Received, wait)
	}
	for port := range uint16(6) { // of one /64
		s.send(syn(fmt.Sprintf("2001:db8:7:7::%d", port+1), host6, 200+port), capture.Received, time.Minute)
	}
	r := s.result()
	if o := r.offender(t, "203.0.113.1/32"); o.Bans != 3 || o.Dropped != 6 || o.Kind.Step != 3 || o.First != start {
		t.Errorf("got %+v, want three bans up to step 3, and 6 packets dropped", o)
	}
	if o := r.offender(t, "2001:db8:7:7::/64"); o.Kind != (Kind{1, ruleset.CauseScan}) || o.Port != 204 {
		t.Errorf("got %+v, want a ban for the fifth port", o)
	}
	for _, st := range r.Settings {
		// Traps: of 6 packets, those of the ladder that ban, and those in between.
		// Scans: from the port on that is one too many.
		want := map[int]int{1: 6, 3: 4, 5: 2, 10: 0, 0: 0}[st.ScanPorts] + 6
		if st.DroppedUnwanted != want {
			t.Errorf("%d ports and %v: %d SYNs dropped, want %d", st.ScanPorts, st.BanTime, st.DroppedUnwanted, want)
		}
		bans := map[int]int{1: 5, 2: 2, 3: 3}[len(st.BanTime)]
		if len(st.BanTime) == 1 {
			bans = 5
		}
		if scans := btoi(st.ScanPorts > 0 && st.ScanPorts < 10); st.Bans-scans != bans {
			t.Errorf("%d ports and %v: %d bans, want %d", st.ScanPorts, st.BanTime, st.Bans, bans+scans)
		}
		if st.Current != (st.ScanPorts == 5 && len(st.BanTime) == 3) {
			t.Errorf("%d ports and %v: current is %v", st.ScanPorts, st.BanTime, st.Current)
		}
	}
	if r.Unwanted != 12 {
		t.Errorf("%d SYNs to closed ports, want 12", r.Unwanted)
	}
}

// TestManyAtOnce has more sources offend at a time than the limits let in.
func TestManyAtOnce(t *testing.T) {
	s := newScene(t, func(c *Config) { c.Spec.Size = 64 })
	for i := range 200 {
		s.send(syn(fmt.Sprintf("203.0.113.%d", i+1), host4, 23), capture.Received, 0)
	}
	r := s.result()
	if n := r.Configured.Bans; n == 0 || r.HeldBack == 0 || n+int(r.HeldBack+r.Full) != 200 || r.Configured.Dropped != 200 {
		t.Errorf("%d bans, %d offences held back, %d found a set full, %d packets dropped, of 200", n, r.HeldBack, r.Full, r.Configured.Dropped)
	}
}

// TestFalseAlarm has visitors who also touch a trap: before they use a service or
// after, alone or beside others of their subnet.
func TestFalseAlarm(t *testing.T) {
	s := newScene(t, func(c *Config) { c.Spec.Subnet4 = 2 })
	trap := func(src string, dst netip.Addr) { s.exchange(syn(src, dst, 23), false) }
	visit := func(src string, dst netip.Addr) {
		p := syn(src, dst, 443)
		s.exchange(p, true)
		p.Flags = netnstest.FlagACK
		s.send(p, capture.PathUnknown, time.Millisecond)
		p.Flags, p.Payload = netnstest.FlagACK|netnstest.FlagPSH, []byte("GET / HTTP/1.0\r\n\r\n")
		s.send(p, capture.PathUnknown, time.Millisecond)
	}
	visit("198.51.100.1", host4)
	trap("198.51.100.1", host4)
	visit("2001:db8:7:7::1", host6)
	trap("2001:db8:7:7::1", host6)
	trap("198.51.101.2", host4)
	visit("198.51.101.2", host4)
	s.exchange(syn("198.51.102.3", host4, 443), true) // a scanner: it sends nothing
	trap("198.51.102.3", host4)
	trap("203.0.113.4", host4)
	trap("203.0.113.5", host4)
	visit("203.0.113.6", host4)
	r := s.result()
	for source, want := range map[string]int{
		"198.51.100.1/32": 1, "2001:db8:7:7::/64": 1, "198.51.101.2/32": 1, "198.51.102.3/32": 0, "203.0.113.0/24": 1,
	} {
		if o := r.offender(t, source); o.Visits != want || want > 0 && o.VisitPort != 443 {
			t.Errorf("%s: %d visits, last to port %d, want %d to 443", source, o.Visits, o.VisitPort, want)
		}
	}
	if st := r.Configured; st.Visitors != 4 || !st.Current {
		t.Errorf("%d offenders have used a service, want 4", st.Visitors)
	}
}

// TestInterfaces has packets of which only those of loopback name the interface,
// as in a capture of the device "any".
func TestInterfaces(t *testing.T) {
	s := newScene(t, nil)
	b, err := syn("127.0.0.1", netip.MustParseAddr("127.0.0.1"), 23).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Add(&capture.Packet{Time: start, Data: b, Path: capture.Received, In: "lo"})
	s.send(syn("203.0.113.1", host4, 23), capture.Received, time.Second)
	if s.result().Interfaces {
		t.Error("interfaces are said to be known")
	}
}

// TestTimeline has times far apart, and back.
func TestTimeline(t *testing.T) {
	s := newScene(t, nil)
	for i, wait := range []time.Duration{0, time.Second, time.Minute, time.Hour, 40 * 24 * time.Hour, 20 * 365 * 24 * time.Hour, -time.Hour} {
		s.send(syn("203.0.113.1", host4, uint16(1000+i)), capture.Received, wait)
	}
	r := s.result()
	unwanted, dropped := 0, 0
	for _, m := range r.Moments {
		unwanted += m.Unwanted
		dropped += m.Dropped
	}
	if unwanted != 7 || len(r.Moments) > maxMoments || r.Disorder != 1 {
		t.Errorf("%d SYNs in %d moments, %d out of order; want 7, at most %d, and 1", unwanted, len(r.Moments), r.Disorder, maxMoments)
	}
	if dropped != r.Configured.DroppedUnwanted {
		t.Errorf("%d dropped by time, %d in all", dropped, r.Configured.DroppedUnwanted)
	}
}

// TestOffendersOfOtherSettings has more offenders than there is room for, by a
// stricter setting than that of the configuration, of which none gets lost.
func TestOffendersOfOtherSettings(t *testing.T) {
	counts := newTally(2, 64)
	ban := func(setting int, src netip.Addr) {
		counts.ban(0, setting, &machine.Packet{Src: src}, &machine.Verdict{Set: "ban4", Ban: nftset.AddrKey(src)})
	}
	for i := range uint32(maxOffenders + 1) {
		ban(1, netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	ban(0, host4)
	if len(counts.offenders) != 1 || counts.unlisted != 0 {
		t.Errorf("the configuration bans %d, and %d that are not listed, want one", len(counts.offenders), counts.unlisted)
	}
}

// TestDaysOfClockChange has days of 23 and 25 hours, and one without a midnight.
func TestDaysOfClockChange(t *testing.T) {
	local := time.Local
	defer func() { time.Local = local }()
	for _, tt := range []struct {
		zone  string
		month time.Month
		day   int
	}{{"Europe/Berlin", 3, 22}, {"Europe/Berlin", 10, 18}, {"America/Havana", 3, 1}} {
		zone, err := time.LoadLocation(tt.zone)
		if err != nil {
			t.Skip(err)
		}
		time.Local = zone
		var line timeline
		for day := range 14 {
			for _, hour := range []int{1, 23} {
				at := time.Date(2026, tt.month, tt.day+day, hour, 30, 0, 0, zone)
				line.add(at.UnixNano(), moment{unwanted: 1})
			}
		}
		moments := line.moments()
		if len(moments) != 14 {
			t.Fatalf("%s: %d parts, want 14 days", tt.zone, len(moments))
		}
		for day, m := range moments {
			first := time.Date(2026, tt.month, tt.day+day, 1, 0, 0, 0, zone) // there is no midnight in Havana on 8 March
			if at := m.Start.In(zone); at.Day() != first.Day() || at.Hour() > 0 && !at.Equal(first) || m.Unwanted != 2 {
				t.Errorf("%s: %d SYNs from %v on, want 2 from %v on", tt.zone, m.Unwanted, m.Start, first)
			}
		}
	}
}

// TestWrongClock has packets that are years ahead: a few, whose time is wrong,
// and so many that the clock must have been set back behind them. A scan goes on
// in either case, neither in no time at all nor over years.
func TestWrongClock(t *testing.T) {
	const years = 20 * 365 * 24 * time.Hour
	for _, tt := range []struct {
		ahead int
		took  time.Duration
	}{{1, 4 * time.Hour}, {maxStray, 4 * time.Hour}, {maxStray + 1, years + 3*time.Hour}, {2 * held, years + 3*time.Hour}} {
		s := newScene(t, nil)
		for i := range uint16(5) {
			s.send(syn("203.0.113.1", host4, 200+i), capture.Received, 0)
			if i == 2 {
				s.now = s.now.Add(years)
				for range tt.ahead {
					s.send(syn("203.0.113.2", host4, 200), capture.Received, 0)
				}
				s.now = s.now.Add(-years)
			}
			s.now = s.now.Add(time.Hour)
		}
		r := s.result()
		if took := r.To.Sub(r.From).Round(time.Hour); took != tt.took || r.Disorder != 1 {
			t.Errorf("%d ahead: %v from the first to the last, %d out of order, want %v and 1", tt.ahead, took, r.Disorder, tt.took)
		}
		if tt.took < years {
			r.offender(t, "203.0.113.1/32")
		}
	}
}

// TestHost has the addresses of the host found among packets that do not tell
// them.
func TestHost(t *testing.T) {
	scanner, other := "203.0.113.1", netip.MustParseAddr("192.0.2.3")
	addrs := func(from, to int) (all []netip.Addr) {
		for i := from; i < to; i++ {
			all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
		return all
	}
	tests := []struct {
		name    string
		packets func(s *scene)
		named   []netip.Addr
		want    []netip.Addr
		how     Certainty
	}{
		{"too few others by IPv6", func(s *scene) {
			for i := range 5 {
				s.exchange(syn(fmt.Sprintf("198.51.100.%d", i), host4, 443), true)
			}
			s.exchange(syn(scanner, host4, 23), false)
			s.exchange(syn("2001:db8:7::1", host6, 443), true)
		}, nil, []netip.Addr{host4, host6}, Uncertain},
		{"a scanner alone, the first of whose SYNs is missing", func(s *scene) {
			s.send(reply(syn(scanner, host4, 22), netnstest.FlagRST|netnstest.FlagACK), capture.PathUnknown, 0)
			s.exchange(syn(scanner, host4, 23), false)
		}, nil, []netip.Addr{host4}, Uncertain},
		{"a scanner of many addresses", func(s *scene) {
			for _, a := range addrs(10, 20) {
				s.send(reply(syn(scanner, a, 22), netnstest.FlagRST|netnstest.FlagACK), capture.PathUnknown, 0)
				for port := range uint16(9) {
					s.exchange(syn(scanner, a, 20+port), port == 2)
				}
			}
		}, nil, addrs(10, 20), Uncertain},
		{"a host that also opens connections", func(s *scene) {
			for i := range 5 {
				s.exchange(syn(host4.String(), netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 443), true)
			}
			s.exchange(syn(scanner, host4, 23), false)
		}, nil, []netip.Addr{host4}, Guessed},
		{"broadcasts alone", func(s *scene) {
			s.send(syn("192.0.2.9", netip.MustParseAddr("255.255.255.255"), 67), capture.PathUnknown, 0)
			s.send(syn("192.0.2.9", netip.MustParseAddr("224.0.0.1"), 67), capture.PathUnknown, 0)
		}, nil, nil, Certain},
		{"named, where others have more to do", func(s *scene) {
			for i := range 5 {
				s.exchange(syn(fmt.Sprintf("198.51.100.%d", i), other, 443), true)
			}
			s.exchange(syn(scanner, host4, 23), false)
		}, []netip.Addr{host4}, []netip.Addr{host4}, Certain},
		{"as the file says", func(s *scene) { s.send(syn(scanner, host4, 23), capture.Received, 0) }, nil, []netip.Addr{host4}, Certain},
	}
	for _, tt := range tests {
		s := newScene(t, func(c *Config) { c.Host = tt.named })
		tt.packets(s)
		r := s.result()
		if !slices.Equal(r.Addrs, tt.want) || r.Certainty != tt.how {
			t.Errorf("%s: the host has the addresses %v (%v), want %v (%v)", tt.name, r.Addrs, r.Certainty, tt.want, tt.how)
		}
		if by4 := r.CertaintyOf(host4); len(r.Addrs) == 2 && (by4 != Guessed || !slices.Equal(r.Uncertain, []netip.Addr{host6})) {
			t.Errorf("%s: IPv4 is %v, and %v uncertain, want only %v", tt.name, by4, r.Uncertain, host6)
		}
		if tt.named != nil && r.Unwanted != 1 {
			t.Errorf("%s: %d SYNs to closed ports, want 1", tt.name, r.Unwanted)
		}
	}
}

// FuzzReplay has no packet crash a replay.
func FuzzReplay(f *testing.F) {
	b, err := syn("203.0.113.1", host4, 23).AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int64(0), uint8(0), "eth0")
	f.Add(b, int64(1)<<62, uint8(7), "")
	r, err := New(Config{Spec: ruleset.Default()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, now int64, how uint8, in string) {
		for range 3 {
			r.Add(&capture.Packet{Time: time.Unix(0, now), In: in, Data: b, Path: capture.Path(how % 6), Accepted: how&64 > 0})
		}
		r.Finish()
		if res := r.Result(); res.Configured.Dropped > res.Packets {
			t.Errorf("%d of %d packets dropped", res.Configured.Dropped, res.Packets)
		}
	})
}
