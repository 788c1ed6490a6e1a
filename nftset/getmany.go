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
// receive buffer: the 208 KiB of net.core.rmem_default hold 256 of them as
// Linux 6.18 counts, fewer where elements have long comments.
const pipeline = 200

// GetMany asks a set for many keys and yields the elements that there are, in
// the order of the keys; absent ones are left out. Each answer is as sure as
// that of [Conn.Get]. It takes 1.5 to 2.5 µs for each key, so a large set whose
// keys are known is read much faster than by [Conn.Elements], the time of which
// grows with the square of the size. In a set of intervals each key takes what
// it takes Get.
//
// The sequence ends after the first error, an *OpError, which is os.ErrNotExist
// if there is no such set. Up to 200 keys are taken before their elements come.
// Inside of the loop the connection is free.
func (c *Conn) GetMany(s *Set, keys iter.Seq[Key]) iter.Seq2[Element, error] {
	return func(yield func(Element, error) bool) {
		var batch []question
		var enc encoder
		flush := func() bool {
			if err := c.askMany(s, batch, &enc); err != nil {
				yield(Element{}, err)
				return false
			}
			for i := range batch {
				if q := &batch[i]; q.found && !yield(q.el, nil) {
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
		flush()
	}
}

// question is a key that is asked for, and the answer.
type question struct {
	key             Key
	answered, found bool
	el              Element
}

// askMany fills in the answers. The kernel gives the same answer for an absent
// key and an absent set, so the set is asked for where keys are absent.
func (c *Conn) askMany(s *Set, batch []question, enc *encoder) (err error) {
	if s.Flags&FlagInterval != 0 {
		for i := range batch {
			q := &batch[i]
			if q.el, err = c.Get(s, q.key); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			q.found = err == nil
		}
	} else if err := c.pipelined(s, batch, enc); err != nil {
		return &OpError{Op: "get elements of set", Object: s.String(), Err: err}
	}
	if slices.ContainsFunc(batch, func(q question) bool { return !q.found }) {
		_, err := c.Set(s.Table, s.Name)
		return err
	}
	return nil
}

// pipelined asks for all keys at once, and again for those whose answers did
// not fit the receive buffer.
func (c *Conn) pipelined(s *Set, batch []question, enc *encoder) error {
	for open := len(batch); open > 0; {
		if c.dumped {
			return errDumped
		}
		c.drain()
		first := c.seq + 1
		enc.b = enc.b[:0]
		for i := range batch {
			if c.seq++; !batch[i].answered {
				at := enc.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, 0, s.Table.Family, c.seq)
				enc.ask(s, batch[i].key, false)
				enc.finish(at)
			}
		}
		if err := c.wire.Send(enc.b); err != nil {
			return fmt.Errorf("send requests: %w", err)
		}
		before := open
		err := c.wire.Pending(func(b []byte) error {
			for len(b) > 0 {
				m, rest, err := nfnl.NextMessage(b)
				if err != nil {
					return err
				}
				b = rest
				if i := m.Seq - first; i < uint32(len(batch)) {
					if err := batch[i].answer(s.Type, m); err != nil {
						return err
					}
					open--
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if open == before {
			return errors.New("the kernel gave no answer")
		}
	}
	return nil
}

func (q *question) answer(t KeyType, m nfnl.Message) error {
	q.answered = true
	if m.Type == unix.NLMSG_ERROR {
		if err := m.Errno(); !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	_, err := elementList(t, m.Attrs(), func(l listed) bool {
		q.el, q.found = l.el, true
		return false
	})
	return err
}
