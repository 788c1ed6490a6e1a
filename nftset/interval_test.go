package nftset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// iv reads an interval: "192.0.2.1", "10.0.0.0/8", "::1-::5", "80-90", "22",
// "192.0.2.1 . 23", "tcp".
func iv(s string) Interval {
	key := func(s string) Key {
		if port, err := strconv.ParseUint(s, 10, 16); err == nil {
			return PortKey(uint16(port))
		}
		if a, port, ok := strings.Cut(s, " . "); ok {
			n, _ := strconv.ParseUint(port, 10, 16)
			return AddrPortKey(netip.AddrPortFrom(netip.MustParseAddr(a), uint16(n)))
		}
		switch s {
		case "tcp":
			return ProtoKey(unix.IPPROTO_TCP)
		case "udp":
			return ProtoKey(unix.IPPROTO_UDP)
		}
		return addr(s)
	}
	if strings.Contains(s, "/") {
		return Prefix(netip.MustParsePrefix(s)).Interval
	}
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		return Single(key(s)).Interval
	}
	return Interval{key(from), key(to)}
}

func ivs(s ...string) []Interval {
	var out []Interval
	for _, s := range s {
		out = append(out, iv(s))
	}
	return out
}

func TestFromPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, from, to string }{
		{"0.0.0.0/0", "0.0.0.0", "255.255.255.255"},
		{"10.1.2.3/8", "10.0.0.0", "10.255.255.255"}, // host bits
		{"192.0.2.128/25", "192.0.2.128", "192.0.2.255"},
		{"192.0.2.1/32", "192.0.2.1", "192.0.2.1"},
		{"255.255.255.255/32", "255.255.255.255", "255.255.255.255"},
		{"240.0.0.0/4", "240.0.0.0", "255.255.255.255"},
		{"::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8:1:2:3:4:5:6/64", "2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff"},
		{"2001:db8::/63", "2001:db8::", "2001:db8:0:1:ffff:ffff:ffff:ffff"},
		{"2001:db8::/65", "2001:db8::", "2001:db8::7fff:ffff:ffff:ffff"},
		{"2001:db8::1/128", "2001:db8::1", "2001:db8::1"},
		{"::ffff:192.0.2.0/120", "192.0.2.0", "192.0.2.255"}, // mapped
		{"::ffff:0.0.0.0/96", "0.0.0.0", "255.255.255.255"},
	} {
		got := Prefix(netip.MustParsePrefix(tt.prefix)).Interval
		if want := (Interval{addr(tt.from), addr(tt.to)}); got != want {
			t.Errorf("%s: got %v to %v, want %v to %v", tt.prefix, got.From, got.To, want.From, want.To)
		}
	}
	// The smallest prefix with all mapped addresses and others is one of IPv6.
	got := Prefix(netip.MustParsePrefix("::ffff:0.0.0.0/95")).Interval
	if want := (Interval{Key{lo: 0xfffe_0000_0000, typ: IPv6Addr}, Key{lo: 0xffff_ffff_ffff, typ: IPv6Addr}}); got != want {
		t.Errorf("::fffe:0:0/95: got %v to %v", got.From, got.To)
	}
	if got, want := Ports(80, 90).Interval, (Interval{PortKey(80), PortKey(90)}); got != want {
		t.Errorf("ports: got %v, want %v", got, want)
	}
}

// TestIntervalRelations compares with sets of small numbers.
func TestIntervalRelations(t *testing.T) {
	const n = 7
	for a := range n {
		for b := a; b < n; b++ {
			x := Ports(uint16(a), uint16(b)).Interval
			if got, want := x.IsSingle(), a == b; got != want {
				t.Errorf("%v.IsSingle(): got %v", x, got)
			}
			for k := range n {
				if got, want := x.Contains(PortKey(uint16(k))), a <= k && k <= b; got != want {
					t.Errorf("%v.Contains(%d): got %v", x, k, got)
				}
			}
			for c := range n {
				for d := c; d < n; d++ {
					y := Ports(uint16(c), uint16(d)).Interval
					common := 0
					for k := range n {
						if a <= k && k <= b && c <= k && k <= d {
							common++
						}
					}
					if got, want := x.Overlaps(y), common > 0; got != want {
						t.Errorf("%v.Overlaps(%v): got %v", x, y, got)
					}
					if got, want := x.Covers(y), common == d-c+1; got != want {
						t.Errorf("%v.Covers(%v): got %v", x, y, got)
					}
					want := a - c
					if a == c {
						want = b - d
					}
					if got := x.Compare(y); got < 0 != (want < 0) || got > 0 != (want > 0) {
						t.Errorf("%v.Compare(%v): got %d", x, y, got)
					}
				}
			}
		}
	}
	// Keys of different types have nothing in common, whatever their numbers.
	for _, x := range ivs("0.0.0.0/0", "::/0", "0-65535") {
		for _, y := range ivs("0.0.0.0/0", "::/0", "0-65535") {
			if same := x.From.Type() == y.From.Type(); x.Overlaps(y) != same || x.Covers(y) != same || x.Contains(y.From) != same {
				t.Errorf("%v and %v: overlap %v, cover %v", x, y, x.Overlaps(y), x.Covers(y))
			}
		}
	}
}

