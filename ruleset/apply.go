package ruleset

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Result is what became of an [Apply].
type Result struct {
	*Plan
	// Features are the optional features that the running kernel supports.
	Features Features

	guarded bool // the transaction was to fail if the ruleset had changed
}

// Apply makes the kernel's table that of the Spec in one transaction. If the
// ruleset changes between reading and committing, it reads again. After an
// error nothing has changed. Errors are those of [Spec.Validate], [Probe] and
// [nftset.Conn.Commit], and *ConflictError.
//
// In two cases there are two transactions. Bans that must move to a set of
// prefixes, as Prefix6 changed or subnets are not banned any more, are put
// there by the first and taken from where they were by the second; between
// them, and after an error, they can be in both. And a table that was made
// dormant is woken before it is repaired.
func Apply(c *nftset.Conn, spec Spec) (Result, error) {
	return run(c, spec, c.Commit, func(r *Result) (done bool, err error) {
		if r.Empty() || r.Created && r.guarded {
			return true, nil
		}
		after, err := prepare(c, spec, r.Features)
		if err != nil {
			return false, fmt.Errorf("it is done, but look at it again: %w", err)
		}
		r.Stuck = after.Stuck
		return r.guarded || after.Empty(), nil
	})
}

// Prepare makes the plan that [Apply] would run and has the kernel check it,
// and changes nothing. Errors are those of Apply.
func Prepare(c *nftset.Conn, spec Spec) (Result, error) {
	return run(c, spec, c.Check, func(*Result) (bool, error) { return true, nil })
}

// run plans and executes until verify says that it is done.
//
// The kernel refuses a transaction if the ruleset has changed since it was
// read. The count includes changes of other tables: a program that updates a
// set of its own 40 times a second would forever be in the way of a plan that
// takes longer to make. So after some attempts the transaction is not guarded
// any more, and what came of it is compared with what was wanted. A plan for a
// table that is not as it was fails as a whole, or makes of it what another
// plan puts right.
func run(
	c *nftset.Conn, spec Spec, execute func(*nftset.Tx) error, verify func(*Result) (bool, error),
) (Result, error) {
	if err := spec.Validate(); err != nil {
		return Result{}, err
	}
	const guardedAttempts = 2
	probes := 0
	r := Result{Features: allFeatures}
	for attempt := 1; ; attempt++ {
		r.guarded = attempt <= guardedAttempts
		done, err := false, r.attempt(c, spec, execute)
		if err == nil {
			done, err = verify(&r)
		}
		switch {
		case err == nil && (done || attempt == attempts):
			return r, nil
		case err == nil:
			continue
		case errors.Is(err, nftset.ErrChanged) && attempt < attempts:
			continue
		case (errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist)) && !refusedRule(err) && attempt < attempts:
			continue // the table was changed while it was read
		case refusedRule(err) && r.Features == allFeatures && probes < 5:
			// Once is not always enough: in Linux 5.10 the end of another
			// program's transaction can make the kernel forget that ours is yet
			// to be validated, so that a probe passes that should not.
			f, perr := Probe(c)
			if perr == nil {
				probes++
				r.Features = f
				continue
			}
			err = perr
		}
		return Result{}, fmt.Errorf("apply table inet %s: %w", spec.Table, err)
	}
}

func (r *Result) attempt(c *nftset.Conn, spec Spec, execute func(*nftset.Tx) error) error {
	var err error
	if r.Plan, err = prepare(c, spec, r.Features); err != nil {
		return err
	}
	ahead, rest, err := r.transactions()
	if err != nil {
		return err
	}
	if !r.guarded {
		ahead.Generation, rest.Generation = 0, 0
	}
	if err := execute(ahead); err != nil {
		return err
	}
	return execute(rest)
}

// refusedRule reports whether the kernel found fault with a rule, which is how
// a missing feature shows.
func refusedRule(err error) bool {
	var op *nftset.OpError
	return errors.As(err, &op) && op.Op == opAddRule && !errors.Is(err, os.ErrPermission)
}

func prepare(c *nftset.Conn, spec Spec, f Features) (*Plan, error) {
	h, err := Open(c, spec.Table)
	if err != nil {
		return nil, err
	}
	contents, err := h.contents(Compile(spec, f, Asked{}), spec)
	if err != nil {
		return nil, err
	}
	return Diff(spec, f, h.State, contents)
}

// contents reads the elements that a plan for t depends on.
func (h *Handle) contents(t *Table, spec Spec) (Contents, error) {
	out := Contents{Static: make(map[string][]nftset.Interval), Nets: make(map[string][]span)}
	if !h.Exists {
		return out, nil
	}
	changed := h.rekeyed(spec)
	for i := range t.Sets {
		want := &t.Sets[i]
		have := h.Set(want.Name)
		if !want.Static || have == nil || have.Type != want.Type || have.Flags != want.Flags {
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
			if out.Nets[set.Name], err = h.spans(set); err != nil {
				return out, err
			}
		}
		changed = changed || spec.subnetOf(f) == 0 && h.Set(f.subnet()) != nil
	}
	for _, set := range h.roleSets(RoleStep) {
		if !h.movesSteps(spec, set) {
			continue
		}
		for el, err := range h.c.Elements(set) {
			if err != nil {
				return out, err
			}
			if e, ok := h.Entry(set.Name, el); ok {
				out.Steps = append(out.Steps, e)
			}
		}
	}
	if !changed {
		return out, nil
	}
	var err error
	out.Bans, err = h.allBans()
	return out, err
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
