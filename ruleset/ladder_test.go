package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// steps returns a ladder of n steps, long enough for most bans to be seen before
// they end.
func steps(n int) []time.Duration {
	var out []time.Duration
	for i := range n {
		out = append(out, 600*time.Millisecond+time.Duration(i)*50*time.Millisecond)
	}
	return out
}

// offendAt offends and wants a ban by a step, and no other packet to be served
// until that has ended. It returns how many were sent until then; see hammer.
func (l *fixture) offendAt(spec Spec, src, bystander netip.Addr, step int) (dropped int) {
	l.T.Helper()
	before := l.counters()
	l.Offend(src)
	l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
	// On a busy machine the ban can have ended by now.
	st, want := l.lookup(src), spec.BanTime[step-1]
	if st.Step != step {
		l.T.Errorf("the ban was by step %d, want %d", st.Step, step)
	}
	for _, b := range st.Bans {
		if b.Step != step || b.Cause != CauseTrap || !sameTimeout(b.Timeout, want) {
			l.T.Errorf("the ban is one of %v by step %d for a %v, want one of %v by step %d", b.Timeout, b.Step, b.Cause, want, step)
		}
	}
	l.Served(bystander)
	dropped = l.hammer(src, ofAddr(src).ban())
	l.Served(src, bystander)
	return dropped
}

// TestLadder lets each ban expire and offends again, with no program running.
func TestLadder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3, MaxSteps} {
		t.Run(fmt.Sprintf("%d steps", n), func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			spec.BanTime = steps(n)
			separately(t, spec, func(l *fixture, f family) {
				offender, bystander := l.source(f), l.source(f)
				dropped := 0
				for step := 1; step <= n+1; step++ { // the last step is also that of all after it
					dropped += l.offendAt(spec, offender, bystander, min(step, n))
				}
				if dropped == 0 {
					l.T.Error("every ban had ended before a packet came: nothing was checked")
				}
				l.wantStanding(bystander, 0, CauseUnknown)
			})
		})
	}
}

// TestLadderForgets offends at the second step, and again when that is
// forgotten. The first ban has been forgotten before, which does not count.
func TestLadderForgets(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	// There are three seconds for each offence: before the first step is
	// forgotten, and as the second outlasts it by its ban.
	spec.BanTime = []time.Duration{600 * time.Millisecond, 3 * time.Second, 4 * time.Second}
	spec.Forget = 3 * time.Second
	separately(t, spec, func(l *fixture, f family) {
		offender, bystander := l.source(f), l.source(f)
		key := nftset.AddrKey(network(offender))
		l.offendAt(spec, offender, bystander, 1)
		l.offendAt(spec, offender, bystander, 2)
		lab.Await(l.T, "the first step to be forgotten", func() bool { _, ok := l.element(f.tier(1), key); return !ok })
		if el, ok := l.element(f.tier(2), key); !ok || el.Remaining > spec.memoryTime(2) {
			l.T.Fatalf("the second step is remembered as %+v, %v", el, ok)
		}
		l.offendAt(spec, offender, bystander, 3)
		lab.Await(l.T, "all to be forgotten", func() bool { return l.lookup(offender).Step == 0 })
		l.offendAt(spec, offender, bystander, 1)
	})
}

// TestLadderOfBothCauses climbs by a trap and by a scan in turn.
func TestLadderOfBothCauses(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.BanTime = []time.Duration{time.Second, 3 * time.Second, 4 * time.Second}
	spec.Scan.Ports = 2
	separately(t, spec, func(l *fixture, f family) {
		offender, bystander := l.source(f), l.source(f)
		l.offendAt(spec, offender, bystander, 1) // counts a closed port against both at the end
		l.Want(l.SYN(offender, 201), 0)
		l.wantStanding(offender, 2, CauseScan)
		l.hammer(offender, f.ban())
		l.Served(bystander)
		l.Offend(offender)
		l.Cut(offender)
		l.wantStanding(offender, 3, CauseTrap) // that it has scanned before is forgotten
		l.Served(bystander)
		lab.Await(l.T, "the ban to expire", func() bool { return len(l.lookup(offender).Bans) == 0 })
	})
}
