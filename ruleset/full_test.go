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

// fullSize is a size of which an eighth is enough for the first offences of a
// test.
const fullSize = 128

// fill fills a set with sources that nothing else in a test has, but for so
// many places.
func (l *fixture) fill(set string, f family, size, room int) {
	l.T.Helper()
	var elems []nftset.Element
	for i := range size - room {
		a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		if f.is6() {
			a = addr(fmt.Sprintf("2001:db8:f:%x::", i))
		}
		elems = append(elems, nftset.Element{Interval: nftset.Addr(a).Interval, Timeout: time.Hour})
	}
	l.addMany(set, elems)
}

// TestFullSetStillDrops has room for two bans.
func TestFullSetStillDrops(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size = fullSize
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		first, second, third, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
		l.fill(f.ban(), f, fullSize, 2)
		l.Offend(first, second)
		before := l.counters()

		// A closed port would answer with a reset, or port unreachable.
		for _, p := range []netnstest.Packet{l.SYN(third, lab.TrapTCP), l.TCP(third, lab.TrapTCP, fin), l.UDP(third, trapUDP)} {
			l.Want(p, netnstest.NoAnswer)
		}
		l.wantCounts(before, map[string]uint64{CounterFull: 3, CounterTrapped: 3})
		l.Cut(first, second)
		l.Served(third, bystander)
		if _, ok := l.bans()[banOf(third)]; ok {
			l.T.Errorf("%v is banned: was there room?", third)
		}

		// With room again, it is banned as everybody.
		if _, _, err := l.open().Unban(prefix(cidr(banOf(second)))); err != nil {
			l.T.Fatal(err)
		}
		before = l.counters()
		l.Offend(third)
		l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
		l.Cut(first, third)
		l.Served(second, bystander)
	})
}

// cidr returns an address or a prefix as a prefix.
func cidr(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()).String()
	}
	return s
}

// TestFirstOffencesAreHeldBack has more of them at once than may be: those
// beyond are dropped and ban nobody, and who has offended before is banned all
// the same.
func TestFirstOffencesAreHeldBack(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size, spec.Subnet6 = fullSize, 0
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		burst := uint64(fullSize / 8)
		if f.is6() {
			burst -= burst / 8 // for sources that are banned one by one
		}
		repeater, bystander := l.source(f), l.source(f)
		l.put(Record{Source: prefix(cidr(banOf(repeater))), Step: 1, StepRemaining: time.Hour})
		before := l.counters()
		var late []netip.Addr
		for i := range burst + 4 {
			src := l.source(f)
			l.Offend(src)
			if i < burst {
				l.Want(l.SYN(src, lab.OpenTCP), netnstest.NoAnswer)
			} else {
				late = append(late, src)
			}
		}
		l.wantCounts(before, map[string]uint64{CounterTrapped: burst + 4, CounterBanned: burst, CounterHeldBack: 4, CounterDropped: burst})
		l.Served(late...)
		l.Served(bystander)

		l.Offend(repeater)
		l.Cut(repeater)
		if b := l.bans()[banOf(repeater)]; b.Step != 2 {
			l.T.Errorf("the ban is %+v, want one by step 2", b)
		}
	})
}

// TestFullMemoryStillBans has no room to remember a first offence: it is banned
// for as long as any other.
func TestFullMemoryStillBans(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size = fullSize
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src, bystander := l.source(f), l.source(f)
		l.fill(f.tier(1), f, 2*fullSize, 0)
		before := l.counters()
		l.Offend(src)
		l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
		l.Cut(src)
		l.Served(bystander)
		if b := l.bans()[banOf(src)]; b.Timeout != spec.BanTime[0] {
			l.T.Errorf("the ban is for %v, want %v", b.Timeout, spec.BanTime[0])
		}
	})
}

// TestFullSetHasRoomAfterExpiry lets the bans expire that fill it.
func TestFullSetHasRoomAfterExpiry(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size, spec.Subnet6 = 1, 0
	spec.BanTime = []time.Duration{500 * time.Millisecond}
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		l.ban(500*time.Millisecond, cidr(banOf(l.source(f))))
		next := l.source(f)
		// The kernel collects what has expired when it comes to it, within a
		// second or two. A source that is remembered is not held back.
		l.put(Record{Source: prefix(cidr(banOf(next))), Step: 1, StepRemaining: time.Hour})
		lab.Await(l.T, "room for the next", func() bool {
			l.Offend(next)
			_, banned := l.bans()[banOf(next)]
			return banned
		})
		l.Cut(next)
		lab.Await(l.T, "its ban to expire", func() bool { return len(l.bans()) == 0 })
	})
}
