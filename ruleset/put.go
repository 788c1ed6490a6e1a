package ruleset

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Record is what the table is to hold of a source, or of a prefix that is
// banned.
type Record struct {
	// Source is an address, the network by which IPv6 sources are banned, or
	// any other prefix. Its host bits are 0.
	Source netip.Prefix

	// Banned reports that there is a ban: for Timeout in all, of which
	// Remaining is left; 0 and 0 never end.
	Banned             bool
	Timeout, Remaining time.Duration
	// Comment is noted beside the ban.
	Comment string

	// Step is the step of the ladder that the source was banned by last, 0 if
	// none is remembered; StepRemaining is how long it still is to be. Of a
	// ladder that is shorter it is the last one.
	Step          int
	StepRemaining time.Duration

	// Allowed reports that the source is allowed rather than banned, for the time
	// that a ban would have. Comment is the reason then, and Cause is by whom.
	Allowed bool

	// Cause distinguishes bans of subnets and scanners from others.
	Cause Cause
}

// WhitelistedError reports that a prefix cannot be banned, because all of it is
// whitelisted.
type WhitelistedError struct {
	Prefix netip.Prefix
	Entry  nftset.Interval // the whitelist's interval around it
}

func (e *WhitelistedError) Error() string {
	return fmt.Sprintf("%s is whitelisted by %s", nftset.Prefix(e.Prefix).Interval, e.Entry)
}

// SourceError reports that a prefix cannot be banned because no host sends from
// it, or every host does.
type SourceError struct {
	Prefix netip.Prefix
	Reason string // "is a multicast address"
}

func (e *SourceError) Error() string {
	return fmt.Sprintf("%s %s", nftset.Prefix(e.Prefix).Interval, e.Reason)
}

// CheckSource returns a *SourceError for a prefix that cannot be a source.
func CheckSource(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case p.Bits() == 0:
		return &SourceError{p, "is every address of its family"}
	case a.IsMulticast():
		return &SourceError{p, "is a multicast address"}
	case p == netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32):
		return &SourceError{p, "is the broadcast address"}
	}
	return nil
}

// Forever is the duration of a ban that does not end.
const Forever time.Duration = -1

// edit collects what is to become of the sets.
type edit struct {
	h       *Handle
	records []Record
	in      map[string][]int32                   // by set: which records it is to hold by a single key
	nets    map[Role]map[family][]nftset.Element // of the sets of prefixes
	full    map[string]bool                      // sets of what is remembered that have no room
	left    map[nftset.Interval]bool             // allowances that have none
	skipped int                                  // records that a set had no room for
	tx      nftset.Tx                            // of one batch after the other
}

func newEdit(h *Handle, records []Record) *edit {
	return &edit{
		h: h, records: records, in: make(map[string][]int32), full: make(map[string]bool),
		left: make(map[nftset.Interval]bool),
		nets: map[Role]map[family][]nftset.Element{RoleNet: {}, RoleAllow: {}},
	}
}

// Put gives the table what the records say, whether it is there or not: bans
// that last exactly as long, steps, and allowances, of at most [MaxAllowed]
// prefixes of a family. Prefixes may overlap; each address is banned as long as
// the longest ban that there is of it, and allowed likewise. A ban that finds its
// set full goes to the set of prefixes; a step that does is not remembered, as in
// the packet path. Of allowances those of the oldest logins make room for others.
//
// It takes a transaction for each set, more where there are more than
// [nftset.BatchSize] elements. refused has an error for each record that cannot
// be banned, a *WhitelistedError, *AllowedError or *SourceError, or cannot be
// allowed, an *AllowFullError, and nil for the others; it is nil if all can.
// Whether what is put is allowed by another record is not looked at. If the table,
// or one of the sets that are needed, does not exist, err is os.ErrNotExist.
func (h *Handle) Put(records []Record) (refused []error, err error) {
	refused, err = h.check(len(records), func(i int) (netip.Prefix, bool) { return records[i].Source, records[i].Allowed })
	if err != nil {
		return nil, err
	}
	e := newEdit(h, records)
	for i := range records {
		if refused == nil || refused[i] == nil {
			e.put(int32(i))
		}
	}
	err = e.commit()
	for i := range records {
		if r := &records[i]; r.Allowed && e.left[nftset.Prefix(r.Source).Interval] {
			if refused == nil {
				refused = make([]error, len(records))
			}
			refused[i] = &AllowFullError{r.Source, RoleAllow.Set(r.Source.Addr(), 0)}
		}
	}
	return refused, err
}

