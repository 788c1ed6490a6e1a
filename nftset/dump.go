package nftset

import (
	"errors"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// errLeft ends the reading of a dump when the caller leaves the loop.
var errLeft = errors.New("the loop was left")

// Elements reads a set. Elements come in no particular order, except those of
// interval sets, which come sorted; each comes once. The sequence ends after
// the first error, an *OpError, which is os.ErrNotExist if there is no such
// set.
//
// A set without intervals streams. If it changes meanwhile, elements that were
// there all the time may be missing, though few: the set is read again for them
// if there are signs of that. A set with intervals is read to its end first,
// and anew if it changed meanwhile, because half an interval would be a wrong
// one; if it changes faster than it can be read the error is ErrChanged.
//
// Inside of the loop the connection is not free: other methods return an error.
func (c *Conn) Elements(s *Set) iter.Seq2[Element, error] {
	read := func(s *Set, yield func(Element) error) error {
		return c.singles(s, func(l listed) error { return yield(l.el) })
	}
	if s.Flags&FlagInterval != 0 {
		read = c.intervals
	}
	return func(yield func(Element, error) bool) {
		err := read(s, func(el Element) error {
			if !yield(el, nil) {
				return errLeft
			}
			return nil
		})
		if err != nil && !errors.Is(err, errLeft) {
			yield(Element{}, &OpError{Op: "read set", Object: s.String(), Err: err})
		}
	}
}

// singles reads a set without intervals.
//
// The kernel starts each datagram by counting off the elements that it has
// sent. If its hash table has changed meanwhile, by edits or by growing and
// shrinking (which it does in the background, for a while after the last edit),
// those it counts are not those it has sent: it sends some twice, and others
// not at all. Another pass finds these.
func (c *Conn) singles(s *Set, yield func(listed) error) error {
	const passes = 4
	var seen keySet
	for range passes {
		known, sent := seen.len(), 0
		steady, err := c.dumpElements(s, func(l listed) error {
			if l.end {
				return errIntervals
			}
			sent++
			if !seen.add(l.el.From) {
				return nil
			}
			return yield(l)
		})
		if err != nil {
			return err
		}
		if found := seen.len() > known; !found || steady && sent == seen.len() {
			break
		}
	}
	return nil
}

// dumpElements calls f for each entry of a set until f returns an error. steady
// is false if the ruleset changed on the way.
func (c *Conn) dumpElements(s *Set, f func(listed) error) (steady bool, err error) {
	if err := s.fault(); err != nil {
		return false, err
	}
	// A transaction changes the generation first and removes elements then. So
	// the generation is read, and what has led to it waited for, before the
	// dump begins: an empty transaction, which changes nothing, queues behind
	// those that others have under way.
	before, err := c.generation()
	if err != nil {
		return false, err
	}
	err = c.wire.Send(batchFrame(unix.NFNL_MSG_BATCH_BEGIN, 0), batchFrame(unix.NFNL_MSG_BATCH_END, 0))
	if err != nil {
		return false, err
	}
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	err = c.dump(unix.NFT_MSG_GETSETELEM, s.Table.Family, e.b, func(m nfnl.Message) error {
		return elementList(s.Type, m.Attrs(), f)
	})
	if err != nil {
		return false, err
	}
	after, err := c.generation()
	return before == after, err
}

// Dump reads objects for which this package has no type: tables, chains, rules,
// counters. typ is one of unix.NFT_MSG_GET*, attrs are the encoded attributes
// that narrow the request; the kernel may ignore them and send more. Each value
// is the attributes of one object. Errors are plain errnos; absence is often
// just an empty sequence. As with [Conn.Elements], the connection is not free
// inside of the loop.
func (c *Conn) Dump(typ uint16, family Family, attrs []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		err := c.dump(typ, family, attrs, func(m nfnl.Message) error {
			if !yield(slices.Clone(m.Attrs()), nil) {
				return errLeft
			}
			return nil
		})
		if err != nil && !errors.Is(err, errLeft) {
			yield(nil, err)
		}
	}
}

// keySet remembers the keys of a set, to hide what a dump repeats. Short keys
// have a map of their own, with a fifth of the memory.
type keySet struct {
	short map[uint32]struct{}
	long  map[Key]struct{}
}

func (s *keySet) len() int { return len(s.short) + len(s.long) }

// add reports whether k is new.
func (s *keySet) add(k Key) bool {
	if s.short == nil {
		s.short, s.long = make(map[uint32]struct{}), make(map[Key]struct{})
	}
	n := s.len()
	if k.typ.Len() <= 4 {
		s.short[uint32(k.lo)] = struct{}{}
	} else {
		s.long[k] = struct{}{}
	}
	return s.len() > n
}
