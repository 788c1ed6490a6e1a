package ruleset

import (
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// TestLadder lets each ban expire and offends again, with no program running.
func TestLadder(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.BanTime = []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond}
	l := newTrap(t, spec)
	l.families(func(l *lab, f family) {
		offender, bystander := l.source(f), l.source(f)
		for _, step := range []int{1, 2, 3, 3} {
			before := l.counters()
			l.offend(offender)
			l.want(l.syn(offender, openTCP), netnstest.NoAnswer)
			l.served(bystander)
			b, ok := l.bans()[banOf(offender)]
			if want := spec.BanTime[step-1]; !ok || b.Step != step || b.Cause != CauseTrap || b.Timeout != want {
				l.t.Errorf("the ban is %+v, want one of %v by step %d", b, want, step)
			}
			if n := l.counters()[CounterBanned] - before[CounterBanned]; n != 1 {
				l.t.Errorf("%d bans were counted, want 1", n)
			}
			await(l.t, "the ban to expire", func() bool { return len(l.bans()) == 0 })
			l.served(offender)
		}
	})
}

// TestScan asks for closed ports.
func TestScan(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.families(func(l *lab, f family) {
		scanner, bystander := l.source(f), l.source(f)
		for port := uint16(200); port < 204; port++ {
			for range 3 { // retries count once
				l.want(l.syn(scanner, port), netnstest.AnswerRST)
			}
		}
		l.served(bystander)
		l.want(l.syn(scanner, 204), netnstest.NoAnswer)
		l.cut(scanner)
		l.served(bystander)
		b := l.bans()[banOf(scanner)]
		if b.Step != 1 || b.Cause != CauseScan {
			l.t.Errorf("the ban is %+v, want one for a scan", b)
		}
	})
}