// Check returns an error for each source that [Handle.Put] would refuse to ban,
// and nil for the others; nil if it would refuse none.
func (h *Handle) Check(sources ...netip.Prefix) (refused []error, err error) {
	return h.check(len(sources), func(i int) (netip.Prefix, bool) { return sources[i], false })
}

// check is Check for n sources, of which some are to be allowed rather than
// banned.
func (h *Handle) check(n int, source func(i int) (p netip.Prefix, allowed bool)) (refused []error, err error) {
	find := h.finder(n)
	for i := range n {
		p, allowed := source(i)
		reason := CheckSource(p)
		if reason == nil && !allowed {
			if reason, err = h.exempt(p, find); err != nil {
				return nil, err
			}
		}
		if reason == nil {
			continue
		}
		if refused == nil {
			refused = make([]error, n)
		}
		refused[i] = reason
	}
	return refused, nil
}

// put notes in which sets a record belongs.
func (e *edit) put(i int32) {
	r := &e.records[i]
	f := familyOfAddr(r.Source.Addr())
	switch {
	case r.Allowed:
		e.nets[RoleAllow][f] = append(e.nets[RoleAllow][f], r.element())
	case r.Banned:
		switch {
		case r.Remaining > 0 && e.h.isKey(r.Source):
			e.add(f.ban(), i)
		case r.Remaining > 0 && r.Cause == CauseSubnet && r.Source.Bits() == f.subnetLen && e.h.Set(f.subnet()) != nil:
			e.add(f.subnet(), i)
		default:
			e.nets[RoleNet][f] = append(e.nets[RoleNet][f], r.element())
		}
	}
	if r.Step > 0 && r.StepRemaining > 0 {
		e.add(f.tier(min(r.Step, e.h.steps(f))), i)
		if r.Cause == CauseScan {
			e.add(f.scanner(), i)
		}
	}
}

// element returns the ban of a record, or the allowance, as the element of a
// prefix.
func (r *Record) element() nftset.Element {
	el := nftset.Prefix(r.Source)
	if el.Comment = r.Comment; r.Allowed {
		el.Comment = allowComment(r.Cause, r.Comment)
	}
	if r.Remaining > 0 {
		el.Timeout, el.Remaining = max(r.Timeout, r.Remaining), r.Remaining
	}
	return el
}

func (e *edit) add(set string, i int32) { e.in[set] = append(e.in[set], i) }

// key returns the key of a record in sets of single keys.
func (e *edit) key(i int32) nftset.Key { return nftset.AddrKey(e.records[i].Source.Addr()) }

// elements yields the elements of some records for a set of a role. There can
// be very many, so they are made as they are sent.
func (e *edit) elements(role Role, records []int32) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, i := range records {
			r := &e.records[i]
			el := nftset.Element{Timeout: r.StepRemaining}
			if role.Bans() || role == RoleFleet {
				el = r.element()
			}
			if el.Interval = nftset.Single(e.key(i)).Interval; !yield(el) {
				return
			}
		}
	}
}

// steps returns how many steps the ladder of the table has, at least 1.
func (s *State) steps(f family) int {
	for step := MaxSteps; step > 1; step-- {
		if s.Set(f.tier(step)) != nil {
			return step
		}
	}
	return 1
}

// isKey reports whether the set of bans can hold a prefix: as the address that
// stands for a network, or as an address that does not stand for one.
func (s *State) isKey(p netip.Prefix) bool {
	network := s.network(p.Addr())
	return p == network || p.IsSingleIP() && network.Addr() != p.Addr()
}

// IsNet reports whether a ban by hand is held by a set of prefixes. timeout is
// 0 if it does not end.
func (s *State) IsNet(source netip.Prefix, timeout time.Duration) bool {
	return timeout == 0 || !s.isKey(source)
}

