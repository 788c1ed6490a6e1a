package watch

import "time"

// terms are what many bans have in common.
type terms struct {
	timeout time.Duration // 0 means for ever
	comment string
	byHand  bool // neither the packet path nor the watcher made it
}

// termsTable gives numbers to terms, and forgets those that no ban has any more.
type termsTable struct {
	numbers map[terms]uint32
	used    []termsInUse
	free    []uint32 // numbers that stand for none
}

type termsInUse struct {
	terms
	bans int // that have them
}

// use returns the number of terms that one more ban has.
func (t *termsTable) use(of terms) uint32 {
	n, ok := t.numbers[of]
	if !ok {
		n = t.add(of)
	}
	t.used[n].bans++
	return n
}

func (t *termsTable) add(of terms) (n uint32) {
	if last := len(t.free) - 1; last >= 0 {
		n, t.free = t.free[last], t.free[:last]
	} else {
		n = uint32(len(t.used))
		t.used = append(t.used, termsInUse{})
	}
	if t.numbers == nil {
		t.numbers = make(map[terms]uint32)
	}
	t.numbers[of], t.used[n].terms = n, of
	return n
}

func (t *termsTable) at(n uint32) terms { return t.used[n].terms }

// release tells that there is one ban less with terms.
func (t *termsTable) release(n uint32) {
	u := &t.used[n]
	if u.bans--; u.bans == 0 {
		delete(t.numbers, u.terms)
		*u = termsInUse{}
		t.free = append(t.free, n)
	}
}
