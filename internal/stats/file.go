package stats

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
)

// Version is that of the file's format. A change that an older portmon would
// misread raises it.
const Version = 1

const (
	format = "portmon-stats"
	// A file has a line of some 400 bytes for each day and hour, and below them
	// one for each addition since.
	maxSize  = 16 << 20
	maxLine  = 1 << 20
	maxAdded = 64
	// Offences are written within a second, as in the book. The growth of the
	// counters can be read again after a kill.
	urgentEvery, writeEvery = time.Second, time.Minute

	lockSuffix = ".lock"
	badSuffix  = ".bad"
	newSuffix  = ".new"
)

// Path returns the path of the counts that belong to a state file.
func Path(state string) string { return state + ".stats" }

// line is a line of the file: counts that have changed, and the reading of the
// table that they include. The last line about an hour or day is the one that
// counts.
type line struct {
	Format  string            `json:"format,omitempty"`
	Version int               `json:"version,omitempty"`
	Hours   map[Hour]*Count   `json:"hours,omitempty"`
	Days    map[string]*Count `json:"days,omitempty"`
	Names   map[string]string `json:"names,omitempty"` // of networks
	Table   *Table            `json:"table,omitempty"`
}

// store is the file that this process writes its counts to.
type store struct {
	path   string
	folder *folder.Folder
	lock   *os.File
	added  int  // lines, since it was rewritten
	keep   bool // it is damaged, and is kept as .bad when it is rewritten
	redo   bool // it must be rewritten, not appended to

	urgent bool
	last   book.Moment // when it was written
	failed atomic.Bool
}

// Report is what was wrong with a file. All else in it was read.
type Report struct {
	path               string
	badLines, firstBad int
	torn               bool
	lines              int
	ours               bool
	origin             *book.OriginError // it belongs to another machine, and none of it is used
}

// String describes damage that a power cut does not explain; "" if there is
// none.
func (r Report) String() string {
	if r.origin != nil {
		return fmt.Sprintf("statistics %s are begun anew, and kept as %s: %v", r.path, badSuffix, r.origin)
	}
	if r.badLines == 0 {
		return ""
	}
	return fmt.Sprintf("statistics %s are damaged: lines skipped: %d, the first of them line %d", r.path, r.badLines, r.firstBad)
}

// Open makes this process the one that counts for a state file. The error wraps
// [folder.ErrLocked] if another process does so and does not stop in time, or a
// [*folder.RefusedError] or [*book.OriginError].
func Open(state string, here book.Origin, zone *time.Location, now book.Clock, wait time.Duration) (*Stats, Report, error) {
	s, report := New(zone), Report{path: Path(state)}
	f := &store{path: report.path, last: now.Boot}
	fail := func(err error) (*Stats, Report, error) {
		f.close()
		return nil, report, fmt.Errorf("open statistics %s: %w", report.path, err)
	}
	if err := f.open(wait); err != nil {
		return fail(err)
	}
	if err := s.load(f.folder, &report); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	f.redo, f.keep, f.added = report.lines == 0 || report.torn || report.badLines > 0, report.badLines > 0, report.lines-len(s.hours)-len(s.days)
	switch was := s.table.Origin; {
	case was.Machine != "" && here.Machine != "" && was.Machine != here.Machine:
		s, f.redo, f.keep = New(zone), true, true // this machine is a copy of that one
		report.origin = &book.OriginError{What: "machine", Saved: was.Machine, Here: here.Machine}
	case was.SameBoot(here) && was.NetNS != 0 && here.NetNS != 0 && was.NetNS != here.NetNS:
		return fail(&book.OriginError{What: "network namespace", Saved: fmt.Sprint(was.NetNS), Here: fmt.Sprint(here.NetNS)})
	}
	s.store = f
	return s, report, nil
}

// Read reads the counts as they are on disk, whether or not another process is
// counting. Changes stay in memory.
func Read(state string, zone *time.Location) (*Stats, Report, error) {
	s, report := New(zone), Report{path: Path(state)}
	d, err := folder.Open(filepath.Dir(report.path))
	if err == nil {
		defer d.Close()
		err = s.load(d, &report)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, report, fmt.Errorf("read statistics %s: %w", report.path, err)
	}
	return s, report, nil
}

func (s *Stats) load(d *folder.Folder, report *Report) error {
	f, err := d.Open(filepath.Base(report.path), unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxSize {
		return &folder.RefusedError{Reason: "it is too large", Hint: "move it away"}
	}
	return s.read(io.LimitReader(f, info.Size()), report)
}

// read reads lines, and skips those that it cannot read.
func (s *Stats) read(r io.Reader, report *Report) error {
	in := bufio.NewReaderSize(r, maxLine)
	for number := 1; ; number++ {
		text, err := in.ReadSlice('\n')
		if len(text) == 0 && err == io.EOF {
			break
		}
		bad := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return err
		}
		report.lines, report.torn = number, err == io.EOF
		if !bad {
			if bad, err = s.readLine(text, report); err != nil {
				return err
			}
		}
		if bad && !report.torn {
			if report.badLines++; report.badLines == 1 {
				report.firstBad = number
			}
		}
	}
	if report.lines > 0 && !report.ours {
		return &folder.RefusedError{Reason: "it was not written by portmon", Hint: "move it away"}
	}
	return nil
}

