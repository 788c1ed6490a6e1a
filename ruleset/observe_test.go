package ruleset

import (
	"slices"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// observing returns a Spec with a table that drops nothing.
func observing(s Spec) Spec {
	s.Observe = true
	return s
}

// TestEnforcingForgets has what was observed end, in the transaction from which
// on the table drops, unless it is to be kept.
func TestEnforcingForgets(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, observing(spec))
	if !l.open().Observe {
		t.Error("the state does not say that the table observes")
	}
	for _, keep := range []bool{false, true} {
		offenders := l.Sources(2)
		for _, src := range offenders {
			l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		}
		l.put(someBans()...)
		was := len(l.bans())
		before := l.generation()
		enforcing := spec
		enforcing.KeepObserved = keep
		p := l.apply(enforcing)
		if after := l.generation(); after != before+1 {
			t.Errorf("keep %v: %d transactions, want 1", keep, after-before)
		}
		if l.open().Observe || p.Forgets == keep || p.Empty() {
			t.Errorf("keep %v: the table observes, or the plan is wrong: %s", keep, p)
		}
		if p := l.prepare(spec); !p.Empty() {
			t.Errorf("keep %v: there is more to do: %s", keep, p)
		}
		switch keep {
		case true:
			if got := len(l.bans()); got != was {
				t.Errorf("%d bans were kept, of %d", got, was)
			}
			l.Cut(offenders...)
		case false:
			for e, err := range l.open().Entries() {
				t.Errorf("not forgotten: %s in %s (%v)", e.Interval, e.Set, err)
			}
			l.Served(offenders...)
			for _, a := range someBanned {
				l.Served(a)
			}
			for _, src := range offenders { // the first offence of all
				l.Offend(src)
				if ban := l.bans()[banOf(src)]; ban.Step != 1 {
					t.Errorf("the first offence that has consequences bans by step %d", ban.Step)
				}
			}
			l.Cut(offenders...)
		}
		l.keeps(func() { l.apply(observing(spec)) })
		if !slices.Contains(l.prepare(spec).Summary(), "what was observed") {
			t.Errorf("the plan to enforce again: %s", l.prepare(spec))
		}
		l.forgive()
	}
}
