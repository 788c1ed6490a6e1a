package nftset

import (
	"errors"
	"os"
	"testing"
	"time"
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
			if err := l.Add(s, Each(elems...)); err != nil {
				t.Fatal(err)
			}
			named := &Set{Table: s.Table, Name: s.Name}
			if n, err := l.Count(named); n != len(elems) || err != nil {
				t.Errorf("%d elements of %v, flags %d: %d, %v", len(elems), typ, flags, n, err)
			}
			old, err := l.Set(s.Table, s.Name)
			if err != nil {
				t.Fatal(err)
			}
			old.Count = -1
			if n, err := l.count(old); n != len(elems) || err != nil {
				t.Errorf("%d elements of %v, flags %d, read: %d, %v", len(elems), typ, flags, n, err)
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

// TestCountExpired has intervals expire: what is left of them in the kernel does
// not count.
func TestCountExpired(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, FlagInterval|FlagTimeout,
		Element{Interval: iv("10.0.0.0/8"), Timeout: 20 * time.Millisecond},
		Element{Interval: iv("192.0.2.0/24")}, Element{Interval: iv("224.0.0.0/3")})
	await(t, "an interval expires", func() bool {
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
