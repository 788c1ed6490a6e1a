package ruleset

import (
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

// rate is a limit: so many packets in a unit of time, and a burst before it
// counts.
type rate struct {
	n     uint64
	unit  expr.LimitTime
	burst uint32
}

// rateToFill returns the rate at which a set of that size, whose elements live
// that long, can never be filled: a part of it may be filled at once, and the
// rest within the time after which the first elements are gone again. A set of
// a few elements can: there is a burst of one at least, as nft refuses 0 and
// the kernel takes it for 5, and one packet in a lifetime.
func rateToFill(size uint32, lifetime time.Duration, burst uint32) rate {
	const precise = 20 // packets in a unit, so that rounding down loses at most a twentieth
	burst = max(1, burst)
	rest := float64(max(1, int64(size)-int64(burst))) / lifetime.Seconds()
	r := rate{n: 1, unit: expr.LimitTimeWeek, burst: burst}
	for _, unit := range []expr.LimitTime{
		expr.LimitTimeSecond, expr.LimitTimeMinute, expr.LimitTimeHour, expr.LimitTimeDay, expr.LimitTimeWeek,
	} {
		r.unit, r.n = unit, max(1, uint64(rest*float64(unit)))
		if r.n >= precise {
			break
		}
	}
	return r
}

var unitNames = map[expr.LimitTime]string{
	expr.LimitTimeSecond: "second", expr.LimitTimeMinute: "minute", expr.LimitTimeHour: "hour",
	expr.LimitTimeDay: "day", expr.LimitTimeWeek: "week",
}

// limit matches packets as long as they come no faster than the rate.
func (r rate) limit() statement { return r.statement("", false) }

// exceeded matches packets that come faster than the rate.
func (r rate) exceeded() statement { return r.statement("over ", true) }

func (r rate) statement(word string, over bool) statement {
	return statement{
		text:  fmt.Sprintf("limit rate %s%d/%s burst %d packets", word, r.n, unitNames[r.unit], r.burst),
		exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: r.n, Over: over, Unit: r.unit, Burst: r.burst}},
	}
}

// element is an element that the packet path adds to a set, renews or deletes.
type element struct {
	key       statement // loads the key into the register
	set       string
	timeout   time.Duration // 0 for a set without timeouts
	renew     bool          // restart the timer of one that is there
	remove    bool          // delete it instead; one that is absent is no fault
	threshold int           // unless 0, the rule goes on only for the packet of that number, and later ones
}

// dynsetDelete is NFT_DYNSET_OP_DELETE of
// include/uapi/linux/netfilter/nf_tables.h, of Linux 5.4.
const dynsetDelete = 2

// statement returns the statement that adds the element. If the set is full the
// rule ends there, and the packet goes on to the next one.
//
// A threshold is a limit, with a rate that gives nothing back within any time
// that a Spec may have. The timeout is given here because kernels before the
// stable series of 6.1 do not change that of a live set.
func (e element) statement() statement {
	dyn := &expr.Dynset{SrcRegKey: register, SetName: e.set, Operation: unix.NFT_DYNSET_OP_ADD, Timeout: e.timeout}
	verb := "add"
	if e.renew {
		verb, dyn.Operation = "update", unix.NFT_DYNSET_OP_UPDATE
	}
	if e.remove {
		verb, dyn.Operation = "delete", dynsetDelete
	}
	nft := fmt.Sprintf("%s @%s { %s", verb, e.set, e.key.text)
	if e.timeout > 0 {
		nft += " timeout " + text.Duration(e.timeout)
	}
	if e.threshold > 1 {
		l := rate{1, expr.LimitTimeWeek, uint32(e.threshold - 1)}.exceeded()
		dyn.Exprs = l.exprs
		nft += " " + l.text
	}
	st := e.key
	st.text, st.exprs = nft+" }", append(st.exprs[:len(st.exprs):len(st.exprs)], dyn)
	return st
}
