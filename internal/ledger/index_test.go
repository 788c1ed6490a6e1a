package ledger

import (
	"encoding/binary"
	"testing"
)

// Whatever is put in and taken out, the index finds what a map finds. The table is small and as full as it may be, so that runs of
// taken slots are long, and go on from its end at its beginning.
func TestIndexAgainstMap(t *testing.T) {
	rng := random(t)
	numbered := func(n int) (k key) {
		binary.BigEndian.PutUint32(k.addr[:], uint32(n))
		return k
	}
	for range 50 { // seeds
		var s slab
		x := newIndex(&s)
		want := make(map[key]uint32)
		for range 1000 {
			k := numbered(rng.IntN(100))
			switch id, ok := want[k]; {
			case ok:
				x.remove(k)
				s.release(id)
				delete(want, k)
			case len(want) < minSlots/2:
				id = s.alloc()
				s.at(id).key = k
				x.insert(id)
				want[k] = id
			}
			for n := range 100 {
				k := numbered(n)
				got, ok := x.find(k)
				if id, is := want[k]; ok != is || got != id {
					t.Fatalf("key %d is record %d, found %d", n, id, got)
				}
			}
		}
		if x.n != len(want) || len(x.slots) != minSlots {
			t.Fatalf("%d of %d keys in %d slots", x.n, len(want), len(x.slots))
		}
	}
}

func BenchmarkIndexGrow524288(b *testing.B) {
	l := New(usual)
	for i := range 1 << 19 {
		offend(l, source(i), 0)
	}
	slots := l.index.slots
	for b.Loop() {
		l.index.grow()
		l.index.slots = slots
	}
}
