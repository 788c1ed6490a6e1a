package nftset

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// TestCount counts sets of all kinds, also as on a kernel that does not count.
func TestCount(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, typ := range allTypes {
		for _, flags := range []Flags{0, FlagTimeout, FlagDynamic | FlagTimeout, FlagInterval, FlagInterval | FlagTimeout} {
			s := &Set{Name: "s", Type: typ, Flags: flags}
			if s.fault() != nil {
				continue
			}
			l.addSet(s)
			if n, err := l.Count(s); n != 0 || err != nil {
				t.Errorf("an empty set of %v, flags %d: %d, %v", typ, flags, n, err)
			}
			elems := randomElements(r, s, 1000)
			keep(elems)
			if err := l.AddSeq(s, each(elems...)); err != nil {
				t.Fatal(err)
			}
			named := &Set{Table: s.Table, Name: s.Name}
			if n, err := l.Count(named); n != len(elems) || err != nil {
				t.Errorf("%d elements of %v, flags %d: %d, %v", len(elems), typ, flags, n, err)
			}
			var tx Tx
			tx.DeleteSet(s)
			l.commit(&tx)
		}
	}
}

// TestCountAtOnce asks for the number of many elements: where the kernel counts
// they are not read.
func TestCountAtOnce(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0, Element{Interval: iv("10.0.0.1")})
	described, err := l.Set(l.table, "s")
	if err != nil {
		t.Fatal(err)
	}
	before := l.seq
	if n, err := l.Count(s); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if requests := l.seq - before; described.Count >= 0 && requests != 1 {
		t.Errorf("%d requests, want 1", requests)
	}
}

// TestCountExpired has intervals expire: what is left of them in the kernel
// does not count.
func TestCountExpired(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, FlagInterval|FlagTimeout,
		Element{Interval: iv("10.0.0.0/8"), Timeout: 20 * time.Millisecond},
		Element{Interval: iv("192.0.2.0/24")}, Element{Interval: iv("224.0.0.0/3")})
	lab.Await(t, "an interval expires", func() bool {
		n, err := l.Count(s)
		if err != nil || n < 2 || n > 3 {
			t.Fatalf("%d, %v", n, err)
		}
		return n == 2
	})
}

func TestCountErrors(t *testing.T) {
	l := newLab(t)
	l.nft("add set inet lab nets { type ipv4_addr . inet_service; flags interval; }")
	for _, s := range []*Set{{Table: l.table, Name: "none"}, {Table: Table{FamilyIPv4, "lab"}, Name: "nets"}} {
		if n, err := l.Count(s); n != 0 || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Count(%v): %d, %v", s, n, err)
		}
	}
	want := "read set inet lab nets: intervals of ipv4_addr . inet_service are not supported"
	if n, err := l.Count(&Set{Table: l.table, Name: "nets"}); n != 0 || err == nil || err.Error() != want {
		t.Errorf("%d, %v; want %s", n, err, want)
	}
}

// TestSets reads descriptions of sets that nft made, and of ours.
func TestSets(t *testing.T) {
	l := newLab(t)
	l.nft(`
		add set inet lab ban4 { type ipv4_addr; flags dynamic,timeout; timeout 8h; size 1000; }
		add set inet lab net6 { type ipv6_addr; flags interval; elements = { 2001:db8::/32, 2001:db9::/32 }; }
		add set inet lab ports { type inet_service; elements = { 22, 80, 443 }; }
		add set inet lab pair { type ipv4_addr . inet_service; flags interval; }
		add chain inet lab c
		add rule inet lab c ip saddr { 10.0.0.1, 10.0.0.2 } drop
		add table ip lab
		add set ip lab other { type ipv4_addr; }
		add table inet another
		add set inet another other { type ipv4_addr; }`)
	own := Set{Table: l.table, Name: "own", Type: IPv6Addr, Flags: FlagTimeout, Timeout: 90 * time.Minute, Size: 7}
	l.addSet(&own, Element{Interval: iv("::1")})
	got, err := l.Sets(l.table)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	own.Count = 1
	want := []Set{
		{Table: l.table, Name: "ban4", Type: IPv4Addr, Flags: FlagDynamic | FlagTimeout, Timeout: 8 * time.Hour, Size: 1000},
		{Table: l.table, Name: "net6", Type: IPv6Addr, Flags: FlagInterval, Count: -1},
		own,
		{Table: l.table, Name: "pair", Type: IPv4AddrPort, Flags: FlagInterval | 0x80, Count: -1}, // NFT_SET_CONCAT
		{Table: l.table, Name: "ports", Type: InetService, Count: 3},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, want := range want {
		if got, err := l.Set(want.Table, want.Name); err != nil || *got != want {
			t.Errorf("Set(%v): %+v, %v; want %+v", &want, got, err, want)
		}
	}
	for _, s := range []Set{
		{Table: l.table, Name: "none"},
		{Table: l.table, Name: "other"},
		{Table: l.table, Name: "ban"},
		{Table: l.table, Name: "__set0"}, // that of the rule, which has no name
		{Table: l.table},
		{Table: Table{FamilyIPv4, "lab"}, Name: "ban4"},
		{Table: Table{FamilyINet, "none"}, Name: "ban4"},
	} {
		got, err := l.Set(s.Table, s.Name)
		if want := "describe set " + s.String() + ": there is none"; got != nil || !errors.Is(err, os.ErrNotExist) || err.Error() != want {
			t.Errorf("Set(%v): %+v, %v; want %s", &s, got, err, want)
		}
	}
	for _, table := range []Table{{FamilyIPv4, "lab"}, {FamilyINet, "another"}} {
		if got, err := l.Sets(table); err != nil || len(got) != 1 || got[0].Name != "other" || got[0].Table != table {
			t.Errorf("sets of %v: %+v, %v", table, got, err)
		}
	}
	for _, table := range []Table{{FamilyINet, "none"}, {FamilyIPv6, "lab"}} {
		if got, err := l.Sets(table); err != nil || len(got) != 0 {
			t.Errorf("sets of %v: %+v, %v", table, got, err)
		}
	}
}

// TestAddSetAgain changes timeout and size of a set that lives, and keeps its
// elements.
func TestAddSetAgain(t *testing.T) {
	l := newLab(t)
	s := l.addSet(&Set{Name: "s", Type: IPv4Addr, Flags: FlagTimeout, Timeout: time.Hour, Size: 10}, Element{Interval: iv("10.0.0.1")})
	again := *s
	again.Timeout, again.Size = 2*time.Hour, 20
	l.addSet(&again)
	if err := l.AddSeq(&again, singles(addr("10.0.0.2"))); err != nil {
		t.Fatal(err)
	}
	got, err := l.Sets(l.table)
	if err != nil {
		t.Fatal(err)
	}
	again.Count = 2
	if len(got) != 1 || got[0] != again {
		t.Errorf("got %+v, want %+v", got, again)
	}
	elems := l.read(s)
	if len(elems) != 2 || elems[0].Remaining > time.Hour || elems[1].Remaining <= time.Hour {
		t.Errorf("elements: %s", show(elems...))
	}
}
