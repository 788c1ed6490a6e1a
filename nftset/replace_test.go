package nftset

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
	"github.com/portmon/portmon/netnstest"
)

// rules returns the attributes of a chain's rules, fit for adding them again.
func (l *fixture) rules(chain string) (all [][]byte) {
	l.t.Helper()
	for attrs, err := range l.Dump(unix.NFT_MSG_GETRULE, l.table.Family, nil) {
		if err != nil {
			l.t.Fatal(err)
		}
		var e encoder
		mine := false
		for a, err := range nfnl.Attrs(attrs) {
			if err != nil {
				l.t.Fatal(err)
			}
			switch a.Type {
			case unix.NFTA_RULE_CHAIN:
				mine = string(a.Text()) == chain
				e.string(a.Type, chain)
			case unix.NFTA_RULE_TABLE:
				e.bytes(a.Type, a.Data)
			case unix.NFTA_RULE_EXPRESSIONS:
				e.bytes(a.Type|unix.NLA_F_NESTED, a.Data)
			}
		}
		if mine {
			all = append(all, e.b)
		}
	}
	return all
}

// replaceSet deletes a set with the rules of a chain, and adds another set of
// the same name and the same rules.
func (l *fixture) replaceSet(tx *Tx, chain string, from, to *Set, elems ...Element) {
	l.t.Helper()
	rules := l.rules(chain)
	var e encoder
	e.string(unix.NFTA_RULE_TABLE, l.table.Name)
	e.string(unix.NFTA_RULE_CHAIN, chain)
	tx.Message(unix.NFT_MSG_DELRULE, 0, l.table.Family, e.b, "flush chain", chain)
	tx.DeleteSet(from)
	tx.AddSet(to)
	tx.AddSeq(to, each(elems...))
	for _, rule := range rules {
		tx.Message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, l.table.Family, rule, "add rule", chain)
	}
}

