package watch

import (
	"errors"
	"os"
	"slices"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// resync reads what the table holds, and compares it with what was known.
func (l *loop) resync() error {
	s, err := l.readTable()
	if err != nil {
		return err
	}
	if !s.Exists {
		l.core.vanished("", state.Clock())
		return nil
	}
	sets := l.present(s)
	first := l.core.round == 0
	reborn := l.core.stands(s.Handle, sets)
	l.core.beginDump()
	for i := range l.sets {
		set := &l.sets[i]
		if !sets[set.Name] {
			continue
		}
		if err := l.dump(set, first, reborn[set.Name]); err != nil {
			return err
		}
	}
	for set := range reborn {
		l.core.restore(set, state.Clock())
	}
	if len(reborn) > 0 {
		l.core.inherit(state.Clock())
	}
	if l.core.dumpEnd, err = l.edit.Generation(); err != nil {
		return err
	}
	l.core.stats.Resyncs++
	return l.resolve(l.core.doubts(state.Clock()))
}

// present returns the sets of bans that there are.
func (l *loop) present(s *ruleset.State) map[string]bool {
	sets := make(map[string]bool)
	for _, set := range l.sets {
		if s.Set(set.Name) != nil {
			sets[set.Name] = true
		}
	}
	return sets
}

func (l *loop) dump(set *nftset.Set, first, reborn bool) error {
	if isTier(set.Name) || reborn {
		for el, err := range l.edit.Elements(set) {
			if err != nil {
				return ignoreAbsent(err)
			}
			l.core.dumped(set.Name, el, state.Clock())
		}
		return nil
	}
	return l.read(set, first)
}

// ignoreAbsent makes no error of a set that is gone: events will say so, or have.
func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// read reads a set of intervals as a whole.
func (l *loop) read(set *nftset.Set, first bool) error {
	var els []nftset.Element
	for el, err := range l.edit.Elements(set) {
		if err != nil {
			return ignoreAbsent(err)
		}
		els = append(els, el)
	}
	l.core.read(set.Name, els, first, state.Clock())
	return nil
}

// resolve asks for bans that a dump did not show.
func (l *loop) resolve(doubts []place) error {
	for _, p := range doubts {
		el, err := l.edit.Get(l.set(p.set), p.key.From)
		switch {
		case err == nil:
			l.core.dumped(p.set, el, state.Clock())
		case errors.Is(err, os.ErrNotExist):
			l.core.absent(p, state.Clock())
		default:
			return err
		}
	}
	return nil
}

// reread reads the sets of intervals that others have edited, and learns the number of a table that is new.
func (l *loop) reread() error {
	t := &l.core.table
	if t.state != standing {
		l.core.ask = nil
		return nil
	}
	ask := l.core.ask
	l.core.ask = nil
	if err := l.resolve(ask); err != nil {
		return err
	}
	for i := range l.sets {
		if set := &l.sets[i]; l.core.reread[set.Name] && t.sets[set.Name] {
			if err := l.read(set, false); err != nil {
				return err
			}
		}
	}
	if t.handle == 0 {
		s, err := l.readTable()
		if err != nil {
			return err
		}
		t.handle = s.Handle
	}
	return nil
}

// reapply makes the table, since nobody else does. That it is there is heard as if somebody else had made it.
func (l *loop) reapply() error {
	_, err := ruleset.Apply(l.edit, l.config.Spec)
	return err
}

func (l *loop) set(name string) *nftset.Set {
	i := slices.IndexFunc(l.sets, func(s nftset.Set) bool { return s.Name == name })
	return &l.sets[i]
}

func (l *loop) readTable() (*ruleset.State, error) { return ruleset.Read(l.edit, l.config.Spec.Table) }
