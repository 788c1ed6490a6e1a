package book

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Amend changes some rows of a book that has no owner at the moment. What is
// said of the sources in learn is merged into their rows as [Book.Learn] does
// it, and those in free are forgotten; of a prefix, that very row alone.
//
// The changes are appended without reading what is there, which takes a few
// milliseconds however large the file is, unless it needs to be rewritten. The
// error may wrap an [*OriginError]; nothing is changed then.
func Amend(c Config, learn []Row, free []netip.Prefix) error {
	if len(learn)+len(free) == 0 {
		return nil
	}
	s, err := openStore(c)
	if err != nil {
		return wrap("open", c.Path, err)
	}
	defer s.close()
	size, err := s.amendable(c)
	if err != nil {
		return wrap("read", c.Path, err)
	}
	if size == 0 {
		return s.amendAll(c, learn, free)
	}
	head := newHeader(c.Here, c.Now)
	head.Table = nil // is not ours to say
	lines := head.append(nil)
	for _, p := range free {
		if k, ok := keyOf(p); ok {
			lines = appendFree(lines, k.prefix())
		}
	}
	for _, r := range learn {
		r, _, ok := r.normalize()
		if !ok {
			return wrap("write", c.Path, fmt.Errorf("%s cannot be remembered", r.Source))
		}
		lines = appendRow(lines, &r, head.Clock(), true)
	}
	if _, err = s.file.Write(lines); err == nil {
		err = unix.Fdatasync(int(s.file.Fd()))
	}
	if err != nil {
		err = errors.Join(err, s.file.Truncate(size)) // or the next line sticks to half of one
	}
	return wrap("write", c.Path, err)
}

// amendable returns the size of a file to which changes can be appended unread.
// It is 0 if there is none, or not of this boot, so that its network namespace
// is not known, or if it does not end in a whole line, or if it has grown by so
// much since it was last rewritten that most of it may be dead.
func (s *store) amendable(c Config) (size int64, err error) {
	if s.file == nil {
		return 0, nil
	}
	info, err := s.file.Stat()
	if err != nil {
		return 0, err
	}
	size = info.Size()
	h, err := s.readHead()
	if err == nil {
		err = h.Origin().check(c.Here)
	}
	if errors.Is(err, errNotHeader) { // it may be ours, and damaged
		return 0, nil
	}
	var end [1]byte
	if err != nil || h.Version < Version || !h.Origin().SameBoot(c.Here) || size > 64<<10+int64(h.Rows)*512 {
		return 0, err
	}
	if _, err := s.file.ReadAt(end[:], size-1); err != nil || end[0] != '\n' {
		return 0, err
	}
	return size, nil
}

// readHead returns the header in the first line, or errNotHeader.
func (s *store) readHead() (h Header, err error) {
	start := make([]byte, maxLine)
	n, _ := s.file.ReadAt(start, 0)
	line, _, ok := bytes.Cut(start[:n], []byte("\n"))
	if !ok {
		return h, errNotHeader
	}
	return h, h.parse(line)
}

// amendAll reads the file, and rewrites it if that changes anything or makes it
// smaller.
func (s *store) amendAll(c Config, learn []Row, free []netip.Prefix) error {
	b, report, err := s.load(c)
	if err == nil {
		err = report.Origin
	}
	if err != nil {
		return wrap("read", c.Path, err)
	}
	s.changed = report.lines > b.Len()
	for _, p := range free {
		b.Free(p)
	}
	for _, r := range learn {
		b.Learn(r)
	}
	return b.Compact(c.Now)
}
