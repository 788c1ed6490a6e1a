package nftset

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Snapshot is a table as it was at a moment, with all that the kernel tells of
// it but the handles: chains, rules, objects and their values, sets, and their
// elements with what is left of their timeouts.
type Snapshot struct {
	Table  Table
	Exists bool // there was such a table

	at       time.Time // what is left of timeouts is as of then
	messages []message // that make all but the elements, in order
	sets     []contents
}

type message struct {
	typ        uint8
	flags      uint16
	attrs      []byte
	op, object string
}

// contents are the elements of a set.
type contents struct {
	Set
	elems []Element
}

// kind is a kind of object of a table: how it is read and written, and which
// of its attributes make it.
type kind struct {
	get   uint16
	add   uint8
	flags uint16
	name  string
	of    uint16 // the attribute that names the table
	named uint16 // the attribute that names the object, or the chain of a rule
	keep  []uint16
}

// The attributes that have no name in x/sys are, from
// include/uapi/linux/netfilter/nf_tables.h: NFTA_TABLE_USERDATA 6,
// NFTA_CHAIN_FLAGS 10 and NFTA_CHAIN_USERDATA 12, NFTA_OBJ_USERDATA 8,
// NFTA_SET_EXPR 17 and NFTA_SET_EXPRESSIONS 18.
var kinds = []kind{
	{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "table", unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_NAME,
		[]uint16{unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS, 6}},
	{unix.NFT_MSG_GETOBJ, unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "object", unix.NFTA_OBJ_TABLE, unix.NFTA_OBJ_NAME,
		[]uint16{unix.NFTA_OBJ_TABLE, unix.NFTA_OBJ_NAME, unix.NFTA_OBJ_TYPE, unix.NFTA_OBJ_DATA, 8}},
	{unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "set", unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME,
		[]uint16{unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN,
			unix.NFTA_SET_POLICY, unix.NFTA_SET_DESC, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_USERDATA, 17, 18}},
	{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain", unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME,
		[]uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE,
			unix.NFTA_CHAIN_COUNTERS, 10, 12}},
	{unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE | unix.NLM_F_APPEND, "rule of chain", unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN,
		[]uint16{unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_USERDATA}},
}

// Snapshot reads a table, which need not be there, and has the kernel check
// that it can be put back: a table with maps, say, cannot. What the packet path
// does meanwhile may be in it or not.
func (c *Conn) Snapshot(t Table) (*Snapshot, error) {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		before, err := c.generation()
		if err != nil {
			return nil, err
		}
		s, err := c.snapshot(t)
		if err != nil {
			return nil, &OpError{Op: "read table", Object: t.String(), Err: err}
		}
		after, err := c.generation()
		if err != nil {
			return nil, err
		}
		if before != after {
			if attempt < attempts {
				continue
			}
			return nil, &OpError{Op: "read table", Object: t.String(), Err: errors.New("others keep changing the ruleset")}
		}
		tx, _ := s.restore(everything)
		return s, c.Check(tx)
	}
}

func everything(*Set) bool { return true }

func (c *Conn) snapshot(t Table) (*Snapshot, error) {
	s := &Snapshot{Table: t, at: time.Now()}
	for i := range kinds {
		if err := s.read(c, &kinds[i]); err != nil {
			return nil, err
		}
		if !s.Exists {
			return s, nil
		}
	}
	sets, err := c.Sets(t)
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		held, err := s.contents(c, &set)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", set.Name, err)
		}
		s.sets = append(s.sets, contents{set, held})
	}
	return s, nil
}

// read adds the objects of a kind.
func (s *Snapshot) read(c *Conn, k *kind) error {
	var e encoder
	if k.get != unix.NFT_MSG_GETTABLE {
		e.string(k.of, s.Table.Name)
	}
	for b, err := range c.Dump(k.get, s.Table.Family, e.b) {
		if err != nil {
			return err
		}
		attrs, err := nfnl.Parse(b)
		if err != nil {
			return err
		}
		if string(attrs[k.of].Text()) != s.Table.Name {
			continue
		}
		s.Exists = true
		m := message{typ: k.add, flags: k.flags, op: "put back " + k.name, object: s.Table.String()}
		if k.named != k.of {
			m.object += " " + string(attrs[k.named].Text())
		}
		for rest := b; len(rest) > 0; {
			a, next, err := nfnl.NextAttr(rest)
			if err != nil {
				return err
			}
			if slices.Contains(k.keep, a.Type) {
				m.attrs = append(m.attrs, rest[:len(rest)-len(next)]...)
			}
			rest = next
		}
		switch k.add {
		case unix.NFT_MSG_NEWSET:
			if attrs[unix.NFTA_SET_FLAGS].Uint32()&unix.NFT_SET_ANONYMOUS != 0 {
				return errors.New("a rule has an anonymous set, which cannot be put back")
			}
			e := encoder{m.attrs}
			e.u32(unix.NFTA_SET_ID, uint32(len(s.messages)+1))
			m.attrs = e.b
		case unix.NFT_MSG_NEWRULE:
			if m.attrs, err = withoutNoTimeout(m.attrs); err != nil {
				return err
			}
		}
		s.messages = append(s.messages, m)
	}
	return nil
}

