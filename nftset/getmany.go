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
// receive buffer: the 208 KiB of net.core.rmem_default hold 256 of them as Linux
// 6.18 counts, fewer where elements have long comments.
const pipeline = 200

// GetMany asks a set for many keys and yields the elements that there are, in the
// order of the keys; absent ones are left out. Each answer is as sure as that of
// [Conn.Get]. It takes 1.5 to 2.5 µs for each key, so a large set whose keys are
// known is read much faster than by [Conn.Elements], the time of which grows with
// the square of the size. In a set of intervals each key takes what it takes Get.
//
// The sequence ends after the first error, an *OpError, which is os.ErrNotExist if
// there is no such set. Up to 200 keys are taken before their elements come. Inside
// of the loop the connection is free.
func (c *Conn) GetMany(s *Set, keys iter.Seq[Key]) iter.Seq2[Element, error] {
	return func(yield func(Element, error) bool) {
		m := many{c: c, s: s}
		for k := range keys {
			if s.refuses(k) != nil {
				if m.flush(yield) {
					yield(c.Get(s, k)) // the error, and no question
				}
				return
			}
			m.keys = append(m.keys, wanted{key: k})
			if len(m.keys) == pipeline && !m.flush(yield) {
				return
			}
		}
		m.flush(yield)
	}
}

// many are the keys of one set that are asked for at once.
type many struct {
	c    *Conn
	s    *Set
	keys []wanted
	enc  encoder
}

type wanted struct {
	key   Key
	known bool // the kernel has answered
	there bool
	el    Element
}

// flush asks for the keys, yields their elements and forgets them. It returns
// false if the sequence has ended.
func (m *many) flush(yield func(Element, error) bool) bool {
	if err := m.ask(); err != nil {
		yield(Element{}, err)
		return false
	}
	for i := range m.keys {
		if w := &m.keys[i]; w.there && !yield(w.el, nil) {
			return false
		}
	}
	m.keys = m.keys[:0]
	return true
}

// ask fills in the answers. The kernel says the same of a key that is absent and
// of one whose set is, so the set is asked for where keys are absent.
func (m *many) ask() (err error) {
	if m.s.Flags&FlagInterval != 0 {
		err = m.askEach()
	} else if err = m.askAll(); err != nil {
		err = &OpError{Op: "get elements of set", Object: m.s.String(), Err: err}
	}
	if err == nil && slices.ContainsFunc(m.keys, func(w wanted) bool { return !w.there }) {
		_, err = m.c.Set(m.s.Table, m.s.Name)
	}
	return err
}

func (m *many) askEach() error {
	for i := range m.keys {
		w := &m.keys[i]
		el, err := m.c.Get(m.s, w.key)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		w.el, w.there = el, err == nil
	}
	return nil
}

// askAll asks again for those keys whose answers did not fit the receive buffer.
func (m *many) askAll() error {
	for left := len(m.keys); left > 0; {
		n, err := m.exchange()
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the kernel gave no answer")
		}
		left -= n
	}
	return nil
}

// exchange asks for the keys that are not known yet, and returns how many of them
// then are.
func (m *many) exchange() (n int, err error) {
	c := m.c
	if c.dumped {
		return 0, errDumped
	}
	c.drain()
	first := c.seq + 1
	m.enc.b = m.enc.b[:0]
	for i := range m.keys {
		if c.seq++; !m.keys[i].known {
			at := m.enc.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, 0, m.s.Table.Family, c.seq)
			m.enc.question(m.s, m.keys[i].key, false)
			m.enc.finish(at)
		}
	}
	if err := c.wire.Send(m.enc.b); err != nil {
		return 0, fmt.Errorf("send requests: %w", err)
	}
	err = c.wire.Pending(func(b []byte) error {
		for len(b) > 0 {
			answer, rest, err := nfnl.NextMessage(b)
			if err != nil {
				return err
			}
			b = rest
			if i := answer.Seq - first; i < uint32(len(m.keys)) {
				w := &m.keys[i]
				if err := w.take(m.s.Type, answer); err != nil {
					return err
				}
				w.known = true
				n++
			}
		}
		return nil
	})
	return n, err
}

func (w *wanted) take(t KeyType, answer nfnl.Message) error {
	if answer.Type == unix.NLMSG_ERROR {
		if err := answer.Errno(); !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	_, err := elementList(t, answer.Attrs(), func(l listed) bool {
		w.el, w.there = l.el, true
		return false
	})
	return err
}
