package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// TestEveryKeyUnderTraffic makes each change of the configuration and takes it
// back, several times, while packets come: no ban has a gap, and nobody else is
// hit.
func TestEveryKeyUnderTraffic(t *testing.T) {
	t.Parallel()
	const rounds = 5
	spec := trapSpec()
	l := newTrap(t, spec)
	banned, bystanders := l.everywhere()
	bans := slices.Sorted(maps.Keys(l.bans()))
	before := l.counters()
	applies := 0
	done := l.meanwhile(func(c *nftset.Conn) {
		for _, change := range configChanges {
			changed := spec
			change.change(&changed)
			for range rounds {
				for _, to := range []Spec{changed, spec} {
					r, err := Apply(c, to)
					if err != nil {
						t.Errorf("%s: %v", change.name, err)
						return
					}
					learnt := change.name == "Own6" && applies%(2*rounds) > 0 // once, and for good
					if r.Empty() != (change.name == "nothing" || learnt) {
						t.Errorf("%s: apply changed %v", change.name, r.Summary())
						return
					}
					applies++
				}
			}
		}
	})
	sent := l.stream(done, banned, bystanders)
	t.Logf("%d applies, with %d datagrams of each of %d sources", applies, sent, len(banned)+len(bystanders))
	if got := slices.Sorted(maps.Keys(l.bans())); !slices.Equal(got, bans) {
		t.Errorf("banned is %q, was %q", got, bans)
	}
	l.wantCounts(before, map[string]uint64{CounterDropped: uint64(sent * len(banned))})
	l.Cut(banned...)
	l.Served(bystanders...)
}

// TestTrapsHoldWhileTheyGrow goes from a bitmap of trap ports to intervals and
// back, in one transaction each, while offenders come. Each is banned, but for
// those that hit upon the moment, of some milliseconds, in which the kernel
// (seen on 6.18) lets the new rules ask a new set of intervals before its
// elements are there. They are banned when they come again.
func TestTrapsHoldWhileTheyGrow(t *testing.T) {
	t.Parallel()
	const applies = 60
	few, many := trapSpec(), trapSpec()
	few.Subnet6, many.Subnet6 = 0, 0
	few.BanTime[0], many.BanTime[0] = time.Hour, time.Hour // longer than the test, on slow machines too
	many.TrapTCP = []Ports{{1, 79}, {1000, 30000}}
	many.TrapUDP = []Ports{{1, 52}, {161, 161}, {1000, 3999}, {4001, 9999}}
	l := newTrap(t, few)
	banned, bystanders := l.everywhere()
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range applies {
			before, err := c.Generation()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := Apply(c, [...]Spec{many, few}[i%2]); err != nil {
				t.Errorf("apply %d: %v", i, err)
				return
			}
			if after, err := c.Generation(); err != nil || after != before+1 {
				t.Errorf("apply %d made %d transactions, want 1 (%v)", i, after-before, err)
				return
			}
		}
	})
	offenders, missed := 0, 0
	for stop := false; !stop; {
		select {
		case <-done:
			stop = true
		default:
		}
		for _, f := range families {
			for _, p := range []netnstest.Packet{l.SYN(l.source(f), lab.TrapTCP), l.UDP(l.source(f), trapUDP)} {
				src := p.Src.Addr()
				if a := l.Internet.Probe(p); a.Kind != netnstest.NoAnswer {
					missed++
					lab.Await(t, "the trap to hold again", func() bool { return l.Internet.Probe(p).Kind == netnstest.NoAnswer })
				}
				l.Want(l.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
				offenders++
			}
		}
		l.Served(bystanders...)
	}
	t.Logf("%d applies, %d offenders, of whom %d had to come twice", applies, offenders, missed)
	if missed > applies { // two for each time that the intervals come
		t.Errorf("%d offenders had to come twice in %d applies: is there a gap?", missed, applies)
	}
	for i, want := range []nftset.Flags{nftset.FlagInterval, 0} {
		l.apply([...]Spec{many, few}[i])
		for _, name := range []string{setTrapTCP, setTrapUDP} {
			if set := l.open().Set(name); set.Flags != want {
				t.Errorf("set %s has flags %v, want %v", name, set.Flags, want)
			}
		}
	}
	if n := len(l.bans()); n != len(banned)+offenders {
		t.Errorf("%d bans, want %d", n, len(banned)+offenders)
	}
	l.Cut(banned...)
}

