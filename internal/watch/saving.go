package watch

import (
	"errors"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// recall puts back what was saved and is missing, and tells the ledger of the offenders, before it sees the bans of the table. It
// reports whether the table was without a ban before that.
func (l *loop) recall() (empty bool, err error) {
	if l.config.State == "" {
		return false, nil
	}
	const attempts = 5
	for range attempts {
		var same bool
		if empty, same, err = l.tryRecall(); same || err != nil {
			return empty, err
		}
		// The table has changed hands meanwhile: bans that were not found may have gone with it, rather than been lifted.
		l.core = newCore(l.config.Spec, l.config.Forget, l.edit.PortID())
	}
	return false, errors.New("the table does not stay long enough to be read")
}

// tryRecall reports also whether the table was the same one from the beginning to the end.
func (l *loop) tryRecall() (empty, same bool, err error) {
	f, err := state.Open(l.config.State)
	if err != nil {
		l.fault(err)
		return false, true, nil // bans go on without memory; what cannot be read is kept aside when the state is saved
	}
	defer f.Close()
	s, err := l.readTable()
	if err != nil {
		return false, false, err
	}
	if s.Exists {
		l.core.stands(s.Handle, l.present(s))
	}
	here := state.Here(s.Handle)
	bans, err := l.bans()
	if err != nil {
		return false, false, err
	}
	now := state.Clock()
	standing := func(p netip.Prefix, tier int) (time.Duration, bool) {
		return l.standing(bans, p, tier, f.SameTable(here))
	}
	policy := l.core.policy(here, standing, l.config.Forget, now)
	policy.Kept = func(b state.Ban) { l.core.kept(b, bans, now) }
	restored, err := state.Restore(f.Header, f.Records(), policy, l.core.led)
	if err != nil {
		l.fault(err)
		return false, true, nil
	}
	after, err := l.readTable()
	if err != nil || after.Handle != s.Handle {
		return false, false, err
	}
	if text := f.Report().String(); text != "" && f.Report().Condition != state.Missing {
		l.fault(errors.New(text))
	}
	if !s.Exists && f.SameNetNS(here) && f.Table != 0 {
		// It was there when the state was saved, and nobody has removed it, or the state would say so.
		l.core.table.state, l.core.table.since = away, now.Mono
	}
	if len(bans) == 0 {
		for set := range l.core.table.sets {
			l.core.fresh[set] = isTier(set)
		}
	}
	l.core.recalled(restored.Bans, now)
	l.finish() // the reading that follows must find them
	return len(bans) == 0 && s.Exists && f.Report().Condition != state.Missing, true, nil
}

// bans reads the tiers. The bans end as if the clock had stood at 0 when they were read, and those that end at 0 are for ever.
func (l *loop) bans() (mirror, error) {
	have := make(mirror)
	for i := range l.sets {
		set := &l.sets[i]
		if !isTier(set.Name) || !l.core.table.sets[set.Name] {
			continue
		}
		for el, err := range l.edit.Elements(set) {
			if err != nil {
				if err = ignoreAbsent(err); err != nil {
					return nil, err
				}
				break
			}
			have.put(set.Name, el.Interval, held{until: ledger.Instant(el.Expires)})
		}
	}
	return have, nil
}

// standing returns how long a prefix is still banned, in the set of a tier or of a higher one. A dump may miss bans. To be sure that one
// is not there, the kernel is asked for it: needed in a table where its absence means that somebody lifted it.
func (l *loop) standing(bans mirror, p netip.Prefix, tier int, sure bool) (longest time.Duration, ok bool) {
	own := p == l.core.source(p.Addr()) // or else no tier has it
	for t := ruleset.MaxSteps; own && t >= max(tier, 1); t-- {
		b, is := bans.get(ruleset.BanSet(p.Addr(), t), keyOf(p))
		if is && b.until == 0 {
			return 0, true
		}
		longest, ok = max(longest, time.Duration(b.until)), ok || is
	}
	if ok {
		return longest, true
	}
	for t := ruleset.MaxSteps; t >= tier; t-- {
		name := ruleset.BanSet(p.Addr(), t)
		if !l.core.table.sets[name] || t > 0 && !(own && sure) {
			continue
		}
		el, err := l.edit.Get(l.set(name), nftset.AddrKey(p.Addr()))
		if err != nil || t == 0 && !el.Covers(nftset.FromPrefix(p)) {
			continue
		}
		if el.Expires == 0 {
			return 0, true
		}
		longest, ok = max(longest, el.Expires), true
	}
	return longest, ok
}

// save writes the state.
func (l *loop) save() error {
	if l.config.State == "" {
		return nil
	}
	return l.counted(l.writer()())
}

// saveSoon writes the state while the watch goes on; if that is being done already, then afterwards.
func (l *loop) saveSoon() {
	switch {
	case l.config.State == "":
		return
	case l.saved != nil:
		l.again = true
		return
	}
	write := l.writer()
	saved := make(chan error, 1)
	l.saved, l.again = saved, false
	go func() { saved <- write() }()
}

// settle returns when no saving is under way.
func (l *loop) settle() {
	l.again = false
	if l.saved != nil {
		l.noteSaved(<-l.saved)
	}
}

// noteSaved takes in the outcome of saveSoon.
func (l *loop) noteSaved(err error) {
	l.saved = nil
	if l.counted(err) != nil {
		l.fault(err)
	}
	if l.again {
		l.saveSoon()
	}
}

// counted counts a saving, and returns its error.
func (l *loop) counted(err error) error {
	if err != nil {
		l.failures++
	} else {
		l.saves++
	}
	return err
}

// snapshot returns the state as it is now.
func (l *loop) snapshot() (state.Header, *snapshot) {
	now := state.Clock()
	return state.Header{Saved: now, Origin: state.Here(l.core.table.handle)}, l.core.remember(now)
}

// writer returns what writes the state as it is now.
func (l *loop) writer() func() error {
	path := l.config.State
	header, snapshot := l.snapshot()
	return func() error {
		_, err := state.Write(path, header, snapshot.records())
		snapshot = nil
		l.freed()
		return err
	}
}
