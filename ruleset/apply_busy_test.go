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

// TestApplyBesideBusyProgram has another program commit to a table of its own
// 40 times a second. A large whitelist takes longer to compare than that.
func TestApplyBesideBusyProgram(t *testing.T) {
	l := newLab(t)
	spec := trapSpec()
	n := 20_000
	if !largeTransactions(t) {
		n = 2000
	}
	for i := range n {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 15), byte(i >> 7), byte(i << 1)})
		spec.Whitelist = append(spec.Whitelist, netip.PrefixFrom(a, 32))
	}
	l.apply(spec)

	other := l.dial()
	set := &nftset.Set{
		Table: nftset.Table{Family: nftset.FamilyINet, Name: "other"}, Name: "busy", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout,
	}
	tx := &nftset.Tx{}
	tx.AddTable(set.Table)
	tx.AddSet(set)
	if err := other.Commit(tx); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		tick := time.NewTicker(time.Second / 40)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-tick.C:
			}
			tx := &nftset.Tx{}
			el := nftset.Element{
				Interval: nftset.Addr(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})).Interval, Timeout: time.Minute,
			}
			tx.Add(set, el)
			if err := other.Commit(tx); err != nil {
				stopped <- err
				return
			}
		}
	}()
	offender, bystander := l.source(families[0]), l.source(families[0])
	l.Offend(offender)
	for i := range 20 {
		spec.TrapTCP = []Ports{{lab.TrapTCP, lab.TrapTCP}, {uint16(1000 + i), uint16(1000 + i)}}
		spec.Whitelist = spec.Whitelist[1:] // not only the rules change
		if r, err := Apply(l.conn, spec); err != nil || r.Empty() {
			t.Fatalf("apply %d of 20: %v", i+1, err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(fmt.Errorf("the other program: %w", err))
	}
	if r := l.prepare(spec); !r.Empty() {
		t.Errorf("after it, this was still to be changed:\n%.500s", r)
	}
	l.Cut(offender)
	l.Served(bystander)
	l.Want(l.SYN(l.source(families[0]), 1019), netnstest.NoAnswer)
}
