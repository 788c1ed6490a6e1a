package nftset

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Tx is a list of operations that [Conn.Commit] runs in one transaction: all of
// them, or none. The zero value is empty and ready. Methods only encode; a
// fault in their arguments is kept and returned by Commit, which then sends
// nothing.
type Tx struct {
	enc encoder
	ops []operation // one for each message, in the order of their sequence numbers, from 1
	err error

	// Generation, if not 0, makes Commit fail with ErrChanged when the ruleset
	// is not at this generation any more. It comes from [Conn.Generation],
	// asked before reading what the operations were derived from.
	Generation uint32
}

// operation remembers what a message was for, to name it in an error.
type operation struct {
	at     int    // offset of the message in the buffer
	op     string // "add set"
	object string // "inet portmon ban4"
	set    *Set   // for elements only
}

// Len returns the number of messages. A transaction without any is committed by
// doing nothing.
func (tx *Tx) Len() int { return len(tx.ops) }

// Reset empties the transaction, and keeps its memory for another.
func (tx *Tx) Reset() {
	*tx = Tx{enc: encoder{tx.enc.b[:0]}, ops: tx.ops[:0]}
}

// Message appends a message for which Tx has no method: chains, rules, objects.
// typ is one of unix.NFT_MSG_*, flags are unix.NLM_F_*, attrs the encoded
// attributes. op and object name it in errors: "add chain", "inet portmon
// guard".
func (tx *Tx) Message(typ uint8, flags uint16, family Family, attrs []byte, op, object string) {
	at := tx.begin(typ, flags, family, op, object, nil)
	tx.enc.b = append(tx.enc.b, attrs...)
	tx.enc.pad()
	tx.enc.finish(at)
}

func (tx *Tx) begin(typ uint8, flags uint16, family Family, op, object string, set *Set) int {
	at := len(tx.enc.b)
	tx.ops = append(tx.ops, operation{at, op, object, set})
	return tx.enc.begin(unix.NFNL_SUBSYS_NFTABLES<<8|uint16(typ), flags, family, uint32(len(tx.ops)))
}

// AddTable adds a table; one that exists stays as it is, but loses the flag
// "dormant".
func (tx *Tx) AddTable(t Table) {
	at := tx.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, t.Family, "add table", t.String(), nil)
	tx.enc.string(unix.NFTA_TABLE_NAME, t.Name)
	tx.enc.u32(unix.NFTA_TABLE_FLAGS, 0)
	tx.enc.finish(at)
}

// DeleteTable deletes a table and all that is in it.
func (tx *Tx) DeleteTable(t Table) {
	at := tx.begin(unix.NFT_MSG_DELTABLE, 0, t.Family, "delete table", t.String(), nil)
	tx.enc.string(unix.NFTA_TABLE_NAME, t.Name)
	tx.enc.finish(at)
}

// AddSet adds a set. For one that exists with the same type and flags it sets
// Timeout and Size (kernels before 6.1's stable series take a new Timeout and
// ignore it), for elements of later transactions: those of the same one still
// get the old timeout. With another type or other flags the kernel answers
// EEXIST. Both are always sent: a set whose timeout was left out would make
// every later element permanent.
func (tx *Tx) AddSet(s *Set) {
	if err := s.fault(); err != nil {
		tx.fail("add set", s, nil, err)
		return
	}
	at := tx.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.Table.Family, "add set", s.String(), nil)
	e := &tx.enc
	e.string(unix.NFTA_SET_TABLE, s.Table.Name)
	e.string(unix.NFTA_SET_NAME, s.Name)
	e.u32(unix.NFTA_SET_FLAGS, uint32(s.Flags))
	e.u32(unix.NFTA_SET_KEY_TYPE, uint32(s.Type))
	e.u32(unix.NFTA_SET_KEY_LEN, uint32(s.Type.Len()))
	e.u32(unix.NFTA_SET_ID, uint32(len(tx.ops))) // must be there and unique; elements find the set by its name
	if s.Size > 0 {
		desc := e.nest(unix.NFTA_SET_DESC)
		e.u32(unix.NFTA_SET_DESC_SIZE, s.Size)
		e.unnest(desc)
	}
	if s.Flags&FlagTimeout != 0 && s.Timeout > 0 {
		e.u64(unix.NFTA_SET_TIMEOUT, milliseconds(s.Timeout))
	}
	e.finish(at)
}

// DeleteSet deletes a set and its elements. The kernel answers EBUSY while a
// rule uses it. The name is free at once: the same transaction may add a set
// with other flags, or of another type, and elements and rules that follow get
// that one.
func (tx *Tx) DeleteSet(s *Set) {
	at := tx.begin(unix.NFT_MSG_DELSET, 0, s.Table.Family, "delete set", s.String(), nil)
	tx.enc.string(unix.NFTA_SET_TABLE, s.Table.Name)
	tx.enc.string(unix.NFTA_SET_NAME, s.Name)
	tx.enc.finish(at)
}

// FlushSet deletes all elements of a set.
func (tx *Tx) FlushSet(s *Set) {
	at := tx.begin(unix.NFT_MSG_DELSETELEM, 0, s.Table.Family, "flush set", s.String(), nil)
	tx.enc.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	tx.enc.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	tx.enc.finish(at)
}

// Add adds elements. One that is there already, with the same bounds, is not
// changed before Linux 6.12. From then on it gets the new one's timeout, and if
// that has none, the set's default, which may be none: then it never expires.
// Use Renew to be sure. An interval that overlaps another is refused with
// EEXIST, but one that reaches the top of the key space is not (seen on 6.18):
// what it overlaps then cuts it short. Where that can be, ask the set before,
// or replace it by what [Merge] makes.
func (tx *Tx) Add(s *Set, elems ...Element) { tx.AddSeq(s, slices.Values(elems)) }

