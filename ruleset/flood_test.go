package ruleset

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// forgery makes up sources, no two of them alike: of IPv4 in 32.0.0.0/3, of
// IPv6 in a /48 each within 3000::/8, both of which no other source of a test
// is in.
type forgery struct {
	family
	n uint32
}

func (f *forgery) next() netip.Addr {
	f.n++
	n := f.n * 2654435761 // odd, so that it makes no two numbers one
	if f.is6() {
		return netip.AddrFrom16([16]byte{0x30, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 1, 15: 1})
	}
	return netip.AddrFrom4([4]byte{32 | byte(n>>24)&31, byte(n >> 16), byte(n >> 8), byte(n)})
}

// flood sends n SYNs from forged sources to ports that port chooses.
func (l *fixture) flood(f *forgery, n int, port func(i int) uint16) {
	l.T.Helper()
	dst := l.To(l.ours(f.next()), 0).Addr()
	l.Internet.Burst(n, func(i int) netnstest.Packet {
		p := netnstest.SYN(f.next(), at(dst, port(i)))
		p.Src = netip.AddrPortFrom(p.Src.Addr(), uint16(1024+i%60000))
		return p
	})
}

func toTrap(int) uint16 { return lab.TrapTCP }

// toClosed are ports of which none is a trap.
func toClosed(i int) uint16 { return 12000 + uint16(i*7919%5000) }

// floodSpec has sets that a flood can be seen to fill, were they not guarded.
func floodSpec() Spec {
	spec := trapSpec()
	spec.Size = 4096
	spec.Scan.FindTime = 10 * time.Minute
	return spec
}

// filled fails the test unless a set holds something, and has room.
func (l *fixture) filled(set string, most uint32) {
	l.T.Helper()
	if n := l.size(set); n == 0 || n > int(most) {
		l.T.Errorf("%s holds %d elements, want some and at most %d", set, n, most)
	}
}

// TestFloodOfTrapPackets forges first offences: repeat offenders are banned all
// the same, and real scanners soon after.
func TestFloodOfTrapPackets(t *testing.T) {
	const waves, wave = 5, 5000
	spec := floodSpec()
	spec.BanTime[0] = time.Minute
	separately(t, spec, func(l *fixture, f family) {
		forged := &forgery{family: f}
		bystander := l.source(f)
		var repeaters, scanners, byHand []netip.Addr
		var records []Record
		for range 3 {
			a := l.source(f)
			repeaters, scanners, byHand = append(repeaters, a), append(scanners, l.source(f)), append(byHand, l.source(f))
			records = append(records, Record{Source: netip.PrefixFrom(network(a), a.BitLen()), Step: 1, StepRemaining: time.Hour})
			if f.is6() {
				records[len(records)-1].Source = netip.PrefixFrom(network(a), 64)
			}
		}
		if refused, err := l.open().Put(records); err != nil || refused != nil {
			l.T.Fatal(refused, err)
		}
		before := l.counters()
		start := time.Now()
		for i := range waves {
			l.flood(forged, wave, toTrap)
			if i < len(repeaters) {
				l.Offend(repeaters[i])
				l.wantStanding(repeaters[i], 2, CauseTrap)
				l.Cut(repeaters[i])
				r := Record{Source: netip.PrefixFrom(byHand[i], byHand[i].BitLen()), Banned: true, Comment: "by hand"}
				if refused, err := l.open().Put([]Record{r}); err != nil || refused != nil {
					l.T.Fatal(refused, err)
				}
				l.Cut(byHand[i])
			}
			l.Served(bystander)
		}
		for i, scanner := range scanners {
			lab.Await(l.T, fmt.Sprintf("scanner %d to be banned", i), func() bool {
				l.Offend(scanner) // whatever becomes of it
				return len(l.lookup(scanner).Bans) > 0
			})
			l.Cut(scanner)
		}
		after := l.counters()
		trapped, held := after[CounterTrapped]-before[CounterTrapped], after[CounterHeldBack]-before[CounterHeldBack]
		banned, full := after[CounterBanned]-before[CounterBanned], after[CounterFull]-before[CounterFull]
		l.T.Logf("%d packets in %v: %d bans, %d held back, %d found the set full", trapped, time.Since(start), banned, held, full)
		if trapped < waves*wave || trapped != banned+held {
			l.T.Errorf("of %d trap packets %d banned and %d were held back: want at least %d, and each of them one or the other",
				trapped, banned, held, waves*wave)
		}
		if full != 0 {
			l.T.Errorf("%d found no room", full)
		}
		l.filled(f.ban(), spec.Size*7/8+uint32(len(repeaters)+len(byHand)))
		l.filled(f.tier(1), 2*spec.Size)
		l.Served(bystander)
		l.wantStanding(bystander, 0, CauseUnknown)
	})
}