// commit makes the changes, in an order in which no ban has a gap.
func (e *edit) commit() error {
	if !e.h.Exists {
		return fmt.Errorf("table %s: %w", e.h.Table, unix.ENOENT)
	}
	for name := range e.in {
		// Who scanned is remembered only where scans are offences. The others
		// are in every table, unless it is being made just now.
		if role, _ := RoleOf(name); role != RoleScanner && e.h.Set(name) == nil {
			return fmt.Errorf("set %s %s: %w", e.h.Table, name, unix.ENOENT)
		}
	}
	var errs []error
	for _, set := range e.h.roleSets(allRoles...) {
		if records := e.in[set.Name]; len(records) > 0 {
			errs = append(errs, e.addAll(set, records))
		}
	}
	for _, role := range []Role{RoleNet, RoleAllow} {
		for _, f := range families {
			if len(e.nets[role][f]) > 0 {
				left, err := e.h.addNets(role, f, e.nets[role][f])
				maps.Copy(e.left, left)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// addAll adds records to a set of single keys. Those that are there get the new
// time.
func (e *edit) addAll(set *nftset.Set, records []int32) error {
	for batch := range slices.Chunk(records, nftset.BatchSize) {
		err := halved(batch, isTooLarge, func(part []int32) error { return e.addBatch(set, part, nil) })
		if err != nil {
			return err
		}
	}
	return nil
}

// among returns the keys of records that are in a set.
func (e *edit) among(set *nftset.Set, records []int32) (there map[nftset.Key]bool, err error) {
	there = make(map[nftset.Key]bool)
	keys := func(yield func(nftset.Key) bool) {
		for _, i := range records {
			if !yield(e.key(i)) {
				return
			}
		}
	}
	for el, err := range e.h.c.GetMany(set, keys) {
		if err != nil {
			return nil, err
		}
		there[el.From] = true
	}
	return there, nil
}

// addBatch adds records in one transaction if they fit the set. Bans that do
// not fit go to the set of prefixes, which has no bound of that kind. Of steps,
// as many are remembered as fit.
//
// Most often none of them is there, as is tried first: to renew an element on
// every kernel takes three times as long as to add one. The set is asked which
// are there if that fails; there is nil until then.
func (e *edit) addBatch(set *nftset.Set, batch []int32, there map[nftset.Key]bool) error {
	role, _ := RoleOf(set.Name)
	if there == nil && e.full[set.Name] {
		var err error
		if there, err = e.among(set, batch); err != nil {
			return err
		}
	}
	var old, more []int32
	for _, i := range batch {
		if there[e.key(i)] {
			old = append(old, i)
		} else if !e.full[set.Name] {
			more = append(more, i)
		} else {
			e.skipped++
		}
	}
	if len(old)+len(more) == 0 {
		return nil
	}
	tx := &e.tx
	tx.Reset()
	if there == nil {
		tx.CreateSeq(set, e.elements(role, batch))
	} else {
		tx.Renew(set, slices.Collect(e.elements(role, old))...)
		tx.AddSeq(set, e.elements(role, more))
	}
	err := e.h.c.Commit(tx)
	if there == nil && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENFILE)) {
		if there, err = e.among(set, batch); err != nil {
			return err
		}
		return e.addBatch(set, batch, there)
	}
	switch {
	case errors.Is(err, unix.ENFILE) && role.Bans() && len(more) > 0:
		f := familyOf(set.Type)
		for el := range e.elements(role, more) {
			el.Interval = e.h.addresses(role, el.Interval)
			e.nets[RoleNet][f] = append(e.nets[RoleNet][f], el)
		}
		if err = nil; len(old) > 0 {
			err = e.addBatch(set, old, there)
		}
	case errors.Is(err, unix.ENFILE) && !role.Bans():
		err = e.addWhatFits(set, old, more, there)
	}
	return err
}

// addWhatFits adds records to a set that has no room for all of them, first those
// that need none.
func (e *edit) addWhatFits(set *nftset.Set, old, more []int32, there map[nftset.Key]bool) error {
	first, rest := old, more
	if all := slices.Concat(old, more); len(all) == 1 {
		if len(more) == 1 {
			e.full[set.Name] = true
			e.skipped++
		}
		return nil
	} else if len(old) == 0 || len(more) == 0 {
		first, rest = all[:len(all)/2], all[len(all)/2:]
	}
	if err := e.addBatch(set, first, there); err != nil {
		return err
	}
	return e.addBatch(set, rest, there)
}
