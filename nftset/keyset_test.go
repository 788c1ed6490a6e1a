package nftset

import "testing"

// TestKeySet compares with a map.
func TestKeySet(t *testing.T) {
	r := random(t)
	for _, typ := range allTypes {
		for _, spread := range []int{1, 10, 1000, 1 << 16, 1 << 30} {
			var set keySet
			model := map[Key]bool{}
			for i := range 30000 {
				k := Key{lo: uint64(r.IntN(min(spread, 1<<min(30, 8*typ.Len())))), typ: typ}
				if typ == IPv6Addr && r.IntN(2) == 0 {
					k.hi, k.lo = k.lo, k.hi // one half zero, as often the one as the other
				}
				if typ.isPair() {
					k.lo, k.port = k.lo>>8, uint16(k.lo&0xff)
				}
				if got, want := set.add(k), !model[k]; got != want {
					t.Fatalf("%v among %d: add %v, the %dth: new is %v, want %v", typ, spread, k, i, got, want)
				}
				model[k] = true
			}
		}
	}
}

// TestKeySetZero has the zero key before and after others.
func TestKeySetZero(t *testing.T) {
	for _, typ := range allTypes {
		var set keySet
		for i, tt := range []struct {
			k    Key
			want bool
		}{
			{Key{typ: typ}, true}, {Key{typ: typ}, false}, {typ.Max(), true}, {Key{typ: typ}, false}, {typ.Max(), false},
		} {
			if got := set.add(tt.k); got != tt.want {
				t.Errorf("%v, step %d: add %v: new is %v, want %v", typ, i, tt.k, got, tt.want)
			}
		}
	}
}

// TestKeySetHalves has addresses that differ in one half only, and one that has
// both halves of others.
func TestKeySetHalves(t *testing.T) {
	var set keySet
	for _, k := range []Key{addr("2001:db8::"), addr("2001:db8::1"), addr("::1"), addr("2001:db8:0:1::1"), addr("::2001:db8:0:0")} {
		if !set.add(k) {
			t.Errorf("%v is said to be in", k)
		}
	}
}
