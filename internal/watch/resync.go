package watch

import (
	"errors"
	"os"
	"slices"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// reading is what was read of the sets. What it shows is there, or was. What it does not show is of meaning only if the table was the
// same one from the beginning to the end: else it went with the table, and nobody has lifted it.
type reading struct {
	handle    uint64
	sets      map[string]bool // that there are
	reborn    map[string]bool // those of them that are others than before
	intervals map[string][]nftset.Element
	absent    []place
	first     bool
}

// resync reads what the table holds, and compares it with what was known.
func (l *loop) resync() error {
	r, err := l.look()
	if r == nil || err != nil {
		return err
	}
	if err := l.gather(r); err != nil {
		return err
	}
	l.core.stats.Resyncs++
	return l.conclude(r)
}

// look begins a reading. It returns nil if there is no table.
func (l *loop) look() (*reading, error) {
	s, err := l.readTable()
	if err != nil {
		return nil, err
	}
	if !s.Exists {
		l.core.vanished("", state.Clock())
		return nil, nil
	}
	r := &reading{handle: s.Handle, sets: l.present(s), first: l.core.round == 0}
	r.reborn = l.core.stands(s.Handle, r.sets)
	return r, nil
}

// gather reads all sets, and asks for what they should have shown. What they show is taken in at once.
func (l *loop) gather(r *reading) (err error) {
	l.core.beginDump()
	for i := range l.sets {
		set := &l.sets[i]
		switch {
		case !r.sets[set.Name]:
		case isTier(set.Name) || r.reborn[set.Name]:
			err = l.dump(set)
		default:
			err = l.readIntervals(r, set)
		}
		if err != nil {
			return err
		}
	}
	for set := range r.reborn {
		l.core.restore(set, state.Clock())
	}
	if len(r.reborn) > 0 {
		l.core.inherit(state.Clock())
	}
	if l.core.dumpEnd, err = l.edit.Generation(); err != nil {
		return err
	}
	return l.resolve(r, l.core.doubts(state.Clock()))
}

// conclude takes in what the sets did not show, unless it means nothing; then they are read again.
func (l *loop) conclude(r *reading) error {
	s, err := l.readTable()
	if err != nil {
		return err
	}
	if !s.Exists || s.Handle != r.handle {
		l.resyncSoon()
		return nil
	}
	now, sets := state.Clock(), l.present(s)
	for set, els := range r.intervals {
		if sets[set] {
			l.core.read(set, els, r.first, now)
		}
	}
	for _, p := range r.absent {
		if sets[p.set] {
			l.core.absent(p, now)
		}
	}
	return nil
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

func (l *loop) dump(set *nftset.Set) error {
	for el, err := range l.edit.Elements(set) {
		if err != nil {
			return ignoreAbsent(err)
		}
		l.core.dumped(set.Name, el, state.Clock())
		// Of tens of thousands of bans, the news would take more memory than the bans.
		if news := l.core.news; len(news) >= manyNews {
			l.tell(news)
			l.core.news = news[:0]
		}
	}
	return nil
}

// manyNews are enough to be told before a reading is at its end.
const manyNews = 1000

// ignoreAbsent makes no error of a set that is gone: events will say so, or have.
func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// readIntervals reads a set of intervals as a whole.
func (l *loop) readIntervals(r *reading, set *nftset.Set) error {
	els := []nftset.Element{}
	for el, err := range l.edit.Elements(set) {
		if err != nil {
			return ignoreAbsent(err)
		}
		els = append(els, el)
	}
	if r.intervals == nil {
		r.intervals = make(map[string][]nftset.Element)
	}
	r.intervals[set.Name] = els
	return nil
}

// resolve asks for bans that a dump did not show.
func (l *loop) resolve(r *reading, doubts []place) error {
	for _, p := range doubts {
		el, err := l.edit.Get(l.set(p.set), p.key.From)
		switch {
		case err == nil:
			l.core.dumped(p.set, el, state.Clock())
		case errors.Is(err, os.ErrNotExist):
			r.absent = append(r.absent, p)
		default:
			return err
		}
	}
	return nil
}

// reread reads the sets of intervals that others have edited, asks for what it is not sure of, and learns the number of a table that
// is new.
func (l *loop) reread() error {
	t := &l.core.table
	ask := l.core.ask
	l.core.ask = nil
	if t.state != standing || !t.unsure && t.handle != 0 && len(ask) == 0 && len(l.core.reread) == 0 {
		return nil
	}
	s, err := l.readTable()
	if err != nil {
		return err
	}
	if !s.Exists {
		return nil // the event is on its way, and tells whose work that was
	}
	if t.handle != 0 && t.handle != s.Handle {
		l.resyncSoon()
		return nil
	}
	t.handle, t.unsure = s.Handle, false
	r := &reading{handle: s.Handle, sets: l.present(s)}
	for i := range l.sets {
		if set := &l.sets[i]; l.core.reread[set.Name] && r.sets[set.Name] {
			if err := l.readIntervals(r, set); err != nil {
				return err
			}
		}
	}
	clear(l.core.reread)
	if err := l.resolve(r, ask); err != nil {
		l.core.ask = ask
		return err
	}
	if len(r.intervals) == 0 && len(r.absent) == 0 {
		return nil
	}
	return l.conclude(r)
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
