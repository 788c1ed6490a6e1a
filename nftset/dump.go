package nftset

import (
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

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
// Leaving the loop early reads the rest of the dump and throws it away. Inside
// of the loop the connection is not free: other methods return an error.
func (c *Conn) Elements(s *Set) iter.Seq2[Element, error] {
	if s.Flags&FlagInterval != 0 {
		return c.intervals(s)
	}
	return func(yield func(Element, error) bool) {
		// The kernel starts each datagram by counting off the elements that it
		// has sent. If its hash table has changed meanwhile, by edits or by
		// growing and shrinking (which it does in the background, for a while
		// after the last edit), those it counts are not those it has sent: it
		// sends some twice, and others not at all. Another pass finds these.
		const passes = 4
		var seen keySet
		stopped := false
		for pass, again := 0, true; pass < passes && again && !stopped; pass++ {
			var now keySet // what this pass has seen; in the first it would be the same as seen
			repeated, found := false, false
			steady, err := c.dumpElements(s, func(l listed) bool {
				if stopped {
					return true
				}
				fresh := seen.add(l.el.From)
				if once := fresh && pass == 0 || pass > 0 && now.add(l.el.From); !once {
					repeated = true
				}
				if fresh {
					found = true
					stopped = !yield(l.el, nil)
				}
				return true
			})
			if err != nil && !stopped {
				yield(Element{}, err)
				return
			}
			again = found && (repeated || !steady)
		}
	}
}

// dumpElements calls f for each entry of a set until f returns false, and reads
// the dump to its end. steady is false if the ruleset changed on the way.
func (c *Conn) dumpElements(s *Set, f func(listed) bool) (steady bool, err error) {
	fail := func(err error) (bool, error) {
		return false, &OpError{Op: "read set", Object: s.String(), Err: err}
	}
	if err := s.fault(); err != nil {
		return fail(err)
	}
	// A transaction changes the generation first and removes elements then. So
	// the generation is read, and what has led to it waited for, before the
	// dump begins.
	before, err := c.generation()
	if err != nil {
		return fail(err)
	}
	if err := c.settle(); err != nil {
		return fail(err)
	}
	var e encoder
	e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	ends := false
	err = c.dump(unix.NFT_MSG_GETSETELEM, s.Table.Family, e.b, func(m nfnl.Message) error {
		_, err := elementList(s.Type, m.Attrs(), func(l listed) bool {
			ends = ends || l.end
			return f(l)
		})
		if err == nil && ends && s.Flags&FlagInterval == 0 {
			err = errIntervals
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	after, err := c.generation()
	if err != nil {
		return fail(err)
	}
	return before == after, nil
}

// settle waits for the end of transactions that others have under way. An empty
// one, which changes nothing, queues behind them.
func (c *Conn) settle() error {
	if c.dumped {
		return errDumped
	}
	return c.wire.Send(batchFrame(unix.NFNL_MSG_BATCH_BEGIN, 0), batchFrame(unix.NFNL_MSG_BATCH_END, 0))
}

// dump asks for a dump and calls f with each of its messages; after an error of
// f the rest is read all the same.
func (c *Conn) dump(typ uint16, family Family, attrs []byte, f func(nfnl.Message) error) error {
	seq, err := c.request(typ, unix.NLM_F_DUMP, family, attrs)
	if err != nil {
		return err
	}
	c.dumped = true
	defer func() { c.dumped = false }()
	var fault error
	for done := false; !done; {
		b, err := c.wire.Receive(true)
		if err != nil {
			return err
		}
		done, err = answers(b, seq, func(m nfnl.Message) {
			if fault == nil {
				fault = f(m)
			}
		})
		if err != nil {
			return err
		}
	}
	return fault
}

// answers calls f with the messages of a datagram that answer a request. It
// reports whether a dump is done, or why it failed, which the kernel may report
// only at its end.
func answers(b []byte, seq uint32, f func(nfnl.Message)) (done bool, err error) {
	for len(b) > 0 {
		var m nfnl.Message
		if m, b, err = nfnl.NextMessage(b); err != nil {
			return false, err
		}
		switch {
		case m.Seq != seq:
		case m.Type == unix.NLMSG_DONE || m.Type == unix.NLMSG_ERROR:
			return true, m.Errno()
		case m.Type >= unix.NLMSG_MIN_TYPE:
			f(m)
		}
	}
	return false, nil
}

// request sends one message outside of a batch and returns its sequence number.
func (c *Conn) request(typ, flags uint16, family Family, attrs []byte) (uint32, error) {
	if c.dumped {
		return 0, errDumped
	}
	c.drain()
	c.seq++
	var e encoder
	at := e.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, c.seq)
	e.b = append(e.b, attrs...)
	e.finish(at)
	if err := c.wire.Send(e.b); err != nil {
		return 0, fmt.Errorf("send request: %w", err)
	}
	return c.seq, nil
}

// Dump reads objects for which this package has no type: tables, chains, rules,
// counters. typ is one of unix.NFT_MSG_GET*, attrs are the encoded attributes
// that narrow the request; the kernel may ignore them and send more. Each value
// is the attributes of one object. Errors are plain errnos; absence is often
// just an empty sequence. As with [Conn.Elements], the connection is not free
// inside of the loop.
func (c *Conn) Dump(typ uint16, family Family, attrs []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		stopped := false
		err := c.dump(typ, family, attrs, func(m nfnl.Message) error {
			stopped = stopped || !yield(slices.Clone(m.Attrs()), nil)
			return nil
		})
		if err != nil && !stopped {
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

// add reports whether k is new.
func (s *keySet) add(k Key) bool {
	if s.short == nil {
		s.short, s.long = make(map[uint32]struct{}), make(map[Key]struct{})
	}
	n := len(s.short) + len(s.long)
	if k.typ.Len() <= 4 {
		s.short[uint32(k.lo)] = struct{}{}
	} else {
		s.long[k] = struct{}{}
	}
	return len(s.short)+len(s.long) > n
}
