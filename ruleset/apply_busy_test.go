package ruleset

import (
	"errors"
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
	t.Parallel()
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

	stop := l.keepBusy(time.Second / 40)
	offender, bystander := l.source(families[0]), l.source(families[0])
	l.Offend(offender)
	const applies = 5
	for i := range applies {
		spec.TrapTCP = []Ports{{lab.TrapTCP, lab.TrapTCP}, {uint16(1000 + i), uint16(1000 + i)}}
		spec.Whitelist = spec.Whitelist[1:] // not only the rules change
		if r, err := Apply(l.conn, spec); err != nil || r.Empty() {
			t.Fatalf("apply %d of %d: %v", i+1, applies, err)
		}
	}
	stop()
	if r := l.prepare(spec); !r.Empty() {
		t.Errorf("after it, this was still to be changed:\n%.500s", r)
	}
	l.Cut(offender)
	l.Served(bystander)
	l.Want(l.SYN(l.source(families[0]), 1000+applies-1), netnstest.NoAnswer)
}

// TestBansBesideBusyProgram has another program commit to a table of its own as
// fast as it can, while prefixes are banned and unbanned.
func TestBansBesideBusyProgram(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.apply(trapSpec())
	n := 10_000
	if !largeTransactions(t) {
		n = 1000
	}
	l.families(func(l *fixture, f family) {
		offender := l.source(f)
		around := netip.PrefixFrom(offender, 24).Masked()
		var others []Record // which take some time to read
		for i := range n {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 28)
			if f.is6() {
				p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x30, 3: byte(i >> 8), 4: byte(i)}), 40)
			}
			others = append(others, byHand(p, time.Hour))
		}
		l.put(others...)
		wantBans := func(n int) {
			l.T.Helper()
			if got := len(l.bans()); got != n {
				l.T.Errorf("%d bans, want %d", got, n)
			}
		}
		stop := l.keepBusy(0)
		if refused, err := l.open().Put([]Record{byHand(around, time.Hour)}); refused != nil || err != nil {
			l.T.Fatal("ban", refused, err)
		}
		wantBans(len(others) + 1)
		l.Cut(offender)
		if _, _, err := l.open().Unban(around); err != nil {
			l.T.Fatal("unban", err)
		}
		wantBans(len(others))
		l.Served(offender)
		stop()
		if p := l.prepare(trapSpec()); !p.Empty() {
			l.T.Errorf("after it, this was still to be changed:\n%.500s", p)
		}
		if err := l.open().UnbanAll(); err != nil {
			l.T.Fatal(err)
		}
	})
}

// keepBusy has another program commit to a table of its own at intervals, until
// the function that it returns is called.
func (l *fixture) keepBusy(interval time.Duration) (stop func()) {
	l.T.Helper()
	other := l.dial()
	set := &nftset.Set{
		Table: nftset.Table{Family: nftset.FamilyINet, Name: "other"}, Name: "busy", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout,
	}
	tx := &nftset.Tx{}
	tx.AddTable(set.Table)
	tx.AddSet(set)
	if err := other.Commit(tx); err != nil {
		l.T.Fatal(err)
	}
	ended, stopped := make(chan struct{}), make(chan error)
	go func() {
		for i := byte(0); ; i++ {
			time.Sleep(interval)
			select {
			case <-ended:
				stopped <- nil
				return
			default:
			}
			tx := &nftset.Tx{}
			el := nftset.Addr(netip.AddrFrom4([4]byte{10, 0, 0, i})).For(time.Minute)
			tx.Renew(set, el) // to add what is there would be no change
			if err := other.Commit(tx); err != nil {
				stopped <- err
				return
			}
		}
	}()
	return func() {
		close(ended)
		if err := <-stopped; err != nil {
			l.T.Errorf("the other program: %v", err)
		}
	}
}

// TestGivesUp is about a change that never comes to rest.
func TestGivesUp(t *testing.T) {
	tries := 0
	err := beside(func(guarded bool) (again bool, err error) {
		tries++
		return true, nil
	})
	if !errors.Is(err, errBusy) || tries != attempts {
		t.Errorf("after %d tries the error is %v", tries, err)
	}
}
