package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"
)

// File is a state file that is being read.
type File struct {
	// Header is that of the file. If it is lost, then the state is taken as saved when the file was last written, by nobody knows whom.
	Header

	lines  *lines
	file   *os.File // nil if there is none
	report Report
}

// Open opens a state file. That there is none, or an empty one, is no error: the File has no records, and its Report says so. The
// error is an [*Error]; it wraps a [*ForeignError] if the file is none of portmon's, and a [*VersionError] if it is that of a newer
// version. The file is never changed.
func Open(path string) (*File, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, newError("read", path, err)
	}
	f.report.Path = path
	return f, nil
}

// Read reads a state that somebody sends. It must begin with its header.
func Read(r io.Reader) (*File, error) {
	f := &File{lines: newLines(r)}
	first, err := f.lines.next()
	if err == nil {
		err = f.parse(first)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func openFile(path string) (*File, error) {
	// Asked before it is opened: to open a named pipe or a device may block, or do something.
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("a link to nowhere: %w", fs.ErrNotExist)
		}
		return &File{report: Report{Condition: Missing}}, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &ForeignError{"no regular file"}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := newFile(file, info.ModTime())
	if err != nil {
		file.Close()
		return nil, err
	}
	f.file = file
	return f, nil
}

func newFile(r io.ReadSeeker, modified time.Time) (*File, error) {
	f := &File{lines: newLines(r)}
	first, err := f.lines.next()
	if errors.Is(err, io.EOF) {
		return &File{report: Report{Condition: Empty}}, nil
	}
	if err == nil {
		err = f.parse(first)
	}
	switch {
	case err == nil:
		return f, nil
	case !errors.Is(err, errNoHeader) && !errors.Is(err, errLongLine):
		return nil, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if !isOurs(r) {
		return nil, &ForeignError{"not written by portmon"}
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	f.lines = newLines(r)
	f.report.HeaderLost = true
	if f.Saved.Wall = modified; !isDate(modified) {
		f.Saved.Wall = time.Unix(0, 0)
	}
	return f, nil
}

// isOurs reports whether a file whose first line is no header is one of ours nevertheless: torn in that line, zeroed by a loss of
// power, or with a line in it that can be read.
func isOurs(r io.Reader) bool {
	const enough = 1 << 20
	beginning, err := io.ReadAll(io.LimitReader(r, enough))
	if err != nil {
		return false
	}
	if len(bytes.Trim(beginning, "\x00 \t\r\n")) == 0 {
		return true
	}
	if s := string(beginning); strings.HasPrefix(headerStart, s) || strings.HasPrefix(s, headerStart) {
		return true
	}
	for line := range bytes.Lines(beginning) {
		var rec Record
		var end trailer
		if rec.parse(line, time.Unix(0, 0)) == nil || end.parse(line) {
			return true
		}
	}
	return false
}

// Records yields what can be read, the first time it is called. It ends at the first error of reading; Report tells of it, and of all that was left out.
func (f *File) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		if f.lines == nil {
			return
		}
		for {
			line, err := f.lines.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, errLongLine) {
				f.report.Err = err
				break
			}
			f.report.late = f.report.end != nil
			var rec Record
			var end trailer
			switch {
			case err == nil && len(bytes.TrimSpace(line)) == 0:
			case err == nil && rec.parse(line, f.Saved.Wall) == nil:
				f.report.Records++
				if !yield(rec) {
					return
				}
			case err == nil && end.parse(line):
				f.report.end, f.report.altered = &end, !end.fits(f.lines)
			case f.lines.torn:
				f.report.tornLine = f.lines.number
			default:
				f.report.badLine(f.lines.number)
			}
		}
		f.report.finish()
	}
}

// Report tells what was read, once Records has come to its end.
func (f *File) Report() Report {
	f.report.Saved = f.Saved.Wall
	return f.report
}

// Close closes the file.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
