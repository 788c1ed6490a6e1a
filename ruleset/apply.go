package ruleset

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Apply makes the kernel's table that of the Spec in one transaction. If the
// ruleset changes between reading and committing, it reads again. After an
// error nothing has changed, unless it says so. Errors are those of
// [Spec.Validate], [Probe] and [nftset.Conn.Commit], and *ConflictError.
//
// In two cases there are two transactions. Bans that must move to a set of
// prefixes, as Prefix6 changed or subnets are not banned any more, are put
// there by the first and taken from where they were by the second; between
// them, and after an error, they can be in both. And a table that was made
// dormant is woken before it is repaired.
func Apply(c *nftset.Conn, spec Spec) (*Plan, error) {
	p, err := run(c, spec, true)
	if err != nil || p.Empty() || p.Created {
		return p, err
	}
	s, err := Read(c, spec.Table)
	if err != nil {
		return nil, fmt.Errorf("apply table inet %s: %s: %w", spec.Table, unconfirmed, err)
	}
	p.confirm(s)
	return p, nil
}

const unconfirmed = "the changes are made, but cannot be read back"

// Prepare makes the plan that [Apply] would run and has the kernel check it,
// and changes nothing. Errors are those of Apply.
func Prepare(c *nftset.Conn, spec Spec) (*Plan, error) {
	return run(c, spec, false)
}

