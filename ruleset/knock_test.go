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

// The knocks of tests ascend, as those of a scan do.
const (
	knock1 = 7001
	knock2 = 8002
	knock3 = 9003
)

// knockSpec bans at the first packet to a closed port, but for knocks.
func knockSpec() Spec {
	s := trapSpec()
	s.Scan.Ports, s.Scan.Ignore = 1, nil
	s.Knock = Knock{TCP: []uint16{knock1, knock2, knock3}, Within: time.Minute, Allow: time.Hour}
	return s
}

// knock sends SYNs to ports in turn, and fails the test if one is held against
// the source. Those of a banned source get no answer, but for the one that lets
// it in.
func (l *fixture) knock(src netip.Addr, ports ...uint16) {
	l.T.Helper()
	before := l.counters()
	for _, port := range ports {
		l.Probe(src, port)
	}
	before[CounterDropped] = l.counters()[CounterDropped]
	l.wantCounts(before, nil)
}

// letIn reports whether a source is let in as it has knocked.
func (l *fixture) letIn(src netip.Addr) bool {
	l.T.Helper()
	st := l.lookup(src)
	return st.Allowed != nil && st.Allowed.Cause == CauseKnock && st.Allowed.From.Addr() == src && st.Allowed.IsSingle()
}

// knocking returns in how many sets of those who are knocking a source is.
func (l *fixture) knocking(src netip.Addr) (stages int) {
	l.T.Helper()
	for stage := 1; stage < 3; stage++ {
		if l.has(ofAddr(src).knock(stage), src) {
			stages++
		}
	}
	return stages
}

// neighbour returns an address that is banned with another one.
func neighbour(src netip.Addr) netip.Addr {
	if src.Is4() {
		return src
	}
	return src.Next()
}

func TestKnockLetsIn(t *testing.T) {
	t.Parallel()
	l := newTrap(t, knockSpec())
	l.families(func(l *fixture, f family) {
		for name, ban := range map[string]func(src netip.Addr){
			"an innocent source":   func(netip.Addr) {},
			"a banned source":      func(src netip.Addr) { l.Offend(src) },
			"a source of a prefix": func(src netip.Addr) { l.ban(time.Hour, netip.PrefixFrom(src, f.bits()-8).Masked().String()) },
			"a source of a subnet": func(src netip.Addr) {
				l.put(Record{
					Source: netip.PrefixFrom(src, f.subnetLen).Masked(), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet,
				})
			},
		} {
			if f == families[0] && name == "a source of a subnet" {
				continue // which are not banned by default
			}
			src := l.source(f)
			ban(src)
			bans := len(l.bans())
			l.knock(src, knock1, knock1) // as it is sent again when there is no answer
			l.knock(src, knock2, knock2, knock2)
			if banned := bans > 0; banned {
				l.Want(l.SYN(src, lab.OpenUDP), netnstest.NoAnswer)
				l.knock(src, knock1, knock2)
			}
			if l.letIn(src) {
				l.T.Errorf("%s is let in before its last knock", name)
			}
			before := l.counters()
			l.Want(l.SYN(src, knock3), netnstest.AnswerRST)
			l.wantCounts(before, nil)
			if !l.letIn(src) || l.knocking(src) != 0 {
				l.T.Errorf("%s has knocked: let in %v, in %d sets of those who knock", name, l.letIn(src), l.knocking(src))
			}
			before = l.counters()
			l.Visit(src)
			l.harmless(src)
			l.wantCounts(before, nil)
			if n := len(l.bans()); n != bans {
				l.T.Errorf("%s has knocked: %d bans, were %d", name, n, bans)
			}
			if other := neighbour(src); other != src && bans > 0 {
				l.Cut(other)
			}
			if st := l.lookup(src); st.Banned() || len(st.Bans) != bans {
				l.T.Errorf("%s has knocked: Lookup says %+v", name, st)
			}
			if ended, _, err := l.open().Disallow(netip.PrefixFrom(src, f.bits())); err != nil || len(ended) != 1 {
				l.T.Errorf("Disallow ended %v (%v)", ended, err)
			}
			if bans > 0 {
				l.Cut(src)
			}
			l.forgive()
		}
	})
}

