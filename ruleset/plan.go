package ruleset

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// Plan is what makes the kernel's table the wanted one. An empty plan means that
// the kernel holds what is wanted.
type Plan struct {
	Table *Table
	// Created reports that there was no table before.
	Created bool
	// Forgets reports that the table is to drop from now on, and so forgets what
	// it has only observed until now.
	Forgets bool
	// Lifted are the bans that the plan takes back because their source is
	// whitelisted now.
	Lifted []Entry
	// Stuck is what sets keep although another value is wanted, as the kernel
	// does not change it. Of what the plan changes it is known after [Apply].
	Stuck []Stuck

	// ahead is usually empty: what must be committed before the rest.
	ahead, rest nftset.Tx
	changes     []string
	tidies      bool
}

// Stuck is the size or timeout of a set that the kernel did not change when it
// was asked to: Linux 5.10 ignores both of a live set, 6.1 a new size.
type Stuck struct {
	Set, Property string // "ban4", "size"
	Have, Want    string
}

// String returns "ban4 keeps size 65536, not 200000".
func (k Stuck) String() string {
	return fmt.Sprintf("%s keeps %s %s, not %s", k.Set, k.Property, k.Have, k.Want)
}

// change names the change that was wanted.
func (k Stuck) change() string { return k.Property + " of " + k.Set }

// ChangeMode is how a summary names that the table is to observe, or to enforce,
// from now on.
const ChangeMode = "mode"

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.changes) == 0 }

// Current reports whether the kernel's table does what it is to do. It does
// also while rules ask a set of prefixes whose last ban is over: nothing
// deletes them at that moment, and they only cost time. And it does while all
// that it lacks is a network of this host: addresses come and go.
func (p *Plan) Current() bool {
	return p.Empty() || p.tidies || slices.Equal(p.changes, []string{setOwn6})
}

// Summary names what the plan changes, each thing once: "whitelist4", "rules",
// "timeout of ban4".
func (p *Plan) Summary() []string { return slices.Clone(p.changes) }

// Write writes the table as nft can load it whatever is in force: in place of
// what there is, and so without its bans, which the plan keeps. It returns the
// first error of w.
func (p *Plan) Write(w io.Writer) error {
	if !p.Created {
		if _, err := fmt.Fprintf(w, "delete table %s\n", p.Table.Table); err != nil {
			return err
		}
	}
	return p.Table.Write(w)
}

// String returns the summary as a list.
func (p *Plan) String() string { return strings.Join(p.changes, ", ") }

// change notes what is changed, and returns the transaction that does it.
func (p *Plan) change(what string) *nftset.Tx {
	p.note(what)
	return &p.rest
}

// note notes what is changed. It can name a chain of another program.
func (p *Plan) note(what string) {
	what = text.Printable(what)
	if !slices.Contains(p.changes, what) {
		p.changes = append(p.changes, what)
	}
}

// confirm compares the sets that the kernel has after the plan was run with what
// was wanted, and takes back that what is stuck was changed.
func (p *Plan) confirm(s *State) {
	p.Stuck = nil
	for i := range p.Table.Sets {
		if have := s.Set(p.Table.Sets[i].Name); have != nil {
			p.Stuck = append(p.Stuck, p.Table.Sets[i].differing(have)...)
		}
	}
	for _, k := range p.Stuck {
		p.changes = slices.DeleteFunc(p.changes, func(what string) bool { return what == k.change() })
	}
}

// discard deletes elements that may expire before the commit; deleting what is
// not there would fail all of it.
func (p *Plan) discard(what string, from *nftset.Set, keys []nftset.Interval) {
	if len(keys) > 0 {
		p.change(what).Discard(from, slices.Collect(bare(keys))...)
	}
}

// edit gives a set the elements that it must have. Those that are there already
// are left alone, rather than flushed and added again: in a large set that
// takes a twentieth of the time, and up to Linux 6.12 packets may miss what is
// deleted and added again in one transaction, or be taken for what is beside
// it.
func (p *Plan) edit(set *nftset.Set, gone, missing []nftset.Interval) {
	if len(gone)+len(missing) > 0 {
		tx := p.change(set.Name)
		tx.DeleteSeq(set, bare(gone))
		tx.AddSeq(set, bare(missing))
	}
}

// bare yields an element without timeout for each interval.
func bare(ivs []nftset.Interval) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, iv := range ivs {
			if !yield(nftset.Element{Interval: iv}) {
				return
			}
		}
	}
}

// delayTraps keeps the traps of a new table unarmed for a time.
func (p *Plan) delayTraps(d time.Duration) {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		p.change(setStarting).Add(&p.Table.set(setStarting).Set, nftset.Single(nftset.ProtoKey(proto)).For(d))
	}
}
