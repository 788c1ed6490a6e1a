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

// nftaSetElemExpressions is NFTA_SET_ELEM_EXPRESSIONS, new in Linux 5.11: more
// than one expression.
const nftaSetElemExpressions = 11

// errIntervals is the fault of a set that was said to hold single keys.
var errIntervals = errors.New("it holds intervals")

// listed is one entry of an element list: an element, or the end of one.
type listed struct {
	el  Element // Interval.To equals From
	end bool    // NFT_SET_ELEM_INTERVAL_END: From is the first key behind an interval

	state nfnl.Attr // of el, which does not have it yet, as most have no use for it
}

// elementList calls f for each entry of one NEWSETELEM message, until f returns
// an error. It allocates nothing.
func elementList(t KeyType, attrs []byte, f func(listed) error) error {
	for a, err := range nfnl.Attrs(attrs) {
		if err != nil {
			return err
		}
		if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for a, err := range nfnl.Attrs(a.Data) {
			if err != nil {
				return err
			}
			l, err := parseElement(t, a.Data)
			if err == nil && l.el.From.typ != 0 { // not the catch-all element, which has no key
				err = f(l)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// parseElement reads one list entry.
func parseElement(t KeyType, b []byte) (l listed, err error) {
	for a, err := range nfnl.Attrs(b) {
		if err != nil {
			return l, err
		}
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			v, _, err := nfnl.NextAttr(a.Data)
			if err != nil {
				return l, err
			}
			k, ok := ParseKey(t, v.Data)
			if !ok {
				return l, fmt.Errorf("its keys are not of type %v", t)
			}
			l.el.From, l.el.To = k, k
		case nftaSetElemKeyEnd:
			return l, errIntervals
		case unix.NFTA_SET_ELEM_FLAGS:
			l.end = a.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			l.el.Timeout = duration(a.Uint64())
		case unix.NFTA_SET_ELEM_EXPIRATION:
			// An element at its end has 0 left. One that never expires does not
			// have the attribute.
			l.el.Remaining = max(duration(a.Uint64()), time.Millisecond)
		case unix.NFTA_SET_ELEM_EXPR, nftaSetElemExpressions:
			l.state = a
		case unix.NFTA_SET_ELEM_USERDATA:
			l.el.Comment = userDataString(a.Data, udataElemComment)
		}
	}
	return l, nil
}

// duration converts the kernel's milliseconds. What does not fit, 292 years, is
// cut.
func duration(ms uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(ms, most)) * time.Millisecond
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
	attrs, err := nfnl.Parse(m.Attrs())
	if err != nil {
		return nil
	}
	var found, last *Interval
	for list := attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS].Data; len(list) > 0; {
		// Slices of one array: the capacity that is left gives the position.
		start := cap(msg) - cap(list)
		a, rest, err := nfnl.NextAttr(list)
		if err != nil {
			return nil
		}
		l, err := parseElement(s.Type, a.Data)
		switch {
		case err != nil:
			return nil
		case l.end && last != nil:
			last.To = l.el.From.prev()
		case found != nil:
			return found
		default:
			last = &Interval{l.el.From, l.el.To}
			if s.Flags&FlagInterval != 0 {
				last.To = s.Type.Max()
			}
		}
		if list = rest; start <= offset && offset < start+nfnl.AttrHeaderLen+len(a.Data) {
			found = last
		}
	}
	return found
}
