package watch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// Offences of a flood that are held back are not said to have found a set full,
// nor the other way, and each is told once.
func TestOffencesWithoutBan(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kind Kind
		fill func(*fixture)
	}{
		"held back": {HeldBack, func(*fixture) {}},
		"full": {Full, func(l *fixture) { // by hand, which is not held back
			var records []ruleset.Record
			for i := range l.spec.Size {
				a := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
				records = append(records, ruleset.Record{
					Source: netip.PrefixFrom(a, 32), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: ruleset.CauseHand,
				})
			}
			l.put(records...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newBareLab(t)
			l.spec.Size = 64
			l.apply()
			test.fill(l)
			w := l.watch()
			lab.Await(t, "the table was looked at", func() (seen bool) {
				w.call(t.Context(), func() { seen = w.core.table.seen.generation != 0 })
				return seen
			})
			l.Internet.Burst(100, func(i int) netnstest.Packet {
				return l.SYN(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), lab.TrapTCP)
			})
			c := l.Open().Counters
			want := map[Kind]int{Full: int(c[ruleset.CounterFull].Packets), HeldBack: int(c[ruleset.CounterHeldBack].Packets)}
			if want[test.kind] == 0 {
				t.Fatalf("the table has counted %v", c)
			}
			if err := w.Save(t.Context()); err != nil { // the counters are read for that
				t.Fatal(err)
			}
			w.stop()
			got := make(map[Kind]int)
			for _, n := range w.told {
				if n.Kind == Full || n.Kind == HeldBack {
					got[n.Kind] += n.Count
				}
			}
			if got[Full] != want[Full] || got[HeldBack] != want[HeldBack] {
				t.Errorf("told of %v, the kernel has counted %v", got, want)
			}
		})
	}
}