func TestIntervalString(t *testing.T) {
	for _, tt := range []struct {
		iv   Interval
		want string
	}{
		{Single(addr("192.0.2.1")).Interval, "192.0.2.1"},
		{Interval{addr("192.0.2.0"), addr("192.0.2.255")}, "192.0.2.0/24"},
		{Interval{addr("192.0.2.1"), addr("192.0.2.2")}, "192.0.2.1-192.0.2.2"},
		{Interval{addr("192.0.2.2"), addr("192.0.2.3")}, "192.0.2.2/31"},
		{Interval{addr("0.0.0.0"), addr("255.255.255.255")}, "0.0.0.0/0"},
		{Interval{addr("0.0.0.1"), addr("255.255.255.255")}, "0.0.0.1-255.255.255.255"},
		{Interval{addr("::"), IPv6Addr.Max()}, "::/0"},
		{Interval{addr("2001:db8::"), addr("2001:db8::ffff")}, "2001:db8::/112"},
		{Interval{addr("2001:db8::1"), addr("2001:db8::ffff")}, "2001:db8::1-2001:db8::ffff"},
		{Ports(22, 22).Interval, "22"},
		{iv("192.0.2.1 . 23"), "192.0.2.1 . 23"},
		{iv("2001:db8::1 . 23"), "2001:db8::1 . 23"},
		{iv("tcp"), "tcp"},
		{Ports(0, 65535).Interval, "0-65535"},
		{Ports(5900, 5910).Interval, "5900-5910"},
		// What must not be is printed all the same: errors name it.
		{Interval{addr("192.0.2.9"), addr("192.0.2.1")}, "192.0.2.9-192.0.2.1"},
		{Interval{addr("192.0.2.8"), addr("192.0.2.0")}, "192.0.2.8-192.0.2.0"},
		{Interval{addr("::9"), addr("::1")}, "::9-::1"},
		{Interval{addr("::"), addr("192.0.2.1")}, "::-192.0.2.1"},
		{Interval{addr("192.0.2.1"), addr("::")}, "192.0.2.1-::"},
		{Ports(9, 1).Interval, "9-1"},
	} {
		if got := tt.iv.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// randomInterval returns an interval with ends as randomKey makes them, or a
// short one.
func randomInterval(r *rand.Rand, t KeyType) Interval {
	x := Interval{randomKey(r, t), randomKey(r, t)}
	if x.To.Compare(x.From) < 0 {
		x.From, x.To = x.To, x.From
	}
	if r.IntN(2) == 0 {
		x.To = x.From.setLow(r.IntN(8))
	}
	return x
}

// TestPrefix tries every length.
func TestPrefix(t *testing.T) {
	r := random(t)
	found := 0
	for range 20000 {
		x := randomInterval(r, keyTypes[r.IntN(2)])
		var want netip.Prefix
		a := x.From.Addr()
		for n := 0; n <= a.BitLen(); n++ {
			p := netip.PrefixFrom(a, n)
			if p.Masked().Addr() == a && lastOf(p) == x.To.Addr() {
				want = p
				found++
			}
		}
		if got, ok := x.Prefix(); got != want || ok != want.IsValid() {
			t.Fatalf("prefix of %v to %v: got %v %v, want %v", x.From, x.To, got, ok, want)
		}
	}
	if found == 0 {
		t.Error("none of the intervals was a prefix")
	}
	for _, x := range []Interval{iv("80-81"), iv("22"), {iv("22").From, addr("::")}, {addr("192.0.2.9"), addr("192.0.2.1")}} {
		if got, ok := x.Prefix(); ok {
			t.Errorf("prefix of %v: got %v, want none", x, got)
		}
	}
}

// lastOf returns the highest address of a prefix, byte by byte.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// cut is what Prefixes should be: it descends from a prefix into its halves
// until they lie in the interval.
func cut(p netip.Prefix, from, to netip.Addr) []netip.Prefix {
	first, last := p.Addr(), lastOf(p)
	switch {
	case last.Less(from) || to.Less(first):
		return nil
	case !first.Less(from) && !to.Less(last):
		return []netip.Prefix{p}
	}
	b := first.AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	middle, _ := netip.AddrFromSlice(b)
	return append(cut(netip.PrefixFrom(first, p.Bits()+1), from, to), cut(netip.PrefixFrom(middle, p.Bits()+1), from, to)...)
}

func TestPrefixes(t *testing.T) {
	r := random(t)
	for range 5000 {
		typ := keyTypes[r.IntN(2)]
		x := randomInterval(r, typ)
		all, _ := Interval{Key{typ: typ}, typ.Max()}.Prefix()
		want := cut(all, x.From.Addr(), x.To.Addr())
		if got := x.Prefixes(); !slices.Equal(got, want) {
			t.Fatalf("prefixes of %v to %v: got %v, want %v", x.From, x.To, got, want)
		}
	}
	for _, tt := range []struct {
		iv   Interval
		want string
	}{
		{iv("192.0.2.1-192.0.2.6"), "[192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32]"},
		{iv("0.0.0.0/0"), "[0.0.0.0/0]"},
		{iv("255.255.255.255"), "[255.255.255.255/32]"},
		{iv("254.0.0.0-255.255.255.255"), "[254.0.0.0/7]"},
		{iv("::/0"), "[::/0]"},
		{iv("::1-::2"), "[::1/128 ::2/128]"},
		{iv("80-90"), "[]"},
		{Interval{addr("192.0.2.9"), addr("192.0.2.1")}, "[]"},
	} {
		if got := fmt.Sprint(tt.iv.Prefixes()); got != tt.want {
			t.Errorf("prefixes of %v: got %s, want %s", tt.iv, got, tt.want)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want []Interval
	}{
		{"nothing", nil, nil},
		{"one", ivs("22"), ivs("22")},
		{"sorted", ivs("80", "22"), ivs("22", "80")},
		{"the same", ivs("22", "22", "22"), ivs("22")},
		{"adjacent", ivs("10.0.0.0/9", "10.128.0.0/9"), ivs("10.0.0.0/8")},
		{"a gap of one", ivs("10.0.0.0-10.0.0.4", "10.0.0.6"), ivs("10.0.0.0-10.0.0.4", "10.0.0.6")},
		{"inside", ivs("10.0.0.0/8", "10.2.3.0/24"), ivs("10.0.0.0/8")},
		{"inside, then behind", ivs("10.0.0.0/8", "10.2.3.0/24", "11.0.0.0/8"), ivs("10.0.0.0/7")},
		{"same start", ivs("10.0.0.0/24", "10.0.0.0/8"), ivs("10.0.0.0/8")},
		{"same end", ivs("10.0.0.255", "10.0.0.0/24"), ivs("10.0.0.0/24")},
		{"overlapping", ivs("1-5", "4-9"), ivs("1-9")},
		{"top", ivs("255.255.255.255", "255.255.255.254"), ivs("255.255.255.254/31")},
		{"top, twice", ivs("224.0.0.0/3", "255.255.255.255", "240.0.0.0/4"), ivs("224.0.0.0/3")},
		{"everything", ivs("0.0.0.0/0", "192.0.2.1"), ivs("0.0.0.0/0")},
		{"everything, in halves", ivs("::/1", "8000::/1"), ivs("::/0")},
		{"port 65535", ivs("65535", "65534", "0"), ivs("0", "65534-65535")},
		{"types", ivs("22", "::1", "10.0.0.1", "::2", "10.0.0.2"), ivs("10.0.0.1-10.0.0.2", "::1-::2", "22")},
		{"types, at their ends", ivs("255.255.255.255", "::", "0-65535", "ffff::/16"),
			ivs("255.255.255.255", "::", "ffff::/16", "0-65535")},
	} {
		before := slices.Clone(tt.in)
		if got := Merge(tt.in); !slices.Equal(got, tt.want) {
			t.Errorf("%s: merged %v: got %v, want %v", tt.name, tt.in, got, tt.want)
		}
		if !slices.Equal(tt.in, before) {
			t.Errorf("%s: the argument was %v and is %v", tt.name, before, tt.in)
		}
	}
}

// checkMerged says what is wrong with the result of a merge: its form, and
// which keys it holds at the ends of all intervals and beside them, which is
// where membership can change.
func checkMerged(in, out []Interval) error {
	if (len(in) == 0) != (len(out) == 0) {
		return fmt.Errorf("%d intervals became %d", len(in), len(out))
	}
	for i, x := range out {
		if x.To.Compare(x.From) < 0 || x.From.Type() != x.To.Type() {
			return fmt.Errorf("%v to %v is no interval", x.From, x.To)
		}
		if i == 0 {
			continue
		}
		last := out[i-1]
		if last.From.Compare(x.From) >= 0 {
			return fmt.Errorf("%v stands before %v", last, x)
		}
		if next, ok := last.To.Next(); x.From.Type() == last.To.Type() && (!ok || x.From.Compare(next) <= 0) {
			return fmt.Errorf("%v and %v could be one", last, x)
		}
	}
	within := func(list []Interval, k Key) bool {
		return slices.ContainsFunc(list, func(x Interval) bool { return x.Contains(k) })
	}
	for _, x := range slices.Concat(in, out) {
		around := []Key{x.From, x.To}
		if x.From != (Key{typ: x.From.typ}) {
			around = append(around, x.From.prev())
		}
		if next, ok := x.To.Next(); ok {
			around = append(around, next)
		}
		for _, k := range around {
			if got, want := within(out, k), within(in, k); got != want {
				return fmt.Errorf("%v is in: %v, want %v", k, got, want)
			}
			if found, ok := Find(out, k); ok != within(out, k) || ok && !found.Contains(k) {
				return fmt.Errorf("Find(%v): %v %v", k, found, ok)
			}
		}
	}
	if again := Merge(out); !slices.Equal(again, out) {
		return fmt.Errorf("merged once more: %v", again)
	}
	return nil
}

// TestMergePorts compares with an array that has a place for each port.
func TestMergePorts(t *testing.T) {
	r := random(t)
	for range 3000 {
		var model [64]bool
		var in []Interval
		for range r.IntN(12) {
			from := r.IntN(len(model))
			to := min(from+r.IntN(9), len(model)-1)
			for port := from; port <= to; port++ {
				model[port] = true
			}
			in = append(in, Ports(uint16(from), uint16(to)).Interval)
		}
		var want []Interval
		for port, is := range model {
			if !is {
				continue
			}
			if n := len(want) - 1; n >= 0 && int(want[n].To.Port()) == port-1 {
				want[n].To = PortKey(uint16(port))
			} else {
				want = append(want, Ports(uint16(port), uint16(port)).Interval)
			}
		}
		before := slices.Clone(in)
		if got := Merge(in); !slices.Equal(got, want) {
			t.Fatalf("merged %v: got %v, want %v", in, got, want)
		}
		if !slices.Equal(in, before) {
			t.Fatalf("the argument was %v and is %v", before, in)
		}
		for port, is := range model {
			k := PortKey(uint16(port))
			if found, ok := Find(want, k); ok != is || ok && !found.Contains(k) {
				t.Fatalf("port %d in %v: got %v %v, want %v", port, want, found, ok, is)
			}
		}
	}
}

// TestMergeMixed has all types in one list, at both ends of their spaces.
func TestMergeMixed(t *testing.T) {
	r := random(t)
	for range 2000 {
		var in []Interval
		for range r.IntN(20) {
			x := randomInterval(r, keyTypes[r.IntN(len(keyTypes))])
			in = append(in, x)
			if next, ok := x.To.Next(); ok && r.IntN(4) == 0 {
				in = append(in, Interval{next, next.setLow(r.IntN(4))})
			}
		}
		if err := checkMerged(in, Merge(in)); err != nil {
			t.Fatalf("merged %v: %v", in, err)
		}
	}
}

func TestFind(t *testing.T) {
	merged := ivs("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "22", "80-90")
	for _, tt := range []struct {
		k    Key
		want int // index, -1 for none
	}{
		{addr("9.255.255.255"), -1},
		{addr("10.0.0.0"), 0},
		{addr("10.255.255.255"), 0},
		{addr("11.0.0.0"), -1},
		{addr("192.0.2.7"), 1},
		{addr("255.255.255.255"), -1},
		{addr("::"), -1},
		{addr("2001:db8::1"), 2},
		{PortKey(21), -1},
		{PortKey(22), 3},
		{PortKey(80), 4},
		{PortKey(90), 4},
		{PortKey(91), -1},
	} {
		got, ok := Find(merged, tt.k)
		if ok != (tt.want >= 0) || ok && got != merged[tt.want] {
			t.Errorf("Find(%v): got %v %v", tt.k, got, ok)
		}
	}
	if got, ok := Find(nil, PortKey(22)); ok {
		t.Errorf("found %v in nothing", got)
	}
}
