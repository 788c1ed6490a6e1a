package watch

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// recall puts back what was saved and is missing, and tells the ledger of the offenders, before it sees the bans of the table.
func (l *loop) recall() error {
	if l.config.State == "" {
		return nil
	}
	f, err := state.Open(l.config.State)
	if err != nil {
		l.fault(err)
		return nil // bans go on without memory; what cannot be read is kept aside when the state is saved
	}
	defer f.Close()
	s, err := l.readTable()
	if err != nil {
		return err
	}
	if s.Exists {
		l.core.stands(s.Handle, l.present(s))
	}
	here := state.Here(s.Handle)
	standing, err := l.standing(f.SameTable(here))
	if err != nil {
		return err
	}
	now := state.Clock()
	restored, err := state.Restore(f.Header, f.Records(), l.core.policy(here, standing, l.config.Forget, now), l.core.led)
	if err != nil {
		l.fault(err)
		return nil
	}
	if text := f.Report().String(); text != "" && f.Report().Condition != state.Missing {
		l.fault(errors.New(text))
	}
	if !s.Exists && f.SameNetNS(here) && f.Table != 0 {
		// It was there when the state was saved, and nobody has removed it, or the state would say so.
		l.core.table.state, l.core.table.since = away, now.Mono
	}
	l.core.recalled(restored.Bans, now)
	l.finish() // the reading that follows must find them
	return nil
}

// standing reads the tiers, and returns what tells how long a prefix is still banned. A dump may miss bans. To be sure that one is not
// there, the kernel is asked for it: needed in a table where its absence means that somebody lifted it.
func (l *loop) standing(sure bool) (func(netip.Prefix, int) (time.Duration, bool), error) {
	have := make(map[place]time.Duration)
	for i := range l.sets {
		set := &l.sets[i]
		if !isTier(set.Name) || !l.core.table.sets[set.Name] {
			continue
		}
		for el, err := range l.edit.Elements(set) {
			if err != nil {
				return nil, err
			}
			have[place{set.Name, el.Interval}] = el.Expires
		}
	}
	return func(p netip.Prefix, tier int) (longest time.Duration, ok bool) {
		for t := ruleset.MaxTiers; t >= tier; t-- {
			name := ruleset.BanSet(p.Addr(), t)
			if !l.core.table.sets[name] || t > 0 && p != l.core.source(p.Addr()) {
				continue
			}
			left, is := have[place{name, keyOf(p)}]
			if !is && t > 0 && !sure {
				continue
			}
			if !is {
				el, err := l.edit.Get(l.set(name), nftset.AddrKey(p.Addr()))
				if err != nil || !el.Covers(nftset.FromPrefix(p)) && t == 0 {
					continue
				}
				left = el.Expires
			}
			if left == 0 {
				return 0, true
			}
			longest, ok = max(longest, left), true
		}
		return longest, ok
	}, nil
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
func (l *loop) snapshot() (state.Header, []state.Record) {
	now := state.Clock()
	return state.Header{Saved: now, Origin: state.Here(l.core.table.handle)}, l.core.remember(now)
}

// writer returns what writes the state as it is now.
func (l *loop) writer() func() error {
	path := l.config.State
	header, recs := l.snapshot()
	return func() error {
		_, err := state.Write(path, header, slices.Values(recs))
		return err
	}
}