// TestFloodOfClosedPorts forges probes: what is not counted is said, and
// scanners are caught soon after.
func TestFloodOfClosedPorts(t *testing.T) {
	const waves, wave = 5, 5000
	spec := floodSpec()
	spec.Subnet6 = 0 // the sources of a lab are of one /48
	separately(t, spec, func(l *fixture, f family) {
		forged := &forgery{family: f}
		bystander := l.source(f)
		before := l.counters()
		for range waves {
			l.flood(forged, wave, toClosed)
			knocker := l.source(f) // traps are another matter
			l.Offend(knocker)
			l.wantStanding(knocker, 1, CauseTrap)
			l.Served(bystander)
		}
		uncounted := l.counters()[CounterUncounted] - before[CounterUncounted]
		if uncounted < waves*wave-uint64(2*spec.Size) {
			l.T.Errorf("%d of %d forged probes were not counted: the others have filled the set", uncounted, waves*wave)
		}
		for range 3 {
			scanner, port := l.source(f), uint16(200)
			lab.Await(l.T, "a scanner to be banned", func() bool {
				port++
				l.Internet.Send(l.SYN(scanner, port))
				return len(l.lookup(scanner).Bans) > 0
			})
			l.wantStanding(scanner, 1, CauseScan)
			if got := l.probed(scanner); len(got) != spec.Scan.Ports {
				l.T.Errorf("it was caught with the ports %v, want %d", got, spec.Scan.Ports)
			}
			l.Cut(scanner)
		}
		l.filled(f.probed(), 4*spec.Size-1)
		l.filled(f.score(), 4*spec.Size-1)
		l.Served(bystander)
		l.wantStanding(bystander, 0, CauseUnknown)
		if n := l.size(f.ban()); n != waves+3 {
			l.T.Errorf("%d sources are banned, want those that are to blame: %d", n, waves+3)
		}
	})
}

// TestFloodFromOneNetwork has nothing to forge in a /48 of its own: it is
// banned as a whole.
func TestFloodFromOneNetwork(t *testing.T) {
	l := newTrap(t, floodSpec())
	bystander := l.source(families[1])
	l.Internet.Burst(20000, func(i int) netnstest.Packet {
		p := l.SYN(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x66, 0x66, byte(i >> 8), byte(i), 15: 1}), lab.TrapTCP)
		p.Src = netip.AddrPortFrom(p.Src.Addr(), 4000)
		return p
	})
	if n := l.size("ban6"); n != 7 {
		t.Errorf("%d /64s are banned, want 7", n)
	}
	if b := l.bans()["2001:db8:6666::/48"]; b.Cause != CauseSubnet {
		t.Errorf("the /48 is not banned: %v", l.bans())
	}
	if n := l.counters()[CounterHeldBack]; n != 0 {
		t.Errorf("%d were held back, want none: the first eight were enough", n)
	}
	l.Cut(addr("2001:db8:6666:ffff::1"))
	l.Served(bystander)
}

