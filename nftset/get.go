package nftset

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// pipeline is how many keys GetMany asks for at once. The answers wait in the
// receive buffer: with the longest names and comments they take 2.3 KB each, as
// Linux 6.18 counts, and 208 KiB hold them, the usual net.core.rmem_default.
// Where that is less, fewer are asked for.
const pipeline = 64

// Get returns the element of a set that holds k, which in an interval set is
// the interval around it. If there is none the error is os.ErrNotExist. It is
// sure, unlike a dump, and takes some 10 µs whatever the size of the set. Only
// for an interval that reaches the top of the key space, and for the first key
// of one that touches the one before (with kernels before the 6.18 series, of
// any), an interval set is read as a whole.
func (c *Conn) Get(s *Set, k Key) (Element, error) {
	el, ok, err := c.lookup(s, k)
	if err == nil && !ok {
		err = unix.ENOENT
	}
	if err != nil {
		return Element{}, &OpError{Op: "get element", Object: s.String(), Element: &Interval{k, k}, Err: err}
	}
	return el, nil
}

func (c *Conn) lookup(s *Set, k Key) (el Element, ok bool, err error) {
	if err := s.refuses(k); err != nil {
		return el, false, err
	}
	if s.Flags&FlagInterval == 0 {
		q := [...]question{{key: k}}
		err := c.entries(s, q[:])
		return q[0].el, q[0].found, err
	}
	// The start at or below k and the end at or above it. Between the two, the
	// interval may have been replaced by another, so the start is asked for
	// again. The generation alone is not enough: for a moment the set is still
	// the old one when the generation is the new one already. But there is one
	// such moment to a generation.
	q := [...]question{{key: k}, {key: k, ofEnd: true}, {key: k}}
	if err := c.entries(s, q[:]); err != nil || !q[0].found {
		return el, false, err
	}
	el = q[2].el
	// The kernel (seen on 6.18) does not answer at all when it is asked for the
	// end of an interval that reaches the top of the key space, and may answer
	// with the entry next to the right one where two intervals touch. What is
	// above k is right.
	end, same := q[1].listed, q[2].found && el.From == q[0].el.From && q[2].generation == q[0].generation
	if same && end.end && end.el.From.Compare(k) > 0 {
		el.To = end.el.From.prev()
		return el, true, nil
	}
	for el, err := range c.Elements(s) { // slow and sure
		if err != nil || el.Contains(k) {
			return el, err == nil, err
		}
	}
	return Element{}, false, nil
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

// question asks for one entry of the kernel's list, and holds the answer.
type question struct {
	key   Key
	ofEnd bool // in an interval set: the end at or above the key, not the start at or below it

	answered, found bool
	listed
	generation uint16 // the low bits of the ruleset's
}

// entries asks all questions at once, or in parts if the receive buffer does not
// hold so many answers.
func (c *Conn) entries(s *Set, questions []question) error {
	err := c.entriesAtOnce(s, questions)
	if half := len(questions) / 2; half > 0 && errors.Is(err, unix.ENOBUFS) {
		if err = c.entries(s, questions[:half]); err == nil {
			err = c.entries(s, questions[half:])
		}
	}
	return err
}

func (c *Conn) entriesAtOnce(s *Set, questions []question) error {
	err := c.ask(unix.NFT_MSG_GETSETELEM, s.Table.Family, len(questions), func(e *encoder, i int) {
		questions[i] = question{key: questions[i].key, ofEnd: questions[i].ofEnd} // without an answer
		e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
		e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		list := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		el := e.nest(unix.NFTA_LIST_ELEM)
		e.key(questions[i].key)
		if questions[i].ofEnd {
			e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		e.unnest(el)
		e.unnest(list)
	}, func(i int, m nfnl.Message, err error) error {
		q := &questions[i]
		q.answered = true
		switch err {
		case nil:
		case unix.ENOENT:
			return nil
		default:
			return err
		}
		q.generation = m.Resource()
		return elementList(s.Type, m.Attrs(), func(l listed) error {
			q.listed, q.found = l, true
			return nil
		})
	})
	if err == nil && slices.ContainsFunc(questions, func(q question) bool { return !q.answered && !q.ofEnd }) {
		return errNoAnswer
	}
	return err
}

// GetMany asks a set for many keys and yields the elements that there are, in
// the order of the keys; absent ones are left out. Each answer is as sure as
// that of [Conn.Get]. It takes 1.5 to 2.5 µs for each key, so a large set whose
// keys are known is read much faster than by [Conn.Elements], the time of which
// grows with the square of the size. In a set of intervals each key takes what
// it takes Get.
//
// The sequence ends after the first error, an *OpError, which is os.ErrNotExist
// if there is no such set; that is found out at the end. Up to 64 keys are taken
// before their elements come. Inside of the loop the connection is free.
func (c *Conn) GetMany(s *Set, keys iter.Seq[Key]) iter.Seq2[Element, error] {
	return func(yield func(Element, error) bool) {
		absent := false
		batch := make([]question, 0, pipeline)
		flush := func() bool {
			if err := c.answer(s, batch); err != nil {
				yield(Element{}, err)
				return false
			}
			for i := range batch {
				if q := &batch[i]; !q.found {
					absent = true
				} else if !yield(q.el, nil) {
					return false
				}
			}
			batch = batch[:0]
			return true
		}
		for k := range keys {
			if s.refuses(k) != nil {
				if flush() {
					yield(c.Get(s, k)) // the error, and no question
				}
				return
			}
			if batch = append(batch, question{key: k}); len(batch) == pipeline && !flush() {
				return
			}
		}
		if !flush() || !absent {
			return
		}
		// The kernel gives the same answer for an absent key and an absent set.
		if _, err := c.Set(s.Table, s.Name); err != nil {
			yield(Element{}, err)
		}
	}
}

// answer finds the elements that hold the keys of a batch.
func (c *Conn) answer(s *Set, batch []question) error {
	if len(batch) == 0 {
		return nil
	}
	if s.Flags&FlagInterval == 0 {
		if err := c.entries(s, batch); err != nil {
			return &OpError{Op: "get elements of set", Object: s.String(), Err: err}
		}
		return nil
	}
	for i := range batch {
		el, err := c.Get(s, batch[i].key)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		batch[i].el, batch[i].found = el, err == nil
	}
	return nil
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
	err = c.get(unix.NFT_MSG_GETGEN, FamilyINet, func(*encoder) {}, func(m nfnl.Message) error {
		attrs, err := nfnl.Parse(m.Attrs())
		generation = attrs[unix.NFTA_GEN_ID].Uint32()
		return err
	})
	return generation, err
}
