package nftset

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// nftaSetElemKeyEnd is NFTA_SET_ELEM_KEY_END of
// include/uapi/linux/netfilter/nf_tables.h, new in Linux 5.6: the other end of
// an interval of concatenated keys.
const nftaSetElemKeyEnd = 10

// errIntervals is the fault of a set that was said to hold single keys.
var errIntervals = errors.New("it holds intervals")

// listed is one entry of an element list: an element, or the end of one.
type listed struct {
	el  Element // Interval.To equals From
	end bool    // NFT_SET_ELEM_INTERVAL_END: From is the first key behind an interval
}

// elementList walks the elements of one NEWSETELEM message, without allocating.
// It stops at the first false, or with an error.
func elementList(t KeyType, attrs []byte, yield func(listed) bool) (more bool, err error) {
	for len(attrs) > 0 {
		a, rest, err := nfnl.NextAttr(attrs)
		if err != nil {
			return false, err
		}
		attrs = rest
		if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for list := a.Data; len(list) > 0; {
			if a, list, err = nfnl.NextAttr(list); err != nil {
				return false, err
			}
			l, ok, err := parseElement(t, a.Data)
			if err != nil {
				return false, err
			}
			if ok && !yield(l) {
				return false, nil
			}
		}
	}
	return true, nil
}

// parseElement reads one list entry. ok is false for what has no key: the
// catch-all element.
func parseElement(t KeyType, b []byte) (l listed, ok bool, err error) {
	for len(b) > 0 {
		a, rest, err := nfnl.NextAttr(b)
		if err != nil {
			return l, false, err
		}
		b = rest
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			v, _, err := nfnl.NextAttr(a.Data)
			if err != nil {
				return l, false, err
			}
			var k Key
			if k, ok = ParseKey(t, v.Data); !ok {
				return l, false, fmt.Errorf("its keys are not of type %v", t)
			}
			l.el.From, l.el.To = k, k
		case nftaSetElemKeyEnd:
			return l, false, errIntervals
		case unix.NFTA_SET_ELEM_FLAGS:
			l.end = a.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			l.el.Timeout = duration(a.Uint64())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			// An element at its end has 0 left. One that never expires does not
			// have the attribute.
			l.el.Remaining = max(duration(a.Uint64()), time.Millisecond)
		case unix.NFTA_SET_ELEM_USERDATA:
			l.el.Comment = userDataString(a.Data, udataElemComment)
		case unix.NFTA_SET_ELEM_EXPR:
			if err := parseCounter(a.Data, &l.el); err != nil {
				return l, false, err
			}
		}
	}
	return l, ok, nil
}

// duration converts the kernel's milliseconds. What does not fit, 292 years, is
// cut.
func duration(ms uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(ms, most)) * time.Millisecond
}

// parseCounter fills in the element's counter, if the expression is one.
func parseCounter(b []byte, el *Element) error {
	counter := false
	for len(b) > 0 {
		a, rest, err := nfnl.NextAttr(b)
		if err != nil {
			return err
		}
		b = rest
		switch a.Type {
		case unix.NFTA_EXPR_NAME:
			counter = string(a.Data) == "counter\x00"
		case unix.NFTA_EXPR_DATA:
			for data := a.Data; counter && len(data) > 0; {
				if a, data, err = nfnl.NextAttr(data); err != nil {
					return err
				}
				switch a.Type {
				case unix.NFTA_COUNTER_BYTES:
					el.Bytes = a.Uint64()
				case unix.NFTA_COUNTER_PACKETS:
					el.Packets = a.Uint64()
				}
				el.HasCounter = true
			}
		}
	}
	return nil
}

// elementAt finds the element of a message of ours that the kernel pointed at;
// nil if there is none. offset counts from the start of the message and leads
// to an entry of the list, or into it; the end of an interval leads to the
// interval.
func elementAt(s *Set, msg []byte, offset int) *Interval {
	m, _, err := nfnl.NextMessage(msg)
	if err != nil || offset == 0 {
		return nil
	}
	var cur *Interval
	hit := false
	for a, err := range nfnl.Attrs(m.Attrs()) {
		if err != nil || a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for list := a.Data; len(list) > 0; {
			// Slices of one array: the capacity that is left gives the
			// position.
			start := cap(msg) - cap(list)
			entry, rest, err := nfnl.NextAttr(list)
			if err != nil {
				return nil
			}
			list = rest
			l, ok, err := parseElement(s.Type, entry.Data)
			switch {
			case err != nil || !ok:
				return nil
			case l.end && cur != nil:
				cur.To = l.el.From.prev()
			case hit:
				return cur
			default:
				cur = &Interval{l.el.From, l.el.To}
				if s.Flags&FlagInterval != 0 {
					cur.To = s.Type.Max()
				}
			}
			hit = hit || start <= offset && offset < start+nfnl.AttrHeaderLen+len(entry.Data)
		}
	}
	if hit {
		return cur
	}
	return nil
}