func (s *Stats) readLine(text []byte, report *Report) (bad bool, err error) {
	var l line
	if json.Unmarshal(text, &l) != nil {
		return len(bytes.Trim(text, "\x00 \t\r\n")) > 0, nil
	}
	if l.Format == format && l.Version > Version {
		return true, &folder.RefusedError{
			Reason: "it was written by a newer portmon", Hint: "update portmon, or move the file away to begin without it",
		}
	}
	known := l.Format == format
	for h, c := range l.Hours {
		if known = true; c != nil {
			s.hours[h] = c
		}
	}
	for date, c := range l.Days {
		known = true
		if _, err := time.Parse(time.DateOnly, date); err == nil && c != nil {
			s.days[date] = c
		}
	}
	maps.Copy(s.names, l.Names)
	if l.Table != nil {
		s.table = *l.Table
	}
	report.ours = report.ours || known
	return !known, nil
}

// NextWrite returns when Flush is to be called; ok is false if there is nothing
// to write.
func (s *Stats) NextWrite() (at book.Moment, ok bool) {
	f := s.store
	switch {
	case f == nil:
		return 0, false
	case f.failed.Load():
		return f.last.Add(writeEvery), true
	case f.urgent:
		return f.last.Add(urgentEvery), true
	}
	return f.last.Add(writeEvery), len(s.changed) > 0 || f.keep
}

// Flush prepares a write. wait, which must be called, perhaps by another
// goroutine, does it and returns once all is on disk; it is nil if there is
// nothing to write. Until it has returned, counts may be added, but neither
// Flush nor Close may be called.
func (s *Stats) Flush(now book.Clock) (wait func() error) {
	f := s.store
	if f == nil || len(s.changed) == 0 && !f.failed.Load() && !f.keep {
		return nil
	}
	const few = 8 // hours; for more, a line would be long
	f.redo = f.failed.Swap(false) || f.redo || f.added >= maxAdded || len(s.changed) > few
	f.last, f.urgent = now.Boot, false
	var out []byte
	rewrite := f.redo
	if rewrite {
		out = s.encode(now.Wall)
		f.redo, f.added = false, 0
	} else {
		l := line{Table: &s.table, Hours: make(map[Hour]*Count), Names: s.named}
		for h := range s.changed {
			l.Hours[h] = s.hours[h]
		}
		out = appendLine(nil, &l)
		f.added++
	}
	clear(s.changed)
	clear(s.named)
	return func() error {
		err := f.write(out, rewrite)
		if f.failed.Store(err != nil); err != nil {
			err = fmt.Errorf("write statistics %s: %w", f.path, err)
		}
		return err
	}
}

// Postpone says that what Flush has prepared is not written now, but with what
// comes.
func (s *Stats) Postpone() { s.store.failed.Store(true) }

// encode returns the whole file.
func (s *Stats) encode(now time.Time) []byte {
	s.fold(now)
	used := make(map[string]string)
	l := line{Format: format, Version: Version, Table: &s.table, Names: used}
	for _, c := range s.hours {
		s.nameNetworks(used, c)
	}
	for _, c := range s.days {
		s.nameNetworks(used, c)
	}
	s.names = used
	out := appendLine(nil, &l)
	for _, date := range slices.Sorted(maps.Keys(s.days)) {
		out = appendLine(out, &line{Days: map[string]*Count{date: s.days[date]}})
	}
	for _, h := range slices.Sorted(maps.Keys(s.hours)) {
		out = appendLine(out, &line{Hours: map[Hour]*Count{h: s.hours[h]}})
	}
	return out
}

// nameNetworks adds the names of the networks that occur in a count.
func (s *Stats) nameNetworks(to map[string]string, c *Count) {
	for network := range c.Networks {
		if name := s.names[network]; name != "" {
			to[network] = name
		}
	}
}

func appendLine(b []byte, l *line) []byte {
	text, err := json.Marshal(l)
	if err != nil {
		panic("a line of counts can be written: " + err.Error())
	}
	return append(append(b, text...), '\n')
}

// Close releases the lock without writing. What is added afterwards stays in
// memory.
func (s *Stats) Close() {
	if s.store != nil {
		s.store.close()
		s.store = nil
	}
}

func (f *store) name() string { return filepath.Base(f.path) }

func (f *store) open(wait time.Duration) (err error) {
	if f.folder, err = folder.Make(filepath.Dir(f.path)); err == nil {
		f.lock, err = f.folder.Lock(f.name()+lockSuffix, wait)
	}
	return err
}

func (f *store) close() {
	f.lock.Close() // an error if it is nil
	if f.folder != nil {
		f.folder.Close()
	}
}

func (f *store) write(out []byte, rewrite bool) error {
	if info, err := f.lock.Stat(); err != nil || !f.folder.InPlace(f.name()+lockSuffix, info) {
		// The folder was removed, or replaced.
		f.close()
		if err := f.open(0); err != nil {
			return err
		}
		f.keep = false
		if !rewrite {
			return fmt.Errorf("it was moved: %w", fs.ErrNotExist) // next time, all of it is written
		}
	}
	switch {
	case !rewrite:
		return f.append(out)
	case !f.keep:
		return f.folder.WriteFile(f.name(), out)
	}
	temp, bad := f.name()+newSuffix, f.name()+badSuffix
	if err := f.folder.WriteFile(temp, out); err != nil {
		return err
	}
	if err := f.folder.Remove(bad); err != nil {
		return err
	}
	f.keep = false
	return f.folder.Replace(temp, f.name(), bad)
}

func (f *store) append(out []byte) error {
	file, err := f.folder.Open(f.name(), unix.O_WRONLY|unix.O_APPEND)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if _, err := file.Write(out); err != nil {
		return errors.Join(err, file.Truncate(info.Size())) // or half a line would stay
	}
	return unix.Fdatasync(int(file.Fd()))
}
