package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// addNets adds bans, or allowances, to the set of prefixes of that role, and
// returns the addresses of those that have no room. The rules that ask the set
// of bans come in the same transaction as its first element, and are looked at
// anew: since h was opened, another program may have deleted those without which
// a ban has no effect.
func (h *Handle) addNets(role Role, f family, added []nftset.Element) (left map[nftset.Interval]bool, err error) {
	compare := compareBans
	err = beside(func(guarded bool) (again bool, err error) {
		if err := h.Refresh(); err != nil {
			return false, err
		}
		set := h.Set(role.of(f, 0))
		if set == nil {
			return false, fmt.Errorf("set %s %s: %w", h.Table, role.of(f, 0), unix.ENOENT)
		}
		have, err := h.read(set)
		if err != nil {
			return contended(err), err
		}
		tx := &nftset.Tx{}
		wanted := replace(have, added)
		if role == RoleAllow {
			wanted, left = admit(f, have, added)
		}
		gone, more := apart(have, wanted, compare)
		if guarded {
			tx.Generation = h.Generation
			tx.Discard(set, gone...)
			tx.Add(set, more...)
		} else { // it fails if somebody has unbanned what is to be split
			tx.Delete(set, gone...)
			tx.CreateSeq(set, slices.Values(more))
		}
		if role == RoleNet {
			asked := h.asked()
			asked[slices.Index(families[:], f)] = true
			h.ask(tx, asked)
		}
		if err := h.c.Commit(tx); err != nil {
			return contended(err), err
		}
		compare = compareIgnoringTime // from now on they have a little less left
		return !guarded && tx.Len() > 0, nil
	})
	return left, err
}

// TidyNets deletes the rules that ask a set of prefixes which is empty, and has
// the kernel take what has expired out of one that is not. By itself it does so
// only when the set changes, and at most once a second. Until then, Linux 6.12
// may find the addresses of a prefix whose time is over in one below it.
//
// A ban that another program adds meanwhile must not lose its rules, so this is
// left undone beside programs that change the ruleset all the time.
func (h *Handle) TidyNets() error {
	err := beside(func(bool) (again bool, err error) {
		err = h.tidyNets()
		return errors.Is(err, nftset.ErrChanged), err
	})
	if errors.Is(err, nftset.ErrChanged) {
		return nil
	}
	return err
}

func (h *Handle) tidyNets() error {
	if err := h.Refresh(); err != nil {
		return err
	}
	tx := &nftset.Tx{Generation: h.Generation}
	asked := h.asked()
	for i, f := range families {
		for _, role := range []Role{RoleNet, RoleAllow} {
			set := h.Set(role.of(f, 0))
			if set == nil || role == RoleNet && !asked[i] {
				continue
			}
			held, err := h.read(set)
			if err != nil {
				return err
			}
			if free, ok := firstFree(f, held); ok && len(held) > 0 {
				tx.Discard(set, nftset.Single(free)) // any change will do
			}
			asked[i] = asked[i] && (role != RoleNet || len(held) > 0)
		}
	}
	h.ask(tx, asked)
	return h.c.Commit(tx)
}

// firstFree returns the lowest address that is in none of the elements of a set.
func firstFree(f family, held []nftset.Element) (nftset.Key, bool) {
	free, ok := nftset.AddrKey(netip.IPv4Unspecified()), true
	if f.is6() {
		free = nftset.AddrKey(netip.IPv6Unspecified())
	}
	for i := 0; ok && i < len(held) && held[i].From == free; i++ {
		free, ok = held[i].To.Next()
	}
	return free, ok
}

// netRule is a rule that asks a set of prefixes, at the head of a chain.
type netRule struct {
	chain string
	to    string // the chain that it leads to
	Rule
}

// netRules ask the set of prefixes of a family. They are there only while it
// holds something: even an empty set of intervals costs every packet 41 to 77
// ns.
func netRules(f family) []netRule {
	leading := func(from, to string) netRule {
		return netRule{from, to, rule(f.whole().in(f.net()), goTo(to))}
	}
	return []netRule{leading(chainEarlyOpening, chainEarlyBanned), leading(chainGuard, chainBanned)}
}

// asked returns which sets of prefixes the table asks, be it by some of their
// rules.
func (s *State) asked() askedNets {
	var asked askedNets
	for i, f := range families {
		for _, r := range netRules(f) {
			asked[i] = asked[i] || len(s.netRule(r)) > 0
		}
	}
	return asked
}

// ask makes the table ask those sets of prefixes, by rules in the order in
// which [Compile] has them.
func (h *Handle) ask(tx *nftset.Tx, asked askedNets) {
	for n, first := range netRules(families[0]) { // one for each chain
		var have []uint64 // handles
		var want []Rule   // in the order in which they are inserted
		for i, f := range families {
			r := netRules(f)[n]
			if have = append(have, h.netRule(r)...); asked[i] {
				want = append(want, r.Rule)
			}
		}
		if h.begins(first.chain, want) && len(have) == len(want) {
			continue
		}
		for _, handle := range have {
			deleteRule(tx, h.Table, first.chain, handle)
		}
		for _, r := range want {
			insertRule(tx, h.Table, first.chain, r)
		}
	}
}

// begins reports whether a chain begins with rules that were inserted one after
// the other.
func (s *State) begins(chain string, inserted []Rule) bool {
	ch, n := s.chain(chain), len(inserted)
	if ch == nil || len(ch.Rules) < n {
		return n == 0
	}
	for i, r := range inserted {
		if !r.sameExprs(ch.Rules[n-1-i]) {
			return false
		}
	}
	return true
}

// netRule finds a rule in the kernel, by the handles of all that are like it.
func (s *State) netRule(want netRule) []uint64 {
	ch := s.chain(want.chain)
	if ch == nil {
		return nil
	}
	var found []uint64
	for i := range ch.Rules {
		if want.sameExprs(ch.Rules[i]) {
			found = append(found, ch.Rules[i].Handle)
		}
	}
	return found
}
