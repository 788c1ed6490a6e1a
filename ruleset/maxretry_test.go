package ruleset

import (
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// retrySpec bans for the third trap packet.
func retrySpec(findTime time.Duration) Spec {
	s := trapSpec()
	s.MaxRetry, s.FindTime = 3, findTime
	return s
}

func TestMaxRetry(t *testing.T) {
	t.Parallel()
	l := newTrap(t, retrySpec(time.Hour))
	var want []string
	l.families(func(l *fixture, f family) {
		offender, bystander, once := l.source(f), l.source(f), l.source(f)
		before := l.counters()
		l.Offend(once)
		for _, p := range []netnstest.Packet{l.SYN(offender, lab.TrapTCP), l.UDP(offender, trapUDP)} {
			l.Want(p, netnstest.NoAnswer) // dropped, whether it bans or not
			l.Served(offender)
			l.wantBans(want...)
		}
		l.Offend(offender)
		want = append(want, banOf(offender))
		l.wantBans(want...)
		l.Cut(offender)
		l.Served(bystander, once)

		after := l.counters()
		for counter, n := range map[string]uint64{CounterTrapped: 4, CounterBanned: 1, CounterFull: 0} {
			if got := after[counter] - before[counter]; got != n {
				l.T.Errorf("counter %s went up by %d, want %d", counter, got, n)
			}
		}
		if b := l.bans()[banOf(offender)]; b.Timeout != 10*time.Minute {
			l.T.Errorf("banned for %v, want 10m", b.Timeout)
		}
		// Connections to what is closed, or open, do not count.
		for range 5 {
			l.Served(once)
		}
		l.wantBans(want...)
	})
	t.Run("a /64 is one source", func(t *testing.T) {
		l := l.with(t)
		l.Offend(addr("2001:db8:9:9::1"), addr("2001:db8:9:9::2"))
		l.Served(addr("2001:db8:9:9::1"))
		l.Offend(addr("2001:db8:9:9::3"))
		l.Cut(addr("2001:db8:9:9::1"))
		l.wantBans(append(want, "2001:db8:9:9::/64")...)
	})
}

// TestMaxRetryHighest counts as far as it can.
func TestMaxRetryHighest(t *testing.T) {
	t.Parallel()
	spec := retrySpec(MaxFindTime)
	spec.MaxRetry = MaxRetryLimit
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Internet.Burst(MaxRetryLimit-1, func(int) netnstest.Packet { return l.SYN(src, lab.TrapTCP) })
		l.Served(src)
		l.Offend(src)
		l.Cut(src)
	})
}

// TestFindTime spreads the packets, so that no three come within the time.
func TestFindTime(t *testing.T) {
	t.Parallel()
	spec := retrySpec(2 * time.Second)
	separately(t, spec, func(l *fixture, f family) {
		src, quick := l.source(f), l.source(f)
		key := l.key(src)
		for range 2 {
			start := time.Now()
			l.Offend(src, src)
			lab.Await(l.T, "the packets to be forgotten", func() bool { return !l.has(f.hits(), key) })
			if d := time.Since(start); d < spec.FindTime-100*time.Millisecond {
				l.T.Errorf("forgotten after %v, want %v", d, spec.FindTime)
			}
			l.Served(src)
		}
		l.wantBans()
		l.Offend(src, src)
		l.Served(src)
		l.Offend(quick, quick, quick)
		l.Offend(src)
		l.Cut(src, quick)
		l.wantBans(banOf(src), banOf(quick))
		if n := l.counters()[CounterFull]; n != 0 {
			l.T.Errorf("counter full is %d, want 0", n)
		}
	})
}

// TestFindTimeCountsFromTheFirst comes again when some of the time has passed.
func TestFindTimeCountsFromTheFirst(t *testing.T) {
	t.Parallel()
	spec := retrySpec(2 * time.Second)
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		left := func() time.Duration {
			l.T.Helper()
			el, err := l.conn.Get(l.open().Set(f.hits()), nftset.AddrKey(l.key(src)))
			if err != nil {
				l.T.Fatal(err)
			}
			return el.Remaining
		}
		l.Offend(src)
		first := time.Now()
		lab.Await(l.T, "some of the time to pass", func() bool { return left() < spec.FindTime-200*time.Millisecond })
		l.Offend(src)
		passed := time.Since(first)
		if d := left(); d > spec.FindTime-passed+50*time.Millisecond {
			l.T.Errorf("%v after the first packet, the second gave it %v more", passed, d)
		}
		l.Served(src)
	})
}

// TestFullHitsStillDrop has no room to count the third source.
func TestFullHitsStillDrop(t *testing.T) {
	t.Parallel()
	spec := retrySpec(time.Hour)
	spec.Size = fullSize
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		first, second, third := l.source(f), l.source(f), l.source(f)
		l.fill(f.hits(), f, fullSize, 2)
		l.Offend(first, second)
		before := l.counters()
		for range 5 {
			l.Want(l.SYN(third, lab.TrapTCP), netnstest.NoAnswer)
			l.Want(l.UDP(third, trapUDP), netnstest.NoAnswer)
		}
		if got := l.counters()[CounterFull] - before[CounterFull]; got != 10 {
			l.T.Errorf("counter full went up by %d, want 10", got)
		}
		l.Served(first, second, third)
		l.Offend(first, second)
		l.Offend(first, second) // they are counted as before
		l.Cut(first, second)
		l.Served(third)
		if bans := l.bans(); bans[banOf(first)].Step != 1 || bans[banOf(second)].Step != 1 || bans[banOf(third)].Step != 0 {
			l.T.Errorf("banned is %v, want the first two", bans)
		}
	})
}
