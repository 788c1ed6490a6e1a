package watch

import (
	"errors"
	"slices"

	"github.com/portmon/portmon/internal/state"
)

// Once does what [Watcher.Run] does before it is ready, and then is done: what was saved and is missing is put back, offences that
// nobody heard of are counted and the repeat offenders among them taken up the ladder, and the state is saved. Where there is no
// table it does nothing, and reports false.
//
// If a watcher runs, it does all of this itself, and knows more.
func Once(config Config) (bool, error) {
	l, err := deaf(config)
	if err != nil {
		return false, err
	}
	defer l.close()
	s, err := l.readTable()
	if err != nil || !s.Exists {
		return false, err
	}
	empty, err := l.recall()
	if err != nil {
		return false, err
	}
	if !empty { // if it is, then there is nothing in it but what was just put there
		if err := l.resync(); err != nil {
			return false, err
		}
		l.finish()
	}
	return true, l.save()
}

// ForgetBans takes the bans out of a state file, for a table that was removed on purpose. Offences stay.
func ForgetBans(path string) error {
	f, err := state.Open(path)
	if _, foreign := errors.AsType[*state.ForeignError](err); foreign {
		return nil // nobody will put back anything from there
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var recs []state.Record
	for rec := range f.Records() {
		if rec.Offences > 0 {
			recs = append(recs, state.Record{
				Prefix: rec.Prefix, Left: min(rec.Left, 0), Offences: rec.Offences, Age: rec.Age, Proto: rec.Proto, Port: rec.Port,
			})
		}
	}
	if f.Report().Condition == state.Missing {
		return nil
	}
	h := f.Header
	h.Table = 0
	_, err = state.Write(path, h, slices.Values(recs))
	return err
}