// TestReplaceSetOfOtherKind gives a set that a rule asks other flags, and other
// elements, in one transaction. The elements and the rule name the set; both
// must get the new one.
func TestReplaceSetOfOtherKind(t *testing.T) {
	l := newLab(t)
	outside := netnstest.NewHost(t, "outside")
	link := netnstest.Connect(t, outside, l.host, "192.0.2.0/24")
	dropped := func(src string) bool {
		closed := netip.AddrPortFrom(link.B.IPv4, 9)
		return outside.Probe(netnstest.SYN(netip.MustParseAddr(src), closed)).Kind == netnstest.NoAnswer
	}
	sources := []string{"192.0.2.100", "192.0.2.101", "192.0.2.102", "192.0.2.103"}
	for _, src := range sources {
		outside.AddAddr(link.A.Dev, src+"/24")
	}

	kinds := []struct {
		flags Flags
		elems []Interval
	}{
		{FlagDynamic | FlagTimeout, ivs("192.0.2.100")},
		{FlagInterval | FlagTimeout, ivs("192.0.2.101-192.0.2.102")},
		{0, ivs("192.0.2.103", "10.0.0.1")},
		{FlagInterval, ivs("192.0.2.100/31", "198.51.100.0/24")},
	}
	set := func(i int) (*Set, []Element) {
		kind := kinds[i%len(kinds)]
		s := &Set{Table: l.table, Name: "s", Type: IPv4Addr, Flags: kind.flags, Size: uint32(1000 + i)}
		var elems []Element
		for _, x := range kind.elems {
			el := Element{Interval: x}
			if kind.flags&FlagTimeout != 0 {
				el.Timeout = time.Hour
			}
			elems = append(elems, el)
		}
		return s, elems
	}
	old, elems := set(0)
	l.addSet(old, elems...)
	l.nft(`
		add chain inet lab input { type filter hook input priority 0; }
		add rule inet lab input ip saddr @s counter drop`)
	for i := 1; i <= 2*len(kinds); i++ {
		now, elems := set(i)
		var tx Tx
		l.replaceSet(&tx, "input", old, now, elems...)
		l.commit(&tx)
		if got, err := l.Set(l.table, "s"); err != nil || got.Flags != now.Flags || got.Size != now.Size {
			t.Fatalf("step %d: %+v, %v; want %+v", i, got, err, now)
		}
		slices.SortFunc(elems, func(a, b Element) int { return a.Compare(b.Interval) })
		if got := l.intervals(now); !slices.Equal(got, intervalsOf(elems)) {
			t.Errorf("step %d: holds %v, want %v", i, got, elems)
		}
		for _, src := range sources {
			want := slices.ContainsFunc(elems, func(el Element) bool { return el.Contains(addr(src)) })
			if got := dropped(src); got != want {
				t.Errorf("step %d: a packet of %s is dropped: %v", i, src, got)
			}
		}
		old = now
	}
	// A rule that still asks the old set keeps it, and all of the transaction
	// from being done.
	now, elems := set(1)
	var tx Tx
	tx.DeleteSet(old)
	tx.AddSet(now)
	tx.AddSeq(now, each(elems...))
	checkOpError(t, l.Commit(&tx), "delete set", old.String(), nil, unix.EBUSY)
	if got, err := l.Set(l.table, "s"); err != nil || got.Flags != old.Flags {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestReplaceSetOrder has elements before and after a set is replaced, also by
// one of another type, and twice in one transaction: each gets those that come
// after it and before the next.
func TestReplaceSetOrder(t *testing.T) {
	l := newLab(t)
	first := l.set("s", IPv4Addr, FlagTimeout, Element{Interval: iv("10.0.0.1")})
	second := &Set{Table: l.table, Name: "s", Type: IPv4AddrPort, Flags: FlagDynamic | FlagTimeout}
	third := &Set{Table: l.table, Name: "s", Type: IPv4Addr, Flags: FlagInterval}

	var tx Tx
	tx.AddSeq(first, each(Element{Interval: iv("10.0.0.2")}))
	tx.DeleteSet(first)
	tx.AddSet(second)
	tx.Renew(second, Element{Interval: iv("10.0.0.3 . 23"), Timeout: time.Hour})
	tx.DeleteSet(second)
	tx.AddSet(third)
	tx.AddSeq(third, each(Element{Interval: iv("10.0.0.0/30")}, Element{Interval: iv("10.0.0.9")}))
	tx.DeleteSeq(third, each(Element{Interval: iv("10.0.0.9")}))
	l.commit(&tx)
	if got := l.intervals(third); !slices.Equal(got, ivs("10.0.0.0/30")) {
		t.Errorf("holds %v", got)
	}

	// What fails names the set as it is then, and leaves the old one as it was.
	full := *second
	full.Size = 1
	tx = Tx{}
	tx.DeleteSet(third)
	tx.AddSet(&full)
	tx.AddSeq(&full, singles(pairOf("10.0.0.1:1"), pairOf("10.0.0.1:2")))
	refused := Single(pairOf("10.0.0.1:2")).Interval
	checkOpError(t, l.Commit(&tx), "add element", full.String(), &refused, unix.ENFILE)
	if got := l.intervals(third); !slices.Equal(got, ivs("10.0.0.0/30")) {
		t.Errorf("holds %v", got)
	}
}

// TestMonitorHearsOfReplacedSet pins in which order the kernel tells of a set
// that was replaced: who follows the events in their order knows what it holds.
func TestMonitorHearsOfReplacedSet(t *testing.T) {
	l := newLab(t)
	old := l.set("s", IPv4Addr, FlagTimeout, Element{Interval: iv("10.0.0.1")})
	now := &Set{Table: l.table, Name: "s", Type: IPv4Addr, Flags: FlagDynamic | FlagTimeout}
	m := l.listen(MonitorConfig{Sets: []Set{*now}})
	var tx Tx
	tx.DeleteSet(old)
	tx.AddSet(now)
	tx.AddSeq(now, each(Element{Interval: iv("10.0.0.2")}))
	l.commit(&tx)
	events, _ := hear(t, m)
	var kinds []EventKind
	for _, ev := range events {
		kinds = append(kinds, ev.Kind)
	}
	if want := []EventKind{SetDeleted, SetAdded, ElementAdded}; !slices.Equal(kinds, want) || events[2].Element.From != addr("10.0.0.2") {
		t.Errorf("heard %v, want %v", kinds, want)
	}
}
