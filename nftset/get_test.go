package nftset

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// checkGet asks for the ends of intervals, for keys inside of them and for
// their neighbours, and compares with a search through all elements.
func checkGet(t testing.TB, l *fixture, s *Set, elems []Element, more ...Key) {
	t.Helper()
	keys := append([]Key{{typ: s.Type}, s.Type.Max()}, more...)
	for _, el := range elems {
		keys = append(keys, el.From, el.To)
		if el.From != (Key{typ: s.Type}) {
			keys = append(keys, el.From.prev())
		}
		if next, ok := el.From.Next(); ok {
			keys = append(keys, next)
		}
		if next, ok := el.To.Next(); ok {
			keys = append(keys, next)
		}
	}
	for _, k := range keys {
		i := slices.IndexFunc(elems, func(el Element) bool { return el.Contains(k) })
		got, err := l.Get(s, k)
		if i < 0 {
			if want := "get element " + k.String() + " of " + s.String() + ": there is none"; !errors.Is(err, os.ErrNotExist) || err.Error() != want {
				t.Errorf("Get(%v): %v, %v; want %s", k, got, err, want)
			}
			continue
		}
		want := elems[i]
		if err != nil || got.Interval != want.Interval || got.Comment != want.Comment || got.Timeout != want.Timeout || (want.Timeout > 0) != (got.Remaining > 0) {
			t.Errorf("Get(%v): %s, %v; want %s", k, show(got), err, show(want))
		}
	}
}

func TestGet(t *testing.T) {
	for _, tt := range []struct {
		name string
		typ  KeyType
		in   []Interval
	}{
		{"nothing", IPv4Addr, nil},
		{"one", IPv4Addr, ivs("10.0.0.0/8")},
		{"one address", IPv4Addr, ivs("10.0.0.1")},
		{"the first address", IPv4Addr, ivs("0.0.0.0")},
		{"the last address", IPv4Addr, ivs("255.255.255.255")},
		{"both", IPv4Addr, ivs("0.0.0.0", "255.255.255.255")},
		{"everything", IPv4Addr, ivs("0.0.0.0/0")},
		{"everything, in halves", IPv4Addr, ivs("0.0.0.0/1", "128.0.0.0/1")},
		{"touching", IPv4Addr, ivs("10.0.0.0/9", "10.128.0.0/9", "11.0.0.0/8")},
		{"an address between neighbours", IPv4Addr, ivs("10.0.0.0-10.0.0.4", "10.0.0.5", "10.0.0.6-10.0.0.9")},
		{"addresses in a row", IPv4Addr, ivs("10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7")},
		{"gaps of one", IPv4Addr, ivs("10.0.0.4", "10.0.0.6-10.0.0.8", "10.0.0.10")},
		{"to the top", IPv4Addr, ivs("10.0.0.0/8", "224.0.0.0/3")},
		{"to the top, touching", IPv4Addr, ivs("192.0.0.0/3", "224.0.0.0/3")},
		{"the last address, touching", IPv4Addr, ivs("255.255.255.0-255.255.255.254", "255.255.255.255")},
		{"everything of IPv6", IPv6Addr, ivs("::/0")},
		{"IPv6", IPv6Addr, ivs("::", "2001:db8::/32", "2001:db9::/32", "2001:dba::-2001:dba::5", "fe80::/10", "ff00::/8")},
		{"IPv6, a carry between the halves", IPv6Addr, ivs("2001:db8::/64", "2001:db8:0:1::/64", "2001:db8:0:2::")},
		{"ports", InetService, ivs("0", "22", "23", "80-90", "91", "65534", "65535")},
		{"all ports", InetService, ivs("0-65535")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			s := l.set("s", tt.typ, FlagInterval|FlagTimeout)
			var elems []Element
			for i, x := range tt.in {
				el := Element{Interval: x}
				if i%2 == 0 {
					el.Timeout, el.Comment = time.Duration(i+1)*time.Hour, x.String()
				}
				elems = append(elems, el)
			}
			if err := l.AddSeq(s, each(elems...)); err != nil {
				t.Fatal(err)
			}
			checkGet(t, l, s, elems)
		})
	}
}

