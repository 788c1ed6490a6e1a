package nftset

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"
)

// Elements reads a set. Elements come in no particular order, except those of interval sets, which come sorted; each comes
// once. The sequence ends after the first error, an *OpError, which is os.ErrNotExist if there is no such set.
//
// A set without intervals streams. If it changes meanwhile, elements that were there all the time may be missing. A set with
// intervals is read to its end first, and anew if it changed meanwhile: half an interval would be a wrong one.
//
// Leaving the loop early reads the rest of the dump and throws it away.
func (c *Conn) Elements(s *Set) iter.Seq2[Element, error] {
	if s.Flags&FlagInterval != 0 {
		return c.intervals(s)
	}
	return func(yield func(Element, error) bool) {
		var seen keySet
		stopped := false
		_, err := c.dumpElements(s, func(l listed) bool {
			if seen.add(l.el.From) && !stopped {
				stopped = !yield(l.el, nil)
			}
			return true
		})
		if err != nil && !stopped {
			yield(Element{}, err)
		}
	}
}

// intervals reads an interval set: entries first, which are then sorted and paired.
func (c *Conn) intervals(s *Set) iter.Seq2[Element, error] {
	const attempts = 5
	return func(yield func(Element, error) bool) {
		var entries []listed
		for range attempts {
			entries = entries[:0]
			steady, err := c.dumpElements(s, func(l listed) bool {
				entries = append(entries, l)
				return true
			})
			if err != nil {
				yield(Element{}, err)
				return
			}
			if steady {
				break
			}
		}
		pair(entries, s.Type, func(el Element) bool { return yield(el, nil) })
	}
}

// pair makes intervals of starts and ends, in whatever order the kernel's tree gave them, and yields them sorted. An end whose
// start expired is nobody's; a start without an end reaches to the next start, or to the top.
func pair(entries []listed, t KeyType, yield func(Element) bool) {
	slices.SortFunc(entries, func(a, b listed) int {
		if c := a.el.From.Compare(b.el.From); c != 0 {
			return c
		}
		switch { // where one interval ends and the next begins, the end comes first
		case a.end == b.end:
			return 0
		case a.end:
			return -1
		}
		return 1
	})
	var open *Element
	for i := range entries {
		l := &entries[i]
		if open != nil {
			if l.el.From == open.From {
				continue // repeated by the dump
			}
			open.To = l.el.From.prev()
			if !yield(*open) {
				return
			}
			open = nil
		}
		if !l.end {
			open = &l.el
		}
	}
	if open != nil {
		open.To = t.Max()
		yield(*open)
	}
}

// dumpElements calls f for each entry of a set until f returns false, and reads the dump to its end. steady is false if the
// ruleset changed on the way.
func (c *Conn) dumpElements(s *Set, f func(listed) bool) (steady bool, err error) {
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	generation, first := uint16(0), true
	steady = true
	err = c.dump(unix.NFT_MSG_GETSETELEM, s.Table.Family, e.b, func(m message) error {
		if first {
			generation, first = m.generation(), false
		}
		steady = steady && generation == m.generation()
		_, err := elementList(s.Type, m.attrs(), f)
		return err
	})
	if err != nil {
		return false, &OpError{Op: "read set", Object: s.String(), Err: err}
	}
	return steady, nil
}

// dump asks for a dump and calls f with each of its messages; after an error of f the rest is read all the same.
func (c *Conn) dump(typ uint16, family Family, attrs []byte, f func(message) error) error {
	seq, err := c.request(typ, unix.NLM_F_DUMP, family, attrs)
	if err != nil {
		return err
	}
	var fault error
	for {
		b, err := c.receive(true)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			switch {
			case m.seq != seq:
			case m.typ == unix.NLMSG_DONE:
				return errors.Join(fault, errorOf(m)) // a dump that failed on its way says so at its end
			case m.typ == unix.NLMSG_ERROR:
				return errorOf(m)
			case fault == nil:
				fault = f(m)
			}
		}
	}
}

// request sends one message outside of a batch and returns its sequence number.
func (c *Conn) request(typ, flags uint16, family Family, attrs []byte) (uint32, error) {
	c.drain()
	c.seq++
	var e encoder
	at := e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, c.seq)
	e.b = append(e.b, attrs...)
	e.finish(at)
	if err := c.send(e.b); err != nil {
		return 0, fmt.Errorf("send request: %w", err)
	}
	return c.seq, nil
}
