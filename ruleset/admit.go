package ruleset

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	"github.com/portmon/portmon/nftset"
)

const (
	// MaxAllowed is the most prefixes of a family that are allowed.
	MaxAllowed = 4096
	// maxLogins is how many of the places of a family logins can hold beside
	// what else is allowed: whoever may log in is not to keep an administrator
	// from allowing somebody, or a name from being followed.
	maxLogins = MaxAllowed / 4 * 3
	// maxLoginsOf is how many of them logins from one network, a /24 or a /48,
	// can hold beside what else is allowed of it.
	maxLoginsOf = MaxAllowed / 16
)

// claim is an allowance that claims a place.
type claim struct {
	nftset.Element
	by    Cause
	added bool
}

// rank orders claims by how good they are: what is allowed already, what is
// added, logins.
func (c *claim) rank() int {
	switch {
	case c.by == CauseLogin:
		return 2
	case c.added:
		return 1
	}
	return 0
}

// admit returns what a set of allowances is to hold after others were added, and
// which of these have no room. The oldest logins make room for all others.
func admit(f family, have, added []nftset.Element) (wanted []nftset.Element, left map[nftset.Interval]bool) {
	claims := make([]claim, 0, len(have)+len(added))
	replaced := make(map[nftset.Interval]Cause)
	for _, el := range added {
		by, _ := allowedBy(el.Comment)
		claims = append(claims, claim{el, by, true})
		if replaced[el.Interval] != CauseHand {
			replaced[el.Interval] = by
		}
	}
	for _, el := range have {
		by, _ := allowedBy(el.Comment)
		if in, ok := replaced[el.Interval]; !ok || by == CauseHand && in != CauseHand {
			claims = append(claims, claim{el, by, false})
		}
	}
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Timeout-a.Remaining, b.Timeout-b.Remaining))
	})
	others, _ := slices.BinarySearchFunc(claims, 2, func(c claim, rank int) int { return cmp.Compare(c.rank(), rank) })

	left = make(map[nftset.Interval]bool)
	leave := func(c claim) {
		if c.added {
			left[c.Interval] = true
		}
	}
	from := make(map[netip.Prefix]int)
	claims = slices.DeleteFunc(claims, func(c claim) bool {
		network := netip.PrefixFrom(c.From.Addr(), f.subnetLen).Masked()
		from[network]++
		if c.by != CauseLogin || from[network] <= maxLoginsOf {
			return false
		}
		leave(c)
		return true
	})
	fit := func(n int) bool {
		wanted = cut(standing(claims[:n]), compareAllowances)
		return len(wanted) <= max(MaxAllowed, len(have)) && (n <= others || len(wanted) <= maxLogins)
	}
	if !fit(len(claims)) {
		n := sort.Search(len(claims), func(n int) bool { return !fit(n + 1) })
		for _, c := range claims[n:] {
			leave(c)
		}
		fit(n)
	}
	return wanted, left
}

// standing returns allowances such that those by hand stand by themselves: where
// another one lasts longer, one by hand that it overlaps lasts as long there, and
// stays when the other ends.
func standing(claims []claim) []nftset.Element {
	var hand, others []nftset.Element
	for _, c := range claims {
		if c.by == CauseHand {
			hand = append(hand, c.Element)
		} else {
			others = append(others, c.Element)
		}
	}
	all := slices.Concat(hand, others)
	for _, c := range hand {
		for _, o := range others {
			if !o.Overlaps(c.Interval) || compareLasts(o, c) <= 0 {
				continue
			}
			o.Comment = c.Comment
			if o.From.Compare(c.From) < 0 {
				o.From = c.From
			}
			if o.To.Compare(c.To) > 0 {
				o.To = c.To
			}
			all = append(all, o)
		}
	}
	return all
}

// compareAllowances compares which of two allowances of an address counts: the
// one that lasts longer, and one by hand rather than another.
func compareAllowances(a, b nftset.Element) int {
	hand := func(el nftset.Element) int {
		if by, _ := allowedBy(el.Comment); by == CauseHand {
			return 1
		}
		return 0
	}
	return cmp.Or(compareLasts(a, b), cmp.Compare(hand(a), hand(b)))
}
