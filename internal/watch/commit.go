package watch

import (
	"errors"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
)

// commit adds elements to their sets, in one transaction for each set, or a few if they are many.
func (l *loop) commit(edits map[string]map[nftset.Interval]held, fresh map[string]bool) {
	for name, bans := range edits {
		if l.core.table.state == standing {
			// To renew is three operations for each element, and to add is one. What the packet path has banned in a fresh set since then
			// stays as it is.
			add := l.edit.Renew
			if fresh[name] {
				add = l.edit.Add
			}
			var all []ban
			for iv, h := range bans {
				all = append(all, ban{iv, h})
			}
			if err := l.add(add, l.set(name), all); err != nil {
				l.fault(err)
			}
		}
	}
}

// ban is one element of a set.
type ban struct {
	key  nftset.Interval
	held held
}

// add adds elements to a set. Where one cannot be added, the others are all the same.
func (l *loop) add(add func(*nftset.Set, iter.Seq[nftset.Element]) error, set *nftset.Set, els []ban) error {
	err := add(set, elements(els, func() ledger.Instant { return state.Clock().Mono }))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return nil // the set is gone; what it is to hold is remembered, and put into it when it is back
	case len(els) > 1:
		half := len(els) / 2
		first, second := l.add(add, set, els[:half]), l.add(add, set, els[half:])
		if first != nil {
			return first // one error tells enough: a set that is full refuses thousands
		}
		return second
	}
	l.core.mir.drop(set.Name, els[0].key) // it is not there, and nobody has lifted it
	if errors.Is(err, unix.EEXIST) {
		return nil // somebody banned a prefix that overlaps it
	}
	return err
}
