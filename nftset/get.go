package nftset

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Get returns the element of a set that holds k, which in an interval set is
// the interval around it. If there is none the error is os.ErrNotExist. It is
// sure, unlike a dump, and takes some 10 µs whatever the size of the set. Only
// for an interval that reaches the top of the key space, and for the first key
// of one that touches the one before (with kernels before the 6.18 series, of
// any), an interval set is read as a whole.
func (c *Conn) Get(s *Set, k Key) (Element, error) {
	iv := Single(k).Interval
	fail := func(err error) (Element, error) {
		return Element{}, &OpError{Op: "get element", Object: s.String(), Element: &iv, Err: err}
	}
	if err := s.refuses(k); err != nil {
		return fail(err)
	}
	el, sure, err := c.lookup(s, k)
	switch {
	case err != nil:
		return fail(err)
	case sure:
		return el, nil
	}
	// Reading the set is slow and sure.
	err = unix.ENOENT
	for each, fault := range c.Elements(s) {
		if fault != nil {
			return fail(fault)
		}
		if each.Contains(k) {
			el, err = each, nil
		}
	}
	if err != nil {
		return fail(err)
	}
	return el, nil
}

// refuses returns why the set cannot hold a key, nil if it can.
func (s *Set) refuses(k Key) error {
	if err := s.fault(); err != nil {
		return err
	}
	if k.typ != s.Type {
		return fmt.Errorf("a %v does not fit a set of %v", k.typ, s.Type)
	}
	return nil
}

// lookup asks for the element that holds k. It is not sure if only reading the
// set gives the end of the interval.
func (c *Conn) lookup(s *Set, k Key) (el Element, sure bool, err error) {
	const attempts = 10
	for range attempts {
		start, generation, err := c.getEntry(s, k, false)
		if err != nil || s.Flags&FlagInterval == 0 {
			return start.el, true, err
		}
		// The kernel (seen on 6.18) does not answer at all when it is asked for
		// the end of an interval that reaches the top of the key space, and may
		// answer with the entry next to the right one where two intervals
		// touch. What is above k is right.
		end, _, err := c.getEntry(s, k, true)
		if err != nil || !end.end || end.el.From.Compare(k) <= 0 {
			break
		}
		// Between the two the interval may have been replaced by another. The
		// generation alone is not enough: for a moment the set is still the old
		// one when the generation is the new one already. But there is one such
		// moment to a generation.
		again, later, err := c.getEntry(s, k, false)
		if err == nil && again.el.From == start.el.From && later == generation {
			again.el.To = end.el.From.prev()
			return again.el, true, nil
		}
	}
	return el, false, nil
}

// getEntry asks for one entry of the kernel's list: in an interval set the
// start at or below k, or the end at or above it. It comes with the generation
// of the ruleset, as in message.generation.
func (c *Conn) getEntry(s *Set, k Key, end bool) (found listed, generation uint16, err error) {
	var e encoder
	e.ask(s, k, end)
	have := false
	err = c.get(unix.NFT_MSG_GETSETELEM, s.Table.Family, e.b, func(m nfnl.Message) error {
		generation = m.Resource()
		_, err := elementList(s.Type, m.Attrs(), func(l listed) bool {
			found, have = l, true
			return false
		})
		return err
	})
	if err == nil && !have {
		err = unix.ENOENT
	}
	return found, generation, err
}

// ask appends the attributes that ask for one entry of a set.
func (e *encoder) ask(s *Set, k Key, end bool) {
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	list := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	el := e.nest(unix.NFTA_LIST_ELEM)
	e.key(k)
	if end {
		e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	e.unnest(el)
	e.unnest(list)
}

// Generation returns the number of the ruleset's state, which every transaction
// of anybody in this network namespace changes.
func (c *Conn) Generation() (uint32, error) {
	generation, err := c.generation()
	if err != nil {
		return 0, &OpError{Op: "read generation", Err: err}
	}
	return generation, nil
}

func (c *Conn) generation() (generation uint32, err error) {
	err = c.get(unix.NFT_MSG_GETGEN, FamilyINet, nil, func(m nfnl.Message) error {
		attrs, err := nfnl.Parse(m.Attrs())
		generation = attrs[unix.NFTA_GEN_ID].Uint32()
		return err
	})
	return generation, err
}

// get asks for a single object and calls f with the answer. The kernel has
// answered by the time the request is sent.
func (c *Conn) get(typ uint16, family Family, attrs []byte, f func(nfnl.Message) error) error {
	seq, err := c.request(typ, 0, family, attrs)
	if err != nil {
		return err
	}
	b, err := c.wire.Receive(false)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	var fault error
	if _, err := answers(b, seq, func(m nfnl.Message) { fault = f(m) }); err != nil {
		return err
	}
	return fault
}