// run plans and executes until the transaction is committed.
func run(c *nftset.Conn, spec Spec, commit bool) (p *Plan, err error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	const refusedAttempts = 5
	refused := 0
	err = beside(func(guarded bool) (again bool, err error) {
		p, err = attemptOnce(c, spec, commit, guarded)
		switch {
		case refusedRule(err):
			// Once is not always enough: in Linux 5.10 the end of another program's
			// transaction can make the kernel forget that ours is yet to be
			// validated, so that a probe passes that should not.
			refused++
			if lacking := Probe(c); lacking != nil {
				return false, lacking
			}
			return refused < refusedAttempts, err
		case err != nil:
			return contended(err), err
		case guarded || !commit || p.Empty():
			return false, nil
		}
		after, err := prepare(c, spec)
		if err != nil {
			return contended(err), fmt.Errorf("%s: %w", unconfirmed, err)
		}
		return !after.Empty(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("apply table inet %s: %w", spec.Table, err)
	}
	return p, nil
}

// attempts is how often a change is tried when other programs keep changing the
// ruleset.
const attempts = 20

var errBusy = fmt.Errorf("other programs changed the table at each of %d attempts: end them, then try again", attempts)

// beside calls try, which reads the table, plans, and commits, until it reports
// that it need not be called again.
//
// The kernel refuses a guarded transaction if the ruleset has changed since it
// was read. The count includes changes of other tables: a program that updates a
// set of its own 40 times a second would forever be in the way of a plan that
// takes longer to make. So after some attempts the transaction is not guarded
// any more, and what came of it must be compared with what was wanted. A plan
// for a table that is not as it was fails as a whole, or makes of it what another
// plan puts right.
func beside(try func(guarded bool) (again bool, err error)) error {
	const guardedAttempts = 2
	for attempt := 1; ; attempt++ {
		again, err := try(attempt <= guardedAttempts)
		switch {
		case !again || err != nil && attempt == attempts:
			return err
		case attempt == attempts:
			return errBusy
		}
	}
}

// contended reports whether a transaction failed because the table was changed
// after it was read.
func contended(err error) bool {
	return errors.Is(err, nftset.ErrChanged) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist)
}

func attemptOnce(c *nftset.Conn, spec Spec, commit, guarded bool) (*Plan, error) {
	p, err := prepare(c, spec)
	if err != nil {
		return nil, err
	}
	execute := c.Check
	if commit {
		execute = c.Commit
	}
	if !guarded {
		p.ahead.Generation, p.rest.Generation = 0, 0
	}
	if err := execute(&p.ahead); err != nil {
		return nil, err
	}
	return p, execute(&p.rest)
}

// refusedRule reports whether the kernel found fault with a rule, which is how
// a missing feature shows.
func refusedRule(err error) bool {
	var op *nftset.OpError
	return errors.As(err, &op) && op.Op == opAddRule && !errors.Is(err, os.ErrPermission)
}

func prepare(c *nftset.Conn, spec Spec) (*Plan, error) {
	h, err := Open(c, spec.Table)
	if err != nil {
		return nil, err
	}
	contents, err := h.contents(Compile(spec), spec)
	if err != nil {
		return nil, err
	}
	return Diff(spec, h.State, contents)
}

// contents reads the elements that a plan for t depends on.
func (h *Handle) contents(t *Table, spec Spec) (Contents, error) {
	out := Contents{
		Static: make(map[string][]nftset.Interval), Nets: make(map[string][]nftset.Element),
		Steps: make(map[string][]nftset.Element),
	}
	if !h.Exists {
		return out, nil
	}
	if spec.forgets(h.State) {
		var err error
		if out.Staying, err = h.staying(spec.Stays); err != nil {
			return out, err
		}
	}
	changed := h.rekeyed(spec)
	for i := range t.Sets {
		want := &t.Sets[i]
		have := h.Set(want.Name)
		if !want.Static || have == nil || have.Type != want.Type || want.reshaped(have) {
			continue
		}
		ivs, err := h.intervals(have)
		if err != nil {
			return out, err
		}
		out.Static[want.Name] = ivs
		changed = changed || !slices.Equal(ivs, want.Elements)
	}
	if set := h.Set(setOwn6); set != nil && len(spec.Own6) > 0 && set.Type == nftset.IPv6Addr {
		var err error
		if out.Own, err = h.intervals(set); err != nil {
			return out, err
		}
	}
	for _, f := range families {
		if set := h.Set(f.net()); set != nil && set.Type == f.key {
			var err error
			if out.Nets[set.Name], err = h.read(set); err != nil {
				return out, err
			}
		}
		changed = changed || spec.subnetOf(f) == 0 && h.Set(f.subnet()) != nil
	}
	if spec.forgets(h.State) {
		return out, nil
	}
	for _, set := range h.roleSets(RoleStep) {
		last, f := len(spec.BanTime), familyOf(set.Type)
		if _, step := RoleOf(set.Name); step < last || h.steps(f) <= last || h.rekeyed(spec) && f.is6() {
			continue
		}
		var err error
		if out.Steps[set.Name], err = h.read(set); err != nil {
			return out, err
		}
	}
	if !changed {
		return out, nil
	}
	var err error
	out.Bans, err = h.allBans()
	return out, err
}

// read returns the elements of a set, those of a set of intervals in order.
func (h *Handle) read(set *nftset.Set) ([]nftset.Element, error) {
	var out []nftset.Element
	for el, err := range h.c.Elements(set) {
		if err != nil {
			return nil, err
		}
		out = append(out, el)
	}
	return out, nil
}

// intervals reads the keys of a set, sorted.
func (h *Handle) intervals(set *nftset.Set) ([]nftset.Interval, error) {
	var ivs []nftset.Interval
	for el, err := range h.c.Elements(set) {
		if err != nil {
			return nil, err
		}
		ivs = append(ivs, el.Interval)
	}
	if set.Flags&nftset.FlagInterval == 0 {
		slices.SortFunc(ivs, nftset.Interval.Compare)
	}
	return ivs, nil
}

// Remove deletes the table and all its bans. existed is false, and the error
// nil, if there is no table.
func Remove(c *nftset.Conn, name string) (existed bool, err error) {
	tx := &nftset.Tx{}
	tx.DeleteTable(nftset.Table{Family: nftset.FamilyINet, Name: name})
	switch err := c.Commit(tx); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	default:
		return false, err
	}
}