// TestGetRandom cuts a key space into many pieces, most of which touch, and
// leaves some out.
func TestGetRandom(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for round := range 6 {
		typ := keyTypes[round%len(keyTypes)]
		s := l.set(typ.String()+string(rune('a'+round)), typ, FlagInterval)
		cuts := []Key{{typ: typ}}
		for range 60 {
			k := randomKey(r, typ)
			cuts = append(cuts, k)
			for r.IntN(2) == 0 {
				if k, _ = k.Next(); k.typ == typ {
					cuts = append(cuts, k)
				}
			}
		}
		cuts = slices.DeleteFunc(cuts, func(k Key) bool { return k.typ != typ })
		slices.SortFunc(cuts, Key.Compare)
		cuts = slices.Compact(cuts)
		var elems []Element
		for i, k := range cuts {
			to := typ.Max()
			if i+1 < len(cuts) {
				to = cuts[i+1].prev()
			}
			if r.IntN(4) > 0 {
				elems = append(elems, Element{Interval: Interval{k, to}})
			}
		}
		shuffled := slices.Clone(elems)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if err := l.AddSeq(s, each(shuffled...)); err != nil {
			t.Fatal(err)
		}
		if got := l.intervals(s); !slices.Equal(got, intervalsOf(elems)) {
			t.Fatalf("wrote %v, read %v", intervalsOf(elems), got)
		}
		checkGet(t, l, s, elems)
	}
}

// TestGetSingle asks sets without intervals, of each of the kernel's kinds: the
// ports' is a bitmap, the sized ones have a hash table of fixed size.
func TestGetSingle(t *testing.T) {
	r := random(t)
	l := newLab(t)
	for _, typ := range allTypes {
		for _, size := range []uint32{0, 5000} {
			for _, flags := range []Flags{0, FlagTimeout} {
				s := &Set{Name: typ.String() + string(rune('a'+size/5000)) + string(rune('a'+flags)), Type: typ, Flags: flags, Size: size}
				elems := randomElements(r, s, 500)
				keep(elems)
				l.addSet(s, elems...)
				for _, el := range elems {
					got, err := l.Get(s, el.From)
					if err != nil || got.Interval != el.Interval || got.Comment != el.Comment || (el.Timeout-got.Timeout).Abs() > jiffy {
						t.Fatalf("Get(%v): %s, %v; want %s", el, show(got), err, show(el))
					}
				}
				for range 500 {
					k := randomKey(r, typ)
					_, err := l.Get(s, k)
					if want := slices.ContainsFunc(elems, func(el Element) bool { return el.From == k }); errors.Is(err, os.ErrNotExist) == want || want != (err == nil) {
						t.Fatalf("Get(%v) from %v: %v", k, s, err)
					}
				}
			}
		}
	}
}

func TestGetErrors(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0, Element{Interval: iv("10.0.0.1")})
	for _, absent := range []*Set{
		{Table: l.table, Name: "none", Type: IPv4Addr},
		{Table: l.table, Name: "none", Type: IPv4Addr, Flags: FlagInterval},
		{Table: Table{FamilyINet, "none"}, Name: "s", Type: IPv4Addr},
		{Table: Table{FamilyIPv6, "lab"}, Name: "s", Type: IPv4Addr},
	} {
		if got, err := l.Get(absent, addr("10.0.0.1")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Get from %v: %v, %v", absent, got, err)
		}
	}
	before := l.seq
	for _, k := range []Key{addr("::1"), PortKey(22), {}} {
		got, err := l.Get(s, k)
		var op *OpError
		if !errors.As(err, &op) || errors.Is(err, os.ErrNotExist) || op.Element == nil || op.Element.From != k {
			t.Errorf("Get(%v): %v, %v", k, got, err)
		}
	}
	if l.seq != before {
		t.Error("the kernel was asked for keys that no such set can have")
	}
}

// TestGetIsQuick asks a big set of intervals for keys that need no reading of
// the whole: it takes 50 times as long to read it once.
func TestGetIsQuick(t *testing.T) {
	l := newLab(t)
	const n = 20_000
	var elems []Element
	for i := range uint64(n) {
		elems = append(elems, Element{Interval: Interval{Key{lo: i << 10, typ: IPv4Addr}, Key{lo: i<<10 + 99, typ: IPv4Addr}}})
	}
	s := l.set("s", IPv4Addr, FlagInterval, elems...)
	before := l.seq
	for i := range uint64(100) {
		for _, k := range []uint64{1, 50, 99} {
			if _, err := l.Get(s, Key{lo: i*199<<10 + k, typ: IPv4Addr}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Three requests each, and none for a dump.
	if got := l.seq - before; got != 900 {
		t.Errorf("300 questions took %d requests, want 900", got)
	}
}
