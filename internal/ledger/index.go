package ledger

import "hash/maphash"

// index finds records by their keys. It is a table with open addressing: a record is at the first free slot from the one that its hash
// tells. The keys are in the records alone, so that this takes 8 to 16 bytes for each, where a map of Go takes 30 to 60.
type index struct {
	slab  *slab
	slots []uint32 // numbers of records, 0 where there is none; a power of 2 of them, of which at most half are taken
	n     int
	seed  maphash.Seed // secret: whoever can send from any address must not choose what collides
}

const minSlots = 64

func newIndex(s *slab) index {
	return index{slab: s, slots: make([]uint32, minSlots), seed: maphash.MakeSeed()}
}

// home returns the slot that the hash of a key tells.
func (x *index) home(k key) int { return x.wrap(int(maphash.Comparable(x.seed, k))) }

func (x *index) wrap(slot int) int { return slot & (len(x.slots) - 1) }

// slot returns where a key is, or the free slot in which it is to be.
func (x *index) slot(k key) int {
	i := x.home(k)
	for x.slots[i] != 0 && x.slab.at(x.slots[i]).key != k {
		i = x.wrap(i + 1)
	}
	return i
}

func (x *index) find(k key) (id uint32, ok bool) {
	id = x.slots[x.slot(k)]
	return id, id != 0
}

// insert adds a record, whose key must be set, and not be in the index.
func (x *index) insert(id uint32) {
	if 2*(x.n+1) > len(x.slots) {
		x.grow()
	}
	x.slots[x.slot(x.slab.at(id).key)] = id
	x.n++
}

func (x *index) grow() {
	old := x.slots
	x.slots = make([]uint32, 2*len(old))
	for _, id := range old {
		if id != 0 {
			x.slots[x.slot(x.slab.at(id).key)] = id
		}
	}
}

// remove takes out a key, which must be in the index. Those behind it that would not be found across the gap move into it.
func (x *index) remove(k key) {
	gap := x.slot(k)
	for i := x.wrap(gap + 1); x.slots[i] != 0; i = x.wrap(i + 1) {
		home := x.home(x.slab.at(x.slots[i]).key)
		if x.wrap(i-home) >= x.wrap(i-gap) { // it is sought from the gap or from before it
			x.slots[gap], gap = x.slots[i], i
		}
	}
	x.slots[gap] = 0
	x.n--
}