// TestSubnetsUnderTraffic switches the bans of subnets off, on and off while
// they are in use.
func TestSubnetsUnderTraffic(t *testing.T) {
	t.Parallel()
	const rounds = 40
	on, off := trapSpec(), trapSpec()
	on.Subnet4, on.Subnet6 = 8, 8
	off.Subnet4, off.Subnet6 = 0, 0
	l := newTrap(t, on)
	banned, bystanders := l.everywhere()
	bans := slices.Sorted(maps.Keys(l.bans()))
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range rounds {
			for _, spec := range []Spec{off, on} {
				if _, err := Apply(c, spec); err != nil {
					t.Errorf("round %d: %v", i, err)
					return
				}
			}
			if err := moveSubnetsBack(c); err != nil {
				t.Errorf("round %d: %v", i, err)
				return
			}
		}
	})
	sent := l.stream(done, banned, bystanders)
	t.Logf("%d rounds, with %d datagrams of each source", rounds, sent)
	if got := slices.Sorted(maps.Keys(l.bans())); !slices.Equal(got, bans) {
		t.Errorf("banned is %q, was %q", got, bans)
	}
}

// moveSubnetsBack makes bans of subnets out of those of prefixes of that
// length. It never has them in neither.
func moveSubnetsBack(c *nftset.Conn) error {
	h, err := Open(c, "portmon")
	if err != nil {
		return err
	}
	for e, err := range h.Entries(RoleNet) {
		if err != nil {
			return err
		}
		p, ok := e.Prefix()
		if f := ofAddr(p.Addr()); !ok || p.Bits() != f.subnetLen {
			continue
		}
		r := Record{Source: p, Banned: true, Timeout: e.Timeout, Remaining: e.Remaining, Cause: CauseSubnet}
		if refused, err := h.Put([]Record{r}); err != nil || refused != nil {
			return fmt.Errorf("put %v: %v %w", p, refused, err)
		}
		if err := h.remove(h.Set(e.Set), []nftset.Interval{e.Interval}); err != nil {
			return err
		}
	}
	return nil
}

// TestLaddersUnderTraffic makes the ladder shorter and longer while sources
// that are remembered by a step of it offend. Of the packets that come while
// steps move, none is served.
func TestLaddersUnderTraffic(t *testing.T) {
	t.Parallel()
	const applies = 60
	long, short := trapSpec(), trapSpec()
	long.BanTime = append(slices.Clone(long.BanTime), 40*24*time.Hour, 50*24*time.Hour)
	short.BanTime = short.BanTime[:1]
	l := newTrap(t, long)
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range applies {
			if _, err := Apply(c, [...]Spec{short, long}[i%2]); err != nil {
				t.Errorf("apply %d: %v", i, err)
				return
			}
		}
	})
	bystander := l.source(families[0])
	var offenders []netip.Addr
	for stop := false; !stop && len(offenders) < 10_000; { // fewer than there is room for
		select {
		case <-done:
			stop = true
		default:
		}
		for _, f := range families {
			src := l.source(f)
			l.Offend(src)
			l.Want(l.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
			offenders = append(offenders, src)
		}
		l.Served(bystander)
	}
	<-done
	l.apply(long)
	for _, src := range offenders {
		if st := l.lookup(src); st.Step < 1 || len(st.Bans) != 1 {
			t.Errorf("%v stands at %+v, want a ban and a step", src, st)
		}
	}
	t.Logf("%d applies, %d offenders", applies, len(offenders))
}