// AddSeq is Add for elements that need not be in memory at once.
func (tx *Tx) AddSeq(s *Set, elems iter.Seq[Element]) {
	tx.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add element", s, elems, false)
}

// CreateSeq adds elements none of which may be there: for one that is, the
// kernel answers EEXIST.
func (tx *Tx) CreateSeq(s *Set, elems iter.Seq[Element]) {
	tx.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "create element", s, elems, false)
}

// Delete deletes elements, whose bounds must be given exactly. The kernel
// answers ENOENT for one that is absent.
func (tx *Tx) Delete(s *Set, elems ...Element) { tx.DeleteSeq(s, slices.Values(elems)) }

// DeleteSeq is Delete for elements that need not be in memory at once.
func (tx *Tx) DeleteSeq(s *Set, elems iter.Seq[Element]) {
	tx.elements(unix.NFT_MSG_DELSETELEM, 0, "delete element", s, elems, true)
}

// Discard deletes elements that may be absent, or may have expired by the time
// of the commit: it adds each and deletes it again. (NFT_MSG_DESTROYSETELEM
// does this in one step, from Linux 6.3 on.) For those that are absent this
// fails with ENFILE in a full set, and with EEXIST where an interval overlaps
// another.
func (tx *Tx) Discard(s *Set, elems ...Element) {
	elems = distinct(elems)
	tx.Add(s, elems...)
	tx.Delete(s, elems...)
}

// Renew adds elements so that they have the Timeout and Remaining that are
// given, whether they are there or not, on every kernel: those before 6.12 do
// not change an element that exists. So each is added, deleted and added again,
// and its counter begins anew. Of several with the same keys, the last counts.
func (tx *Tx) Renew(s *Set, elems ...Element) {
	elems = distinct(elems)
	tx.Add(s, elems...)
	tx.Delete(s, elems...)
	tx.Add(s, elems...)
}

// distinct returns the elements with the last of those with the same keys in
// place of the first: the second deletion would be one of what is absent.
func distinct(elems []Element) []Element {
	index := make(map[Interval]int, len(elems))
	out := make([]Element, 0, len(elems))
	for _, el := range elems {
		if i, ok := index[el.Interval]; ok {
			out[i] = el
			continue
		}
		index[el.Interval] = len(out)
		out = append(out, el)
	}
	return out
}

// elements cuts the list into messages: the attribute that holds a list ends at
// 65,535 bytes.
func (tx *Tx) elements(typ uint8, flags uint16, op string, s *Set, elems iter.Seq[Element], bare bool) {
	const room = 2*(6*nfnl.AttrHeaderLen+20+8+8+4) + 256 // more than any element takes, with its end and its comment
	e, msg, list := &tx.enc, -1, -1
	for el := range elems {
		if err := s.check(&el); err != nil {
			iv := el.Interval // el itself must not escape: it would be allocated for each element
			tx.fail(op, s, &iv, err)
			return
		}
		if list < 0 || len(e.b)-list > maxAttr-room-len(el.State) {
			if list >= 0 {
				e.unnest(list)
				e.finish(msg)
			}
			msg = tx.begin(typ, flags, s.Table.Family, op, s.String(), s)
			e.string(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
			e.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
			list = e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		}
		e.element(s, &el, bare)
	}
	if list >= 0 {
		e.unnest(list)
		e.finish(msg)
	}
}

// check returns what is wrong with an element, before the kernel returns an
// errno for it, or takes it for something else.
func (s *Set) check(el *Element) error {
	if err := s.fault(); err != nil {
		return err
	}
	switch {
	case el.From.typ != s.Type || el.To.typ != s.Type:
		return fmt.Errorf("a %v does not fit a set of %v", el.From.typ, s.Type)
	case el.To.Compare(el.From) < 0:
		return fmt.Errorf("it ends before it begins")
	case s.Flags&FlagInterval == 0 && !el.IsSingle():
		return fmt.Errorf("the set takes single keys, no intervals")
	case s.Flags&FlagTimeout == 0 && (el.Timeout != 0 || el.Remaining != 0):
		return fmt.Errorf("the set takes no timeouts")
	case el.Timeout < 0 || el.Remaining < 0:
		return fmt.Errorf("negative timeout")
	case len(el.Comment) > maxElemComment:
		return fmt.Errorf("comment of %d bytes, at most %d are allowed", len(el.Comment), maxElemComment)
	}
	return nil
}

func (tx *Tx) fail(op string, s *Set, iv *Interval, err error) {
	if tx.err == nil {
		tx.err = &OpError{Op: op, Object: s.String(), Element: iv, Err: err}
	}
}

// describe builds the error for the message with sequence number seq.
func (tx *Tx) describe(seq uint32, r nfnl.Reply) *OpError {
	if seq < 1 || int(seq) > len(tx.ops) {
		// The frame of the batch failed: no permission, or no memory.
		return &OpError{Op: "commit transaction", Err: r.Errno, Text: r.Text}
	}
	op := tx.ops[seq-1]
	err := &OpError{Op: op.op, Object: op.object, Err: r.Errno, Text: r.Text}
	if op.set != nil {
		err.Element = elementAt(op.set, tx.enc.b[op.at:], r.Offset)
	}
	return err
}

// batchFrame returns the message that opens or closes a batch.
func batchFrame(typ uint16, generation uint32) []byte {
	var e encoder
	at := e.begin(typ, 0, unix.AF_UNSPEC, 0)
	binary.BigEndian.PutUint16(e.b[at+nfnl.HeaderLen+2:], unix.NFNL_SUBSYS_NFTABLES)
	if generation != 0 {
		e.u32(unix.NFNL_BATCH_GENID, generation)
	}
	e.finish(at)
	return e.b
}