// TestKnocksOutOfTurn is of sequences that let nobody in, and make no offence
// either.
func TestKnocksOutOfTurn(t *testing.T) {
	t.Parallel()
	l := newTrap(t, knockSpec())
	for name, ports := range map[string][]uint16{
		"wrong order":                  {knock2, knock1, knock3},
		"the end first":                {knock3, knock2, knock1},
		"one left out":                 {knock1, knock3},
		"the first left out":           {knock2, knock3},
		"one left out, and then right": {knock1, knock3, knock2, knock3},
		"another port in between":      {knock1, lab.OpenTCP, knock2, knock3},
		"another before the last":      {knock1, knock2, lab.OpenTCP, knock3},
		"the first again":              {knock1, knock2, knock1, knock3},
	} {
		l.families(func(l *fixture, f family) {
			for _, banned := range []bool{false, true} {
				src := l.source(f)
				if banned {
					l.Offend(src)
				}
				l.knock(src, ports...)
				if l.letIn(src) {
					l.T.Errorf("%s: %v lets in", name, ports)
				}
				if banned {
					l.Cut(src)
				} else if _, banned := l.bans()[banOf(src)]; banned {
					l.T.Errorf("%s: %v bans", name, ports)
				}
				l.knock(src, knock1, knock2, knock3)
				if !l.letIn(src) {
					l.T.Errorf("%s: the right knock did not let in after it", name)
				}
			}
		})
	}
}

// TestKnocksOfFour goes back within the sequence.
func TestKnocksOfFour(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Knock.TCP = []uint16{4, 1, 3, 2}
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.knock(src, 4, 1, 3, 1, 2)
		if l.letIn(src) {
			l.T.Error("who went back is let in")
		}
		l.knock(src, 4, 4, 1, 1, 3, 3, 2, 2)
		if !l.letIn(src) {
			l.T.Error("the right knock did not let in")
		}
	})
}

func TestKnockTooSlow(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Knock.Within, spec.Knock.Allow = 200*time.Millisecond, time.Second
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		for _, first := range [][]uint16{{knock1}, {knock1, knock2}} {
			src := l.source(f)
			l.Offend(src)
			lab.Await(l.T, "a knock within the time", func() bool {
				l.knock(src, first...)
				return l.knocking(src) == len(first)
			})
			lab.Await(l.T, "the knock to be forgotten", func() bool { return l.knocking(src) == 0 })
			l.knock(src, []uint16{knock1, knock2, knock3}[len(first):]...)
			if l.letIn(src) {
				l.T.Errorf("%d knocks count for longer than they may", len(first))
			}
			lab.Await(l.T, "the right knock to let in", func() bool {
				l.knock(src, knock1, knock2, knock3)
				return l.letIn(src)
			})
			lab.Await(l.T, "the end of the time for which it lets in", func() bool { return !l.letIn(src) })
			l.Cut(src)
		}
	})
}

// TestKnockerIsForgottenAtOnce has the set that a packet to another port asks
// remember who knocks for as long as any other set.
func TestKnockerIsForgottenAtOnce(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Knock.Within = time.Second
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.knock(src, knock1)
		lab.Await(l.T, "some of the time to pass", func() bool {
			el, ok := l.element(f.knock(1), nftset.AddrKey(src))
			if !ok { // the machine is slow
				l.knock(src, knock1)
			}
			return ok && el.Remaining < spec.Knock.Within/2
		})
		l.knock(src, knock2)
		lab.Await(l.T, "the first set to forget it", func() bool { return !l.has(f.knock(1), src) })
		if l.has(f.knock(2), src) {
			l.T.Error("the second set remembers it for longer: another port would not end the knock")
		}
	})
}

// TestScanIsNoKnock asks for all ports in the order of the knocks.
func TestScanIsNoKnock(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Scan.Ports = 0
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src, banned := l.source(f), l.source(f)
		l.Offend(banned)
		trap := netnstest.SYN(src, l.To(src, 0))
		const first, last = knock1 - 500, knock3 + 500 // to all other ports, SYNs are what they are to these
		l.Internet.Burst(2*(last-first+1), func(i int) netnstest.Packet {
			p := trap
			p.Src = at([...]netip.Addr{src, banned}[i%2], 4000)
			p.Dst = l.To(src, uint16(first+i/2))
			return p
		})
		for _, a := range []netip.Addr{src, banned} {
			if l.letIn(a) || l.knocking(a) != 0 {
				l.T.Errorf("a scan of %v knocked: let in %v, in %d sets", a, l.letIn(a), l.knocking(a))
			}
		}
		l.Internet.Send(packets(l, src, knock1, knock2, knock3)...) // as fast as a scan
		if !l.letIn(src) {
			l.T.Error("a fast knock does not let in")
		}
		l.forgive()
	})
}

// packets returns SYNs of a source to ports.
func packets(l *fixture, src netip.Addr, ports ...uint16) (out []netnstest.Packet) {
	for _, port := range ports {
		p := l.SYN(src, port)
		p.Src = at(src, 4000)
		out = append(out, p)
	}
	return out
}