// TestBanByHandFindsRoom fills the set to the last element.
func TestBanByHandFindsRoom(t *testing.T) {
	t.Parallel()
	spec := floodSpec()
	spec.Size = 64
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		forged := &forgery{family: f}
		var elems []nftset.Element
		for range spec.Size {
			elems = append(elems, nftset.Addr(network(forged.next())))
		}
		l.addMany(f.ban(), elems)
		byHand, late, bystander := l.source(f), l.source(f), l.source(f)
		before := l.counters()
		l.Offend(late) // dropped, but not banned
		l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterFull: 1})
		l.Served(late)
		source := netip.PrefixFrom(byHand, 32)
		if f.is6() {
			source = netip.PrefixFrom(byHand, 64).Masked()
		}
		r := Record{Source: source, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "by hand"}
		if refused, err := l.open().Put([]Record{r}); err != nil || refused != nil {
			l.T.Fatal(refused, err)
		}
		l.Cut(byHand)
		l.Served(bystander)
	})
}

// TestLimitsLeaveRoom adds up what all limits let into a set within the time
// that an element stays there, for sets of all sizes.
func TestLimitsLeaveRoom(t *testing.T) {
	for _, size := range []uint32{1, 2, 7, 63, 64, 65, 100, 127, 128, 1000, 4096, 65536, MaxSize} {
		for _, first := range []time.Duration{MinBanTime, time.Minute, 10 * time.Minute, 8 * time.Hour, MaxBanTime} {
			spec := trapSpec()
			spec.Size, spec.BanTime = size, []time.Duration{first}
			let := make(map[string]float64)
			for _, ch := range Compile(spec).Chains {
				if !strings.HasPrefix(ch.Name, chainOffence) {
					continue
				}
				set := "ban4"
				if strings.HasPrefix(ch.Name, chainOffence+"6") {
					set = "ban6"
				}
				for _, r := range ch.Rules {
					if text := r.String(); strings.Contains(text, CounterHeldBack) {
						let[set] += passes(t, text, first)
					}
				}
			}
			for set, n := range let {
				// A limit is at least one a week, which is much for ten years.
				if n >= float64(size)+2*first.Hours()/(7*24) {
					t.Errorf("size %d, ban time %v: the limits let %v into %s", size, first, n, set)
				}
			}
		}
	}
}

// passes returns how many packets a limit lets by within a time, at most.
func passes(t *testing.T, rule string, d time.Duration) float64 {
	t.Helper()
	words := strings.Fields(rule)
	var rate, burst float64
	for i, w := range words {
		switch w {
		case "over":
			n, unit, _ := strings.Cut(words[i+1], "/")
			seconds := map[string]float64{"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}[unit]
			v, err := strconv.ParseFloat(n, 64)
			if err != nil || seconds == 0 {
				t.Fatalf("%s: what limit is that?", rule)
			}
			rate = v / seconds
		case "burst":
			burst, _ = strconv.ParseFloat(words[i+1], 64)
		}
	}
	return burst + rate*d.Seconds()
}

// TestSmallSets applies sets of each size twice: the kernel, and nft, must take
// the limits that follow from it for what they are.
func TestSmallSets(t *testing.T) {
	t.Parallel()
	for _, size := range []uint32{1, 2, 3, 7, 8, 9, 63, 64, 65} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			spec := trapSpec()
			spec.Size, spec.Subnet6 = size, 0
			l := newTrap(t, spec)
			if r := l.apply(spec); !r.Empty() {
				t.Errorf("a second apply would change %v", r.Summary())
			}
			l.NFT(l.list("-s"), "-c", "-f", "-")
			l.families(func(l *fixture, f family) {
				for range min(size, 6) { // a few at a time are never held back
					src := l.source(f)
					l.Offend(src)
					l.wantStanding(src, 1, CauseTrap)
				}
				l.Served(l.source(f))
			})
		})
	}
}
