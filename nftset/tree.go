package nftset

import "slices"

// intervals reads an interval set: to its end first, because half an interval
// would be a wrong one.
//
// A dump is as good as a snapshot if the ruleset's generation stayed the same
// and the entries fit together. (The generation alone is not enough: a
// transaction that is not yet committed already adds entries, and the kernel
// goes on by counting them.) Edits of other sets change the generation too, so
// a second dump that equals the first will do as well.
func (c *Conn) intervals(s *Set, yield func(Element) error) error {
	const attempts = 10
	var now, before pairing
	for i := range attempts {
		now, before = pairing{elems: before.elems[:0], sound: true}, now
		steady, err := c.dumpElements(s, func(l listed) error {
			now.add(l)
			return nil
		})
		if err != nil {
			return err
		}
		if !(steady && now.sound) && (i == 0 || !slices.EqualFunc(now.elems, before.elems, sameInterval)) {
			continue
		}
		for _, el := range slices.Backward(now.elems) {
			if err := yield(el); err != nil {
				return err
			}
		}
		return nil
	}
	return ErrChanged
}

func sameInterval(a, b Element) bool { return a.Interval == b.Interval }

// pairing makes intervals of the starts and ends that the kernel sends, from the
// highest key to the lowest. Where one interval ends and the next begins, the
// start comes first.
type pairing struct {
	elems []Element // from the highest to the lowest
	begun bool
	key   Key  // of the last entry
	end   bool // whether that is an end
	sound bool // no entry came again, and each start but the highest had an end
}

// add takes the next entry. One that comes again is ignored, as is an end whose
// start has expired. A start without an end extends to the next start, or to
// the highest key.
func (p *pairing) add(l listed) {
	el := l.el
	if p.begun {
		if d := el.From.Compare(p.key); d > 0 || d == 0 && (p.end || !l.end) {
			p.sound = false
			return
		}
		el.To = p.key.prev()
	} else {
		el.To = el.From.typ.Max()
	}
	if !l.end {
		p.sound = p.sound && (!p.begun || p.end)
		if len(p.elems) == cap(p.elems) { // by itself append would grow it by a quarter, and copy it as often
			p.elems = slices.Grow(p.elems, max(1024, len(p.elems)))
		}
		p.elems = append(p.elems, el)
	}
	p.begun, p.key, p.end = true, l.el.From, l.end
}
