package nftset

import "math/bits"

// keySet remembers keys of one type, to hide what a dump repeats. A million IPv4
// addresses take 8 to 16 MB, nothing is allocated per key. It is an open hash
// table with linear probing; a map would do, with twice the memory and half the
// speed, and does where keys are too long for a slot: addresses with ports.
type keySet struct {
	wide  bool             // keys of 16 bytes
	small []uint32         // keys of up to 4 bytes; 0 is an empty slot
	large [][2]uint64      // IPv6; {0, 0} is an empty slot
	zero  bool             // the key that looks like an empty slot is in
	pairs map[Key]struct{} // keys of two parts
	n     int
}

// add puts k in and reports whether it is new.
func (s *keySet) add(k Key) bool {
	if k.typ.isPair() {
		return s.addPair(k)
	}
	if k.hi == 0 && k.lo == 0 {
		was := s.zero
		s.zero = true
		return !was
	}
	s.wide = k.typ == IPv6Addr
	if slots := max(len(s.small), len(s.large)); 4*(s.n+1) > 3*slots {
		s.grow(max(1024, 2*slots))
	}
	if !s.insert(k.hi, k.lo) {
		return false
	}
	s.n++
	return true
}

func (s *keySet) addPair(k Key) bool {
	if s.pairs == nil {
		s.pairs = make(map[Key]struct{})
	}
	n := len(s.pairs)
	s.pairs[k] = struct{}{}
	return len(s.pairs) > n
}

func (s *keySet) insert(hi, lo uint64) bool {
	if s.wide {
		mask := uint64(len(s.large) - 1)
		for i := hash(hi, lo) & mask; ; i = (i + 1) & mask {
			switch s.large[i] {
			case [2]uint64{}:
				s.large[i] = [2]uint64{hi, lo}
				return true
			case [2]uint64{hi, lo}:
				return false
			}
		}
	}
	mask := uint64(len(s.small) - 1)
	for i := hash(0, lo) & mask; ; i = (i + 1) & mask {
		switch s.small[i] {
		case 0:
			s.small[i] = uint32(lo)
			return true
		case uint32(lo):
			return false
		}
	}
}

func (s *keySet) grow(slots int) {
	small, large := s.small, s.large
	if s.wide {
		s.large = make([][2]uint64, slots)
	} else {
		s.small = make([]uint32, slots)
	}
	for _, lo := range small {
		if lo != 0 {
			s.insert(0, uint64(lo))
		}
	}
	for _, k := range large {
		if k != [2]uint64{} {
			s.insert(k[0], k[1])
		}
	}
}

// hash mixes by multiplication and folding (as wyhash does). Whoever fills the set with colliding addresses slows down one listing.
func hash(hi, lo uint64) uint64 {
	h, l := bits.Mul64(lo^0x9e3779b97f4a7c15, hi^0xd1b54a32d192ed03)
	h, l = bits.Mul64(h^l^0x8bb84b93962eacc9, 0x2d358dccaa6c78a5)
	return h ^ l
}
