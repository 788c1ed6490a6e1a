package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// ports returns n ports from the first on.
func ports(first uint16, n int) []uint16 {
	out := make([]uint16, n)
	for i := range out {
		out[i] = first + uint16(i)
	}
	return out
}

// TestScan asks for closed ports, each of them several times.
func TestScan(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 5, 8} {
		t.Run(fmt.Sprintf("%d ports", n), func(t *testing.T) {
			l := newTrap(t, scanSpec(n))
			l.families(func(l *fixture, f family) {
				scanner, bystander := l.source(f), l.source(f)
				for range 3 { // retries count once
					l.probe(scanner, ports(200, n-1)...)
				}
				l.Visit(scanner, bystander)
				l.wantStanding(scanner, 0, CauseUnknown)
				before := l.counters()
				l.Want(l.SYN(scanner, 300), netnstest.NoAnswer)
				l.wantCounts(before, map[string]uint64{CounterScanned: 1, CounterBanned: 1})
				l.wantStanding(scanner, 1, CauseScan)
				l.Cut(scanner)
				l.Visit(bystander)
				l.wantStanding(bystander, 0, CauseUnknown)
			})
		})
	}
}

// TestScanOfAnyKind has probes that open no connection count as those that do.
func TestScanOfAnyKind(t *testing.T) {
	t.Parallel()
	l := newTrap(t, scanSpec(5))
	const fin, syn, psh, urg = netnstest.FlagFIN, netnstest.FlagSYN, netnstest.FlagPSH, netnstest.FlagURG
	l.families(func(l *fixture, f family) {
		bystander := l.source(f)
		for _, last := range []netnstest.TCPFlags{0, fin, fin | psh | urg, syn | fin, syn | netnstest.FlagECE | netnstest.FlagCWR, urg} {
			scanner := l.source(f)
			for i, flags := range []netnstest.TCPFlags{0, fin, fin | psh | urg, syn} {
				for range 2 {
					l.Want(l.TCP(scanner, 200+uint16(i), flags), netnstest.AnswerRST)
				}
			}
			l.Want(l.TCP(scanner, 210, last), netnstest.NoAnswer)
			l.wantStanding(scanner, 1, CauseScan)
			l.Cut(scanner)
			l.Served(bystander)
		}
	})
}

// TestBannedIsCutWhateverTheFlags has no packet of a banned source come to a
// socket, where most answer nothing to these even when they are let through.
func TestBannedIsCutWhateverTheFlags(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		offender, bystander := l.source(f), l.source(f)
		l.Offend(offender)
		for _, port := range []uint16{lab.OpenTCP, lab.Closed, lab.TrapTCP} {
			for flags := range netnstest.TCPFlags(1 << 6) {
				before := l.counters()
				l.Internet.Send(l.TCP(offender, port, flags))
				if n := l.counters()[CounterDropped] - before[CounterDropped]; n != 1 {
					l.T.Errorf("of one packet with flags %v to port %d, %d were dropped", flags, port, n)
				}
			}
			l.Served(bystander)
		}
	})
}

// TestRetriesAreNotAScan asks for four ports, thirty times.
func TestRetriesAreNotAScan(t *testing.T) {
	t.Parallel()
	l := newTrap(t, scanSpec(5))
	l.families(func(l *fixture, f family) {
		patient, bystander := l.source(f), l.source(f)
		for range 30 {
			l.probe(patient, 200, 201, 202, 203)
		}
		l.Served(bystander)
		l.Visit(patient)
		l.wantStanding(patient, 0, CauseUnknown)
		l.Want(l.SYN(patient, 204), netnstest.NoAnswer) // it had not to be forgotten
		l.wantStanding(patient, 1, CauseScan)
	})
}

// TestScanWindow has monitors that ask for one closed port, or for two in turn,
// once in each of 30 windows. A window begins with the first port: if the
// second renewed it, it would never end.
func TestScanWindow(t *testing.T) {
	t.Parallel()
	spec := scanSpec(3)
	spec.Scan.FindTime = 200 * time.Millisecond
	separately(t, spec, func(l *fixture, f family) {
		one, two, bystander := l.source(f), l.source(f), l.source(f)
		key := func(src netip.Addr, port uint16) nftset.Key { return nftset.AddrPortKey(at(network(src), port)) }
		for i := range 30 {
			l.probe(one, 200)
			l.probe(two, 200)
			lab.Await(l.T, "half of the window", func() bool {
				el, _ := l.element(f.probed(), key(two, 200))
				return el.Remaining < spec.Scan.FindTime/2
			})
			l.probe(two, 201)
			lab.Await(l.T, "the end of the window", func() bool {
				_, first := l.element(f.probed(), key(one, 200))
				_, second := l.element(f.probed(), key(two, 200))
				return !first && !second
			})
			if i%10 == 0 {
				l.Served(bystander)
			}
		}
		l.Visit(one, two)
		l.wantStanding(one, 0, CauseUnknown)
		l.wantStanding(two, 0, CauseUnknown)
	})
}

// TestCrawl asks for a port in each "minute" of 40 ms, for an hour: the window
// is as long as many of them.
func TestCrawl(t *testing.T) {
	t.Parallel()
	const minute, n = 40 * time.Millisecond, 5
	spec := scanSpec(n)
	spec.Scan.FindTime = 24 * 60 * minute
	l := newTrap(t, spec)
	crawlers, bystanders := l.both(), l.both()
	tick := time.NewTicker(minute)
	defer tick.Stop()
	for i := range 60 {
		for _, crawler := range crawlers {
			want := netnstest.AnswerRST
			if i >= n-1 {
				want = netnstest.NoAnswer
			}
			l.Want(l.SYN(crawler, 1000+uint16(i)), want)
		}
		l.Served(bystanders...)
		<-tick.C
	}
	for _, crawler := range crawlers {
		if got := l.probed(crawler); len(got) != n {
			t.Errorf("%v was caught with the ports %v, want %d", crawler, got, n)
		}
		l.wantStanding(crawler, 1, CauseScan)
	}
}

// TestFullProbedBansNobody has no room for what it takes to count ports.
func TestFullProbedBansNobody(t *testing.T) {
	t.Parallel()
	spec := scanSpec(2)
	spec.Size = 64
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		var elems []nftset.Element
		for i := range 4 * spec.Size {
			other := addr("203.0.113.7")
			if f.is6() {
				other = addr("2001:db8:113::")
			}
			elems = append(elems, nftset.Single(nftset.AddrPortKey(at(other, uint16(i)+1))))
		}
		l.addMany(f.probed(), elems)
		scanner, bystander := l.source(f), l.source(f)
		before := l.counters()
		l.probe(scanner, ports(200, 10)...)
		l.wantCounts(before, map[string]uint64{CounterUncounted: 10})
		l.Served(scanner, bystander)
		l.wantStanding(scanner, 0, CauseUnknown)
		// Traps are another matter. With room again, so are closed ports.
		l.NFT("flush set inet portmon " + f.probed())
		l.probe(scanner, 200)
		l.Want(l.SYN(scanner, 201), netnstest.NoAnswer)
		l.wantStanding(scanner, 1, CauseScan)
		l.Served(bystander)
	})
}
