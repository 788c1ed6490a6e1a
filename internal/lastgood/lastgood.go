// Package lastgood keeps, in the folder of the book, which configuration was
// applied last: the last good one. A boot with a faulty file goes back to it,
// and so does a trial that is not confirmed, which is kept there as well.
package lastgood

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/ruleset"
)

const (
	goodFile  = "applied.json"
	trialFile = "trial.json"
	lockFile  = "apply.lock"
	// maxSize bounds a file, in bytes: a whitelist of a million entries and
	// more.
	maxSize = 64 << 20
)

const (
	// Grace is how long who ends a trial may take for it.
	Grace = 10 * time.Second
	// MaxTrial is the longest trial. A file that says more is not ours.
	MaxTrial = time.Hour
)

// Config is a configuration that was applied.
type Config struct {
	// Spec is the table as the file says it, in the mode in which it was applied,
	// without what only the host knows.
	Spec ruleset.Spec `json:"spec"`
	// Names are those whose addresses the watcher has allowed, as in the
	// configuration.
	Names []string `json:"names,omitempty"`
	// Trial is the ID of the trial in which somebody has confirmed it; empty if
	// it was applied without one.
	Trial string `json:"trial,omitempty"`
	// At is when it was applied, and File where it came from; empty if it is
	// the built-in default.
	At   time.Time `json:"at"`
	File string    `json:"file,omitempty"`
}

// UnmarshalJSON reads what this or another version wrote: what that did not
// know is as in [ruleset.Default]. The file may be the work of another user, so
// whose table it is, it does not say.
func (c *Config) UnmarshalJSON(data []byte) error {
	type plain Config
	read := plain{Spec: ruleset.Default()}
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	read.Spec.Table = ruleset.Default().Table
	if err := read.Spec.Validate(); err != nil {
		return err
	}
	for i, name := range read.Names {
		if i >= names.MaxNames || !names.Valid(name) || i > 0 && name <= read.Names[i-1] {
			return fmt.Errorf("names: want up to %d names of hosts, in order: entry %d is %.300q", names.MaxNames, i, name)
		}
	}
	*c = Config(read)
	return nil
}

// Says reports whether a configuration says of the table, and of names, what
// another one does, in whatever mode it was applied.
func (c *Config) Says(spec *ruleset.Spec, hosts []string) bool {
	ours, theirs := c.Spec, *spec
	ours.Observe, ours.KeepObserved, theirs.Observe, theirs.KeepObserved = false, false, false, false
	a, errA := json.Marshal(&ours)
	b, errB := json.Marshal(&theirs)
	return errA == nil && errB == nil && bytes.Equal(a, b) && slices.Equal(c.Names, hosts)
}

// Trial is a configuration that was applied, and is to be taken back unless it
// is confirmed. A trial that has failed is kept, so that nothing applies its
// configuration by itself, until one is applied that counts.
type Trial struct {
	// ID tells it from others.
	ID string `json:"id"`
	// Boot is the boot that it is in, Until is when it ends, and End the same by
	// the wall clock, for people.
	Boot  string      `json:"boot_id"`
	Until book.Moment `json:"until"`
	End   time.Time   `json:"end"`
	// Failed is when it was taken back; zero if it was not yet.
	Failed time.Time `json:"failed,omitzero"`
	// Config is what is tried.
	Config Config `json:"config"`
}

// NewTrial returns a trial that begins now.
func NewTrial(c *Config, length time.Duration) *Trial {
	now := book.ReadClock()
	t := &Trial{
		ID: rand.Text(), Boot: book.Here(0).Boot, Until: now.Boot.Add(length),
		End: now.Wall.Add(length).UTC().Truncate(time.Second), Config: *c,
	}
	t.Config.Trial = t.ID
	return t
}

// Left returns how long a trial goes on, which is not negative while there may
// be somebody who ends it; ok is false once it is over.
func (t *Trial) Left() (left time.Duration, ok bool) {
	if t == nil || !t.Failed.IsZero() || t.Boot != book.Here(0).Boot {
		return 0, false
	}
	if left = t.Until.Sub(book.ReadClock().Boot); left > MaxTrial {
		return 0, false
	}
	return max(left, 0), left > -Grace
}

// Store is the folder, held by one process at a time.
type Store struct {
	folder *folder.Folder
	lock   *os.File
}

// Open locks the folder of a state file, and makes it if it is missing. The
// error wraps [folder.ErrLocked] if another process has not let go in time.
func Open(state string, wait time.Duration) (*Store, error) {
	if state == "" {
		return nil, errors.New("where it is kept is not known")
	}
	path := filepath.Dir(state)
	d, err := folder.Make(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	lock, err := d.Lock(lockFile, wait)
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", filepath.Join(path, lockFile), err)
	}
	return &Store{d, lock}, nil
}

// Close lets go of the folder.
func (s *Store) Close() {
	s.lock.Close()
	s.folder.Close()
}

// Confirm makes a configuration the last good one, and ends the trial, if there
// is one. A trial whose configuration could not be kept goes on.
func (s *Store) Confirm(c *Config) error {
	if err := s.write(goodFile, c); err != nil {
		return err
	}
	return s.folder.Remove(trialFile)
}

// SetTrial begins a trial, or notes that it has failed.
func (s *Store) SetTrial(t *Trial) error { return s.write(trialFile, t) }

func (s *Store) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = s.folder.WriteFile(name, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Good returns the last good configuration from the folder of a state file; nil
// if there is none.
func Good(state string) (*Config, error) { return folder.ReadBeside[Config](state, goodFile, maxSize) }

// TrialFile returns the path of the file that [ReadTrial] reads.
func TrialFile(state string) string { return filepath.Join(filepath.Dir(state), trialFile) }

// ReadTrial returns the trial that goes on, or that has failed, from the folder
// of a state file; nil if there is none.
func ReadTrial(state string) (*Trial, error) {
	return folder.ReadBeside[Trial](state, trialFile, maxSize)
}
