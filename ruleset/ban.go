package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Forever is the duration of a ban that does not expire.
const Forever time.Duration = -1

// WhitelistedError tells that a prefix cannot be banned, because it is whitelisted as a whole.
type WhitelistedError struct {
	Prefix netip.Prefix
	Entry  nftset.Interval // the whitelist's interval around it
}

func (e *WhitelistedError) Error() string {
	return fmt.Sprintf("%s is whitelisted by %s", nftset.FromPrefix(e.Prefix), e.Entry)
}

// CoveredError tells that a prefix lies in one that is banned already, in a set that takes no overlaps.
type CoveredError struct {
	Prefix netip.Prefix
	By     Ban
}

func (e *CoveredError) Error() string {
	return fmt.Sprintf("%s is inside %s, which is banned", nftset.FromPrefix(e.Prefix), e.By.Interval)
}

// Ban bans a prefix for d, or for ever if d is [Forever], and says which ban came of it. What [State.Source] gives for an address
// goes into the first tier, every other prefix, and what is banned for ever, into the sets of prefixes. A ban that is there gets
// the new duration. A prefix takes in the smaller ones within it, and lasts as long as the longest of them. Errors are
// *WhitelistedError, *CoveredError and those of [nftset.Conn.Commit].
func (s *State) Ban(c *nftset.Conn, p netip.Prefix, d time.Duration, comment string) (Ban, error) {
	const attempts = 20
	for attempt := 1; ; attempt++ {
		b, err := s.tryBan(c, p.Masked(), d, comment)
		if errors.Is(err, nftset.ErrChanged) && attempt < attempts {
			continue
		}
		return b, err
	}
}

func (s *State) tryBan(c *nftset.Conn, p netip.Prefix, d time.Duration, comment string) (Ban, error) {
	tx := &nftset.Tx{}
	var err error
	if tx.Generation, err = c.Generation(); err != nil {
		return Ban{}, err
	}
	iv := nftset.FromPrefix(p)
	f := familyOf(iv.From.Type())
	st, err := s.Lookup(c, p.Addr())
	if err != nil {
		return Ban{}, err
	}
	if st.Whitelisted != nil && st.Whitelisted.Covers(iv) {
		return Ban{}, &WhitelistedError{p, *st.Whitelisted}
	}
	if p == s.Source(p.Addr()) && d != Forever {
		set, err := s.need(f.ban(1))
		if err != nil {
			return Ban{}, err
		}
		el := nftset.Element{Interval: nftset.Single(iv.From), Timeout: d, Comment: comment}
		tx.Renew(set, nftset.Each(el))
		return Ban{iv, set.Name, 1, d, d, comment}, c.Commit(tx)
	}
	return s.banPrefix(c, tx, p, d, comment)
}

// banPrefix adds to a set of prefixes, which takes no overlaps.
func (s *State) banPrefix(c *nftset.Conn, tx *nftset.Tx, p netip.Prefix, d time.Duration, comment string) (Ban, error) {
	iv := nftset.FromPrefix(p)
	set, err := s.need(familyOf(iv.From.Type()).net())
	if err != nil {
		return Ban{}, err
	}
	b := Ban{iv, set.Name, 0, max(d, 0), max(d, 0), comment}
	var within []nftset.Element
	for el, err := range c.Elements(set) {
		switch {
		case err != nil:
			return Ban{}, err
		case el.Interval == iv: // gets the new duration
			within = append(within, nftset.Element{Interval: el.Interval})
		case el.Covers(iv):
			return Ban{}, &CoveredError{p, s.ban(set, 0, el)}
		case iv.Covers(el.Interval):
			within = append(within, nftset.Element{Interval: el.Interval})
			if b.Timeout > 0 && (el.Expires == 0 || el.Expires > b.Expires) {
				b.Timeout, b.Expires = el.Expires, el.Expires
			}
		}
	}
	tx.Discard(set, slices.Values(within))
	tx.AddElements(set, nftset.Each(nftset.Element{Interval: iv, Timeout: b.Timeout, Comment: comment}))
	return b, c.Commit(tx)
}

func (s *State) need(name string) (*nftset.Set, error) {
	if set := s.Set(name); set != nil {
		return set, nil
	}
	return nil, fmt.Errorf("there is no set %s %s", s.Table, name)
}