// TestOnlySYNsToTheHostKnock sends what is no knock: datagrams, answers, and what
// is for others.
func TestOnlySYNsToTheHostKnock(t *testing.T) {
	t.Parallel()
	l := newTrap(t, knockSpec())
	l.newContainer()
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		for _, port := range []uint16{knock1, knock2, knock3} {
			l.Internet.Send(l.UDP(src, port), l.TCP(src, port, netnstest.FlagACK), l.TCP(src, port, rst), l.TCP(src, port, netnstest.FlagSYN|netnstest.FlagACK))
		}
		for _, port := range []uint16{knock1, knock2, knock3} {
			l.Internet.Probe(netnstest.SYN(src, at(container(src), port)))
		}
		if l.letIn(src) || l.knocking(src) != 0 {
			l.T.Errorf("let in %v, in %d sets of those who knock", l.letIn(src), l.knocking(src))
		}
	})
}

// TestKnockFindsSetsFull has no room for another knock, or another who has
// knocked: it lets nobody in, and is no offence. What is not a knock is as ever.
func TestKnockFindsSetsFull(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Size = fullSize
	for name, full := range map[string]func(f family) string{
		"first knock":  func(f family) string { return f.knock(1) },
		"second knock": func(f family) string { return f.knock(2) },
		"let in":       family.knocked,
	} {
		t.Run(name, func(t *testing.T) {
			l := newTrap(t, spec)
			l.families(func(l *fixture, f family) {
				set, src, bystander := full(f), l.source(f), l.source(f)
				l.Offend(src)
				l.fill(set, f, fullSize, 0)
				for _, a := range []netip.Addr{src, bystander} {
					if l.knock(a, knock1, knock2, knock3); l.letIn(a) {
						l.T.Errorf("%s is full, and lets in", set)
					}
				}
				l.Cut(src)
				l.Visit(bystander)
				l.NFT(fmt.Sprintf("flush set inet portmon %s", set))
				l.knock(src, knock1, knock2, knock3)
				if !l.letIn(src) {
					l.T.Errorf("%s has room again, and does not let in", set)
				}
				l.Visit(src)
			})
		})
	}
}

// TestHalfKnocksLeaveRoom begins far more knocks than the sets have room for, and
// ends each by a knock out of turn: the places are free soon after.
func TestHalfKnocksLeaveRoom(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Size, spec.Knock.Within = fullSize, MaxKnockWithin
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		var begun netnstest.Packet
		l.Internet.Burst(8*fullSize, func(i int) netnstest.Packet {
			if i%2 == 0 {
				begun = packets(l, l.source(f), knock1)[0]
				return begun
			}
			p := begun
			p.Dst = l.To(src, knock3)
			return p
		})
		lab.Await(l.T, "room for a knock", func() bool {
			l.knock(src, knock1, knock2, knock3)
			return l.letIn(src)
		})
	})
}

// TestKnockWhereAProgramListens has a service at a port of the sequence, and a
// trap.
func TestKnockWhereAProgramListens(t *testing.T) {
	t.Parallel()
	spec := knockSpec()
	spec.Knock.TCP = []uint16{lab.TrapTCP, lab.OpenTCP, knock3}
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		for _, banned := range []bool{false, true} {
			src, before := l.source(f), l.counters()
			answers := []netnstest.AnswerKind{netnstest.AnswerRST, netnstest.AnswerSYNACK, netnstest.AnswerRST}
			if banned {
				l.Want(l.SYN(src, lab.Closed), netnstest.NoAnswer)
				answers, before = []netnstest.AnswerKind{netnstest.NoAnswer, netnstest.NoAnswer, netnstest.AnswerRST}, l.counters()
				before[CounterDropped] += 2
			}
			for i, port := range spec.Knock.TCP {
				l.Want(l.SYN(src, port), answers[i])
			}
			l.wantCounts(before, nil)
			if !l.letIn(src) {
				l.T.Errorf("banned %v: not let in", banned)
			}
			l.Visit(src)
		}
	})
}

// TestTraceOfKnocks follows packets to the ports of the sequence.
func TestTraceOfKnocks(t *testing.T) {
	t.Parallel()
	l := newTrap(t, knockSpec())
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		trace := func() Trace {
			t, err := l.open().Trace(Packet{From: src, To: l.To(src, 0).Addr(), Port: knock3, Proto: 6, ToSelf: true, RouteBack: true})
			if err != nil {
				l.T.Fatal(err)
			}
			return t
		}
		if got := trace(); got.Dropped || got.Because != AskKnock {
			l.T.Errorf("of an innocent source: %+v", got)
		}
		l.Offend(src)
		if got := trace(); !got.Dropped || got.Because != AskBanned {
			l.T.Errorf("of a banned source: %+v", got)
		}
		l.knock(src, knock1, knock2)
		if got := trace(); got.Dropped || got.Because != AskKnock {
			l.T.Errorf("of a banned source, by the last knock: %+v", got)
		}
	})
}