// withoutNoTimeout takes out of a rule what says that it adds elements to a set
// without timeouts: the kernel tells that, and does not accept it.
func withoutNoTimeout(rule []byte) ([]byte, error) {
	var e encoder
	// nested copies an attribute that holds others, each as copy does.
	nested := func(of nfnl.Attr, copy func(nfnl.Attr) error) error {
		at := e.nest(of.Type)
		for a, err := range nfnl.Attrs(of.Data) {
			if err == nil {
				err = copy(a)
			}
			if err != nil {
				return err
			}
		}
		e.unnest(at)
		return nil
	}
	for a, err := range nfnl.Attrs(rule) {
		if err != nil {
			return nil, err
		}
		if a.Type != unix.NFTA_RULE_EXPRESSIONS {
			e.bytes(a.Type, a.Data)
			continue
		}
		err = nested(a, func(expr nfnl.Attr) error {
			is, err := nfnl.Parse(expr.Data)
			if err != nil || string(is[unix.NFTA_EXPR_NAME].Text()) != "dynset" {
				e.bytes(expr.Type, expr.Data)
				return err
			}
			return nested(expr, func(part nfnl.Attr) error {
				if part.Type != unix.NFTA_EXPR_DATA {
					e.bytes(part.Type, part.Data)
					return nil
				}
				return nested(part, func(a nfnl.Attr) error {
					if a.Type != unix.NFTA_DYNSET_TIMEOUT || a.Uint64() != 0 {
						e.bytes(a.Type, a.Data)
					}
					return nil
				})
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return e.b, nil
}

// contents reads the elements of a set, what is left of whose timeouts is that
// of the moment of the snapshot.
func (s *Snapshot) contents(c *Conn, set *Set) (elems []Element, err error) {
	if set.Flags&^(FlagInterval|FlagTimeout|FlagDynamic|unix.NFT_SET_CONSTANT) != 0 {
		return nil, errors.New("it is a map, or otherwise of no kind that can be put back")
	}
	add := func(el Element) error {
		if el.Remaining > 0 {
			el.Remaining += time.Since(s.at)
		} else if set.Timeout > 0 && el.State == "" {
			el.State = string(rune(unix.NFTA_SET_ELEM_TIMEOUT)) + "\x00\x00\x00\x00\x00\x00\x00\x00" // for ever
		}
		elems = append(elems, el)
		return nil
	}
	if set.Flags&FlagInterval != 0 {
		return elems, c.intervals(set, add)
	}
	return elems, c.singles(set, func(l listed) error {
		if l.state.Type != 0 {
			l.el.State = string(rune(l.state.Type)) + string(l.state.Data)
		}
		return add(l.el)
	})
}

// Restore makes the table what it was, in place of whatever it is now, in one
// transaction: but for what has expired since. Of a table with very many
// elements it puts back at least the sets that urgent names in that transaction,
// and the rest in as few as it takes.
//
// What listens to the nftables multicast group costs the kernel much memory
// here; see [BatchSize].
func (c *Conn) Restore(s *Snapshot, urgent func(*Set) bool) error {
	const most = 1 << 18 // elements for one transaction, some 30 MB
	total := 0
	for i := range s.sets {
		total += len(s.sets[i].elems)
	}
	if total <= most {
		urgent = everything
	}
	tx, rest := s.restore(urgent)
	if err := c.Commit(tx); err != nil {
		return err
	}
	for _, held := range rest {
		for some := range slices.Chunk(held.elems, most) {
			tx.Reset()
			tx.AddSeq(&held.Set, s.left(some))
			if err := c.Commit(tx); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore returns the transaction that makes the table what it was, with the
// elements of the sets that are urgent, and what is left to do.
func (s *Snapshot) restore(urgent func(*Set) bool) (tx *Tx, rest []contents) {
	tx = new(Tx)
	// Whether there is a table or not, there is one to delete then. Without
	// flags, one that is there stays dormant, or not.
	var e encoder
	e.string(unix.NFTA_TABLE_NAME, s.Table.Name)
	tx.Message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, s.Table.Family, e.b, "add table", s.Table.String())
	tx.DeleteTable(s.Table)
	rules := len(s.messages)
	for i, m := range s.messages {
		if m.typ == unix.NFT_MSG_NEWRULE {
			rules = i
			break
		}
	}
	add := func(messages []message) {
		for _, m := range messages {
			tx.Message(m.typ, m.flags, s.Table.Family, m.attrs, m.op, m.object)
		}
	}
	add(s.messages[:rules])
	for i := range s.sets {
		held := &s.sets[i]
		if urgent(&held.Set) {
			tx.AddSeq(&held.Set, s.left(held.elems))
		} else {
			rest = append(rest, *held)
		}
	}
	add(s.messages[rules:])
	return tx, rest
}

// left yields those elements that have not expired, with what is left of their
// timeouts now.
func (s *Snapshot) left(elems []Element) iter.Seq[Element] {
	gone := time.Since(s.at)
	return func(yield func(Element) bool) {
		for _, el := range elems {
			if el.Remaining > 0 {
				if el.Remaining -= gone; el.Remaining <= 0 {
					continue
				}
			}
			if !yield(el) {
				return
			}
		}
	}
}
