package ruleset

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// TestFullSetStillDrops has room for two bans.
func TestFullSetStillDrops(t *testing.T) {
	spec := trapSpec()
	spec.Size = 2
	l := newTrap(t, spec)
	var want []string
	l.families(func(l *lab, f family) {
		first, second, third, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
		want = append(want, banOf(first), banOf(second))
		l.offend(first, second)
		before := l.counters()

		// A closed port would answer with a reset, or port unreachable.
		for _, p := range []netnstest.Packet{l.syn(third, trapTCP), l.tcp(third, trapTCP, fin), l.udp(third, trapUDP)} {
			l.want(p, netnstest.NoAnswer)
		}
		after := l.counters()
		for counter, n := range map[string]uint64{counterFull: 3, counterTrapped: 3, counterBanned: 0, counterDropped: 0} {
			if got := after[counter] - before[counter]; got != n {
				l.t.Errorf("counter %s went up by %d, want %d", counter, got, n)
			}
		}
		l.cut(first, second)
		l.served(third, bystander)
		l.wantBans(want...)

		// With room again, it is banned as everybody.
		if _, _, err := l.read().Unban(l.conn, netip.PrefixFrom(second, second.BitLen())); err != nil && second.Is4() {
			l.t.Fatal(err)
		}
		if second.Is6() {
			if _, _, err := l.read().Unban(l.conn, netip.PrefixFrom(second, 64).Masked()); err != nil {
				l.t.Fatal(err)
			}
		}
		l.offend(third)
		l.cut(first, third)
		l.served(second)
		want[len(want)-1] = banOf(third)
		l.wantBans(want...)
	})
}

// TestFullSetHasRoomAfterExpiry lets the bans expire that fill it.
func TestFullSetHasRoomAfterExpiry(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Size = 1
	spec.BanTime = []time.Duration{500 * time.Millisecond, time.Hour}
	l := newTrap(t, spec)
	l.families(func(l *lab, f family) {
		l.offend(l.source(f))
		next := l.source(f)
		// The kernel collects what has expired when it comes to it, within a second or two.
		await(l.t, "room for the next", func() bool {
			l.offend(next)
			return len(l.bans()) > 0 && l.bans()[banOf(next)].Tier == 1
		})
		l.cut(next)
		await(l.t, "its ban to expire", func() bool { return len(l.bans()) == 0 })
	})
}
