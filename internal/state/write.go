package state

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// Write replaces the state file, or makes it, with its directory (mode 0700) if need be. Readers see the old file or the new one,
// whole, even if the writer or the host dies; if there is an error, the old one stays. Of several writers, the last one wins.
//
// What is there and is not a sound state of this version and machine is kept aside, under the name that is returned: the state file's
// name followed by ".damaged-", ".version-2-" or ".other-machine-" and the time; the newest three of each kind are kept. A file that
// is none of portmon's is left alone, and the error wraps a [*ForeignError].
//
// The error is an [*Error]. Records that make no sense are left out, and the error tells how many.
func Write(path string, h Header, records iter.Seq[Record]) (aside string, err error) {
	// The file that a link leads to is replaced, not the link.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	aside, err = write(path, h, records)
	if err != nil {
		return aside, newError("write", path, err)
	}
	return aside, nil
}

func write(path string, h Header, records iter.Seq[Record]) (aside string, err error) {
	// Before anything is made beside it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", &ForeignError{"no regular file"}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(path)
	if err != nil {
		return "", err
	}
	defer unlock()
	if aside, err = keepAside(path, h); err != nil {
		return "", err
	}
	if err := removeLeftovers(path); err != nil {
		return aside, err
	}

	// Renameio syncs the file before the rename, but not the directory after it.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return aside, err
	}
	defer f.Cleanup()
	if err := give(f.File); err != nil {
		return aside, err
	}
	enc := newEncoder(f)
	enc.encode(h, records)
	if enc.err != nil {
		return aside, enc.err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return aside, err
	}
	if err := syncDir(dir); err != nil {
		return aside, err
	}
	if enc.fault != nil {
		return aside, fmt.Errorf("%d records left out, the first because of %w", enc.left, enc.fault)
	}
	return aside, nil
}

// Send writes a state to somebody who reads it with [Read]. Records that make no sense are left out.
func Send(w io.Writer, h Header, records iter.Seq[Record]) error {
	enc := newEncoder(w)
	enc.encode(h, records)
	return enc.err
}

// encoder writes lines and keeps the first error.
type encoder struct {
	w     *bufio.Writer
	line  []byte
	crc   uint32
	err   error
	left  int   // records left out
	fault error // and why the first of them was
}

func newEncoder(w io.Writer) *encoder {
	return &encoder{w: bufio.NewWriterSize(w, 64<<10)}
}

func (e *encoder) encode(h Header, records iter.Seq[Record]) {
	e.write(h.append(nil))
	n := 0
	for rec := range records {
		if err := rec.check(); err != nil {
			if e.left++; e.left == 1 {
				e.fault = fmt.Errorf("%s: %w", rec.Prefix, err)
			}
			continue
		}
		n++
		if e.write(rec.append(e.line[:0], h.Saved.Wall)); e.err != nil {
			return
		}
	}
	end := trailer{Records: n, Sum: fmt.Sprintf("%08x", e.crc)}
	e.write(end.append(e.line[:0]))
	e.err = errors.Join(e.err, e.w.Flush())
}

func (e *encoder) write(line []byte) {
	e.line = line
	e.crc = crc32.Update(e.crc, castagnoli, line)
	if e.err == nil {
		_, e.err = e.w.Write(line)
	}
}

// removeLeftovers removes the temporary files of writers that were killed. None is of a living one, as the lock is ours.
func removeLeftovers(path string) error {
	// A dot, the name and a number is how renameio calls them.
	start := "." + filepath.Base(path)
	names, err := siblings(path, start)
	for _, name := range names {
		if number := filepath.Base(name)[len(start):]; number != "" && strings.Trim(number, "0123456789") == "" {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}

// syncDir makes a rename in a directory outlast a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
