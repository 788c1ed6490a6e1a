package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestPutMoreStepsThanFit puts more steps than can be remembered: all sources are
// banned, as many steps are remembered as there is room for, and those that were
// get their new time.
func TestPutMoreStepsThanFit(t *testing.T) {
	t.Parallel()
	const size, n = 20, 140 // there is room for twice as many steps
	spec := trapSpec()
	spec.Size, spec.Subnet6 = size, 0
	l := newTrap(t, spec)
	for _, source := range []string{"203.0.%d.%d/32", "2001:db8:%x:%x::/64"} {
		record := func(i int, remembered time.Duration) Record {
			return Record{
				Source: netip.MustParsePrefix(fmt.Sprintf(source, i/100, i%100)), Banned: true, Timeout: time.Hour, Remaining: time.Hour,
				Step: 1, StepRemaining: remembered, Cause: CauseTrap,
			}
		}
		l.put(record(n-1, time.Hour), record(n-2, time.Hour))
		var all []Record
		for i := range n {
			all = append(all, record(i, 2*time.Hour))
		}
		for range 2 {
			l.put(all...)
			steps := 0
			for i := range n {
				st, err := l.open().Lookup(all[i].Source.Addr())
				if err != nil || len(st.Bans) == 0 {
					t.Fatalf("%v has %d bans, error %v", all[i].Source, len(st.Bans), err)
				}
				if st.Step > 0 {
					steps++
				}
				if i >= n-2 && st.StepRemaining < 119*time.Minute {
					t.Errorf("%v is remembered for %v", all[i].Source, st.StepRemaining)
				}
			}
			if steps != 2*size {
				t.Errorf("%d steps are remembered, want %d", steps, 2*size)
			}
		}
	}
}
